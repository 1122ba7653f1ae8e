"""Orbits: follow them, judge whether they arrive, classify those that do not, and sample the basin of attraction."""
