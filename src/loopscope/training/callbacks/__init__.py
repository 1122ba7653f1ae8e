"""Watches for the trainers of other libraries: one module for each, which logs through the trackers of that library."""
