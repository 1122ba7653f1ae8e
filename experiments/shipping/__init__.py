"""Put a trained run into the package as a model that ships with it."""
