"""Numbers and percentages as text."""

from __future__ import annotations

DASH = "–"


def number(value: float | None, digits: int = 2) -> str:
    """Format a number, or None as a dash."""
    return DASH if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Format a fraction as a percentage, or None as a dash."""
    return DASH if value is None else f"{100 * value:.1f}"
