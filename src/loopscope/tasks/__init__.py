"""Tasks: data, encodings, losses and correctness rules. A task knows no model."""
