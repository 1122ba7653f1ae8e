"""Does the framework predict? Train many models, forecast what each will do, and compare with what it did."""
