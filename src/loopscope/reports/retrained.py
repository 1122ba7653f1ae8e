"""Models that were trained again beside what the ledger says of them."""

from __future__ import annotations

from collections.abc import Sequence

from loopscope.reports.kit.formats import DASH, number
from loopscope.reports.kit.sheet import Sheet
from loopscope.studies.retrain import Comparison, Retraining


def _machines(runs: Sequence[Comparison]) -> str:
    """Return where the rows' models were trained, each machine once."""
    known = list(dict.fromkeys(machine for one in runs for machine in one.machines))
    silent = sum(not one.machines for one in runs)
    unsaid = [] if not silent else [f"not recorded of {silent}" if known else "not recorded"]
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
        "Largest difference of accuracy from the ledger, in points, at the iterations that it keeps (and at the last one); "
        f"it keeps no losses. "
        f"Machine of the ledger: {_machines(runs)}. This one: {here}.",
    )


def retrained_sheets(retraining: Retraining) -> list[Sheet]:
    """Return a table for each study of the models that were trained again."""
    studies: dict[str, list[Comparison]] = {}
    for one in retraining.runs:
        studies.setdefault(one.study, []).append(one)
    return [_sheet(study, runs, retraining.machine) for study, runs in studies.items()]


def summary(retraining: Retraining) -> str:
    """Return in a line how many came out the same."""
    return (
        f"of {len(retraining.runs)} models trained again, {retraining.exact} exactly the same, {retraining.within} within "
        f"{retraining.tolerance:g} points"
    )
