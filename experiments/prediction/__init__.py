"""Does the framework predict? Trains many models, forecasts what each will do, and compares this to what it did."""
