"""The paper's claims beside the counts of the prediction experiment's population."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import isclose
from statistics import mean
from typing import Any

import numpy as np

from experiments.paper.tables import NORMS
from experiments.prediction.analysis.breakdowns import Ended, grouped
from experiments.prediction.analysis.outcomes import Outcome, results_of
from experiments.prediction.analysis.predictors import AXES, GEOMETRY, REACHABILITY
from experiments.prediction.analysis.statistics import estimate_auc, estimate_lead, numbered
from experiments.prediction.analysis.thresholds import axes_of
from experiments.prediction.population import Member
from experiments.prediction.report.estimates import interval
from experiments.prediction.signals import POWER_ITERATION, STATE_RADIUS
from loopscope.reports.kit.formats import DASH
from loopscope.reports.kit.sheet import Sheet
from loopscope.reports.kit.styles import RECALLS
from loopscope.stability.verdict import Status

TASKS = ("prefix-sums", "small-sudoku", "chess")
FAR_APART = 0.5
"""Two seeds end far apart if their hard accuracies at the last iteration differ by more than this."""
PILOTS_RATE = 1e-3
"""The one learning rate at which both the pilot of the paper's authors and this population were trained."""


def _of(ended: Iterable[Ended], recall: str | None = None, norm: str | None = None) -> list[Ended]:
    return [one for one in ended if one[0].looped and recall in (None, one[0].recall) and norm in (None, one[0].norm)]


def _share(counted: Sequence[Any], which: Callable[[Any], bool]) -> str:
    return f"{sum(map(which, counted))} of {len(counted)}" if counted else DASH


def _extrapolates(one: Ended) -> bool:
    return one[1].outcome is Outcome.EXTRAPOLATES


def _holds(one: Ended, axes: Sequence[str]) -> bool:
    examined = one[0].examination
    found = {axis.name: axis.status for axis in axes_of(examined)} if examined else {}
    return bool(found) and all(found[name] is Status.HOLDS for name in axes)


def _hard(ended: Sequence[Ended]) -> str:
    return f"{100 * mean(result.hard or 0.0 for _, result in ended):.1f}%" if ended else DASH


def _with_recall(ended: Sequence[Ended], norm: str | None = None) -> list[Ended]:
    return [one for recall in RECALLS[:2] for one in _of(ended, recall, norm)]


def _numbers(ended: Sequence[Ended], name: str) -> list[tuple[Ended, float]]:
    """Return the models in which a number of the examination was measured, each with that number."""
    numbers = [(one, one[0].examination.get("numbers", {}).get(name)) for one in ended]
    return [(one, number) for one, number in numbers if number is not None]


def _measured(ended: Sequence[Ended], name: str, which: Callable[[float], bool]) -> str:
    """Return of how many models a number of the examination is such, of those in which it was measured."""
    return _share(_numbers(ended, name), lambda known: which(known[1]))


def _moved(ended: Sequence[Ended]) -> str:
    """Return in how many models the recalled input moves any fixed point."""
    return _measured(ended, "fraction moved", lambda moved: moved > 0)


def _shared(ended: Sequence[Ended]) -> str:
    """Return in how many models without recall all inputs have the same fixed point."""
    return _measured(_of(ended, "none"), "fraction shared", lambda shared: shared == 1)


def _chosen_by_the_start(ended: Sequence[Ended]) -> str:
    """Return in how many models without recall the start chooses among fixed points, and how many of these extrapolate."""
    known = _numbers(_of(ended, "none"), "fraction shared")
    chosen = [one for one, shared in known if shared < 1]
    return f"{len(chosen)} of {len(known)} ({sum(map(_extrapolates, chosen))})" if known else DASH


def _without_recall(ended: Sequence[Ended]) -> str:
    none = _share(_of(ended, "none"), _extrapolates)
    return f"{none} extrapolate, with recall {_share(_with_recall(ended), _extrapolates)}"


def _input_moves(ended: Sequence[Ended]) -> str:
    return f"{_moved(_of(ended, 'none'))}, with recall {_moved(_with_recall(ended))}"


def _outer_holds(*axes: str) -> Callable[[Sequence[Ended]], str]:
    def cell(ended: Sequence[Ended]) -> str:
        counts = [_share(_of(ended, recall, "outer"), lambda one: _holds(one, axes)) for recall in RECALLS[:2]]
        return f"internal {counts[0]}, external {counts[1]}"

    return cell


def _paired(groups: Sequence[Sequence[Ended]]) -> list[list[Ended]]:
    """Return the models of each group whose settings, all but the recall, some model of every group has."""
    settings = [[member.settings_but("model", "recall") for member, _ in group] for group in groups]
    common = set.intersection(*map(set, settings))
    return [
        [one for one, own in zip(group, named, strict=True) if own in common]
        for group, named in zip(groups, settings, strict=True)
    ]


def _internal_and_external(norm: str) -> Callable[[Sequence[Ended]], str]:
    def cell(ended: Sequence[Ended]) -> str:
        groups = _paired([_of(ended, recall, norm) for recall in RECALLS[:2]])
        if not all(groups):
            return DASH
        parts = [f"{_hard(group)} ({_share(group, _extrapolates)})" for group in groups]
        return f"internal {parts[0]}, external {parts[1]}"

    return cell


