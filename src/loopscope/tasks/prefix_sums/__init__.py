"""Prefix sums modulo 2."""
