"""A watch measures a loop while it trains: what it measures, when, and what it does when collapse is forecast."""
