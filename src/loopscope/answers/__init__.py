"""Answers of trained models to problems that a user types in, and how far they can be trusted."""
