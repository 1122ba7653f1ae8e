"""Answers of trained models to problems that people type in, and how far such answers can be trusted."""
