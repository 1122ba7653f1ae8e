"""Reaching fixed points: solvers that halt each example on its own."""
