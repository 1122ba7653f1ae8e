"""Numbers and percentages as text."""

from __future__ import annotations

DASH = "–"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number, or a dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Return a fraction as a percentage, or a dash where there is none."""
    return DASH if value is None else f"{100 * value:.1f}"
