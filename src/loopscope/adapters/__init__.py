"""Any other model as a loop."""
