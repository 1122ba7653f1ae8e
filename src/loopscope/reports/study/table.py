"""The table of a study: one row per run, failures included, as text for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from loopscope.reports.kit.formats import DASH, percent
from loopscope.stability.examination import middle
from loopscope.studies.ledger import Record


def split_names(records: Iterable[Record]) -> list[str]:
    """Return the names of all splits that were evaluated, in order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record.evaluation or {}))


def median_radius(examination: dict[str, Any] | None) -> float | None:
    """Return the median spectral radius over the examples looked at."""
    return middle(((examination or {}).get("spectrum") or {}).get("radius"))


def at_fixed_points(examination: dict[str, Any] | None) -> bool:
    """Return whether all of the spectrum was taken at fixed points."""
    places = ((examination or {}).get("spectrum") or {}).get("at_fixed_point", [])
    return bool(places) and all(places)


def _radius(examination: dict[str, Any] | None) -> str:
    radius = median_radius(examination)
    if radius is None:
        return DASH
    return f"{radius:.3f}{'' if at_fixed_points(examination) else '*'}"


def _arrived(examination: dict[str, Any] | None) -> str:
    arrived = ((examination or {}).get("reachability") or {}).get("arrived", [])
    return percent(sum(arrived) / len(arrived)) if arrived else DASH


RADIUS_NOTE = "* taken at a state that is no fixed point; verdicts are provisional while thresholds are priors"


def study_table(records: Iterable[Record]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows: accuracy at the last iteration per split, arrival, radius, verdict, time.

    Args:
        records: the runs, in the order of the rows.
    """
    records = list(records)
    splits = split_names(records)
    columns = ["run", *(f"{name} %" for name in splits), "best %", "at", "arrived %", "radius", "train s", "verdict"]
    rows = []
    for record in records:
        curves = record.evaluation or {}
        hardest = curves.get(splits[-1]) if splits else None
        verdict = (record.examination or {}).get("verdict", DASH)
        rows.append(
            [
                record.run,
                *(percent(curves[name]["last"]) if name in curves else DASH for name in splits),
                percent(hardest["best"]) if hardest else DASH,
                str(hardest["best_iteration"]) if hardest else DASH,
                _arrived(record.examination),
                _radius(record.examination),
                f"{record.seconds['train']:.0f}" if "train" in record.seconds else DASH,
                f"failed: {record.error}" if record.status == "failed" else verdict,
            ]
        )
    return columns, rows
