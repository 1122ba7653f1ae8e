"""Tables of models that were trained again, beside their rows in the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.prediction.retraining import Comparison, Retraining
from loopscope.reports.kit.formats import DASH, number
from loopscope.reports.kit.sheet import Sheet


def _machines(runs: Sequence[Comparison]) -> str:
    """Return the machines that the models of the ledger were trained on, each once."""
    known = list(dict.fromkeys(machine for one in runs for machine in one.machines))
    missing = sum(not one.machines for one in runs)
    unsaid = [] if not missing else [f"not recorded for {missing}" if known else "not recorded"]
    return " / ".join([*known, *unsaid])


def _points(one: Comparison, split: str) -> str:
    if split not in one.differences:
        return DASH
    return f"{number(one.differences[split])} ({number(one.last[split])})"


def _sheet(study: str, runs: Sequence[Comparison], here: str) -> Sheet:
    splits = list(dict.fromkeys(name for one in runs for name in one.differences))
    rows = [
        [
            one.run,
            *(_points(one, split) for split in splits),
            one.note or ("yes" if one.exact else "no"),
        ]
        for one in runs
    ]
    return Sheet(
        f"{study}, trained again",
        ["run", *splits, "exactly the same"],
        rows,
        "Largest difference of accuracy from the ledger, in points, over the iterations that it keeps, and in brackets the "
        f"difference at the last iteration. The ledger keeps no losses. Machine of the ledger: {_machines(runs)}. "
        f"This machine: {here}.",
    )


def retraining_sheets(retraining: Retraining) -> list[Sheet]:
    """Return a table of the retrained models of each study."""
    studies: dict[str, list[Comparison]] = {}
    for one in retraining.runs:
        studies.setdefault(one.study, []).append(one)
    return [_sheet(study, runs, retraining.machine) for study, runs in studies.items()]


def retraining_summary(retraining: Retraining) -> str:
    """Return in one line how many models came out the same."""
    return (
        f"{len(retraining.runs)} models trained again: {retraining.exact} exactly the same, {retraining.within} within "
        f"{retraining.tolerance:g} points"
    )
