"""The table of a study: one row per run, failures included, as text for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterable

from loopscope.reports.kit.formats import DASH, percent
from loopscope.stability import Examination
from loopscope.stability.results import middle
from loopscope.studies.ledger import Record


def split_names(records: Iterable[Record]) -> list[str]:
    """Return the names of all splits that were evaluated, in order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record.evaluation or {}))


def median_radius(exam: Examination | None) -> float | None:
    """Return the median spectral radius over the inputs where it was measured, or None where it was not."""
    return None if exam is None or exam.spectrum is None else middle(exam.spectrum.radius)


def at_fixed_points(exam: Examination | None) -> bool:
    """Return whether every radius was measured at a fixed point."""
    places = [] if exam is None or exam.spectrum is None else exam.spectrum.at_fixed_point
    return bool(places) and all(places)


def _radius(exam: Examination | None) -> str:
    radius = median_radius(exam)
    if radius is None:
        return DASH
    return f"{radius:.3f}{'' if at_fixed_points(exam) else '*'}"


def _arrived(exam: Examination | None) -> str:
    arrived = [] if exam is None else exam.reachability.arrived
    return percent(sum(arrived) / len(arrived)) if arrived else DASH


RADIUS_NOTE = (
    "* measured at a state that had not arrived at a fixed point. Verdicts are provisional while any of their thresholds "
    "was set by reasoning alone"
)


COLUMNS = ("best %", "best at iteration", "arrived %", "spectral radius", "training s", "verdict")
"""The columns after those of the splits."""


def study_table(records: Iterable[Record]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows: accuracy at the last iteration per split, arrival, radius, time and verdict.

    Args:
        records: the runs, in the order of the rows.
    """
    records = list(records)
    splits = split_names(records)
    columns = ["run", *(f"{name} %" for name in splits), *COLUMNS]
    rows = []
    for record in records:
        curves = record.evaluation or {}
        hardest = curves.get(splits[-1]) if splits else None
        verdict = DASH if record.exam is None else record.exam.verdict.value
        rows.append(
            [
                record.run,
                *(percent(curves[name]["last"]) if name in curves else DASH for name in splits),
                percent(hardest["best"]) if hardest else DASH,
                str(hardest["best_iteration"]) if hardest and hardest["best"] else DASH,
                _arrived(record.exam),
                _radius(record.exam),
                f"{record.seconds['train']:.0f}" if "train" in record.seconds else DASH,
                f"failed: {record.error}" if record.status == "failed" else verdict,
            ]
        )
    return columns, rows