def _fixed_depth(ended: Sequence[Ended]) -> str:
    baselines = [one for one in ended if not one[0].looped]
    looped = [f"{recall} {_hard(_of(ended, recall))}" for recall in RECALLS[:2]]
    return f"{', '.join(looped)}, fixed depth {_hard(baselines)}"


def _best_at_the_pilots_rate(ended: Sequence[Ended]) -> str:
    """Return the mean best hard accuracy of models with recall, by normalization, at the one rate of the pilot and here."""
    parts = []
    for norm in NORMS:
        members = [member for member, _ in _with_recall(ended, norm)]
        at_rate = [member for member in members if isclose(member.learning_rate, PILOTS_RATE)]
        best = [member.hard.best for member in at_rate if member.hard]
        if best:
            parts.append(f"{norm} {100 * mean(best):.1f}% ({len(best)})")
    return ", ".join(parts) or DASH


def _seeds_apart(ended: Sequence[Ended]) -> str:
    """Return how many pairs of neighbouring seeds of a configuration end far apart, with and without recall."""
    counts = _pairs_apart(_with_recall(ended)), _pairs_apart(_of(ended, "none"))
    return counts[0] if counts[1] == DASH else f"{counts[0]}, without recall {counts[1]}"


def _pairs_apart(ended: Sequence[Ended]) -> str:
    groups = grouped(ended, lambda member: member.configuration).values()
    hard = [[result.hard or 0.0 for _, result in group] for group in groups]
    pairs = [abs(first - second) for values in hard for first, second in pairwise(values)]
    return f"{sum(gap > FAR_APART for gap in pairs)} of {len(pairs)}" if pairs else DASH


CLAIMS: dict[str, Callable[[Sequence[Ended]], str]] = {
    "without recall: models that extrapolate": _without_recall,
    "without recall: models in which another recalled input moves a fixed point": _input_moves,
    "without recall: models in which all inputs share one fixed point": _shared,
    "without recall: models in which the start chooses among fixed points (of these, extrapolate)": _chosen_by_the_start,
    "recall with outer normalization: reachability holds": _outer_holds(REACHABILITY),
    "recall with outer normalization: reachability and geometry hold": _outer_holds(REACHABILITY, GEOMETRY),
    "recall with outer normalization: all three axes hold": _outer_holds(*AXES),
    **{
        f"internal and external recall with {norm}, other settings equal: mean hard accuracy (models that extrapolate)": count
        for norm, count in zip(NORMS, map(_internal_and_external, NORMS), strict=True)
    },
    "with recall, learning rate 1e-3: mean best hard accuracy (models)": _best_at_the_pilots_rate,
    "looped and fixed depth: mean hard accuracy": _fixed_depth,
    f"seeds: pairs whose hard accuracies end more than {100 * FAR_APART:.0f} points apart": _seeds_apart,
}
"""What is counted, by name, and the function that counts it among the models of one task."""


def claims(members: Sequence[Member]) -> Sheet:
    """Return the counts behind the paper's claims, a column for each task."""
    by_task = grouped(zip(members, results_of(members), strict=True), lambda member: member.task)
    rows = [[name, *(count(by_task.get(task, [])) for task in TASKS)] for name, count in CLAIMS.items()]
    return Sheet("The paper's claims, counted", ["what is counted", *TASKS], rows, "Accuracy is at the last iteration.")


def radius_areas(members: Sequence[Member]) -> Sheet:
    """Return how well a radius separates models that retain their accuracy, among models that solve their task.

    Both radii are compared on the same models, those that have both, and the Jacobian's lead on the same resamples.
    """
    members = [member for member in members if member.looped]
    results = results_of(members)
    kept = [
        place
        for place, (member, result) in enumerate(zip(members, results, strict=True))
        if result.solves and None not in (member.signal(STATE_RADIUS), member.signal(POWER_ITERATION))
    ]
    retains = np.array([results[place].retains for place in kept], dtype=bool)
    groups = numbered([member.configuration for member in members])[kept]
    state, jacobian = (
        -np.array([members[place].signal(signal) for place in kept], dtype=float)
        for signal in (STATE_RADIUS, POWER_ITERATION)
    )
    tasks = np.array([members[place].task for place in kept])
    parts = [np.ones(len(kept), dtype=bool), *(tasks == task for task in TASKS)]
    columns = []
    for part in parts:
        first, second, ends, own = state[part], jacobian[part], retains[part], groups[part]
        areas = [
            estimate_auc(first, ends, own),
            estimate_auc(second, ends, own),
            estimate_lead(second, first, ends, own),
        ]
        columns.append([interval(area) for area in areas])
    names = ["W_state", "the step's Jacobian, by power iteration", "the lead of the Jacobian"]
    rows = [list(row) for row in zip(names, *columns, strict=True)]
    caption = f"{len(kept)} models with recall that solve their task. A smaller radius should mean retained accuracy."
    return Sheet(
        "Radius and retained accuracy",
        ["area under the ROC curve, of the radius of", "all tasks", *TASKS],
        rows,
        caption,
    )
