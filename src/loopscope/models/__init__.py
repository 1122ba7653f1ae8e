"""Looped transformers whose recall and normalization are switches, and the fixed-depth baseline."""
