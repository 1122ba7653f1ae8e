"""Sudoku on boards of nine by nine and smaller."""
