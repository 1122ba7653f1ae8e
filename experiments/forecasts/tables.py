"""The tables of the experiment: forecasts and rivals against outcomes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import mean, median

from scipy.stats import binomtest

from experiments.forecasts.families import Role
from experiments.forecasts.outcomes import HORIZON
from experiments.forecasts.population import RUNS, Row
from loopscope.reports.kit.sheet import Sheet

KEEPS, COLLAPSES = "keeps", "collapses"
UNCHECKED = 30
"""Number of true steps in a forecast by leaps without a check."""
LATE = RUNS[-1]
"""A collapse after this iteration counts as late, since running on to it does not show the collapse."""


def share(count: int, total: int) -> str:
    """Return a count out of a total as a percentage with its 95% Wilson interval."""
    if total == 0:
        return "-"
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return f"{100 * count / total:.0f}% [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def counted(count: int, total: int) -> str:
    """Return a count out of a total with its share and interval."""
    return f"{count} of {total}, {share(count, total)}" if total else "0 of 0"


def decided(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with a forecast other than "cannot tell"."""
    return [row for row in rows if row.outlook in (KEEPS, COLLAPSES)]


def right(row: Row) -> bool:
    """Return whether a forecast came true."""
    return (row.outlook == KEEPS) == row.outcome.keeps


def _counts(name: str, rows: Sequence[Row]) -> list[str]:
    said = decided(rows)
    return [
        name,
        str(len(rows)),
        str(sum(row.outcome.keeps for row in rows)),
        counted(len(said), len(rows)),
        counted(sum(map(right, said)), len(said)),
        *(_right_of(outlook, said) for outlook in (KEEPS, COLLAPSES)),
        f"{100 * mean(row.steps for row in rows) / HORIZON:.0f} ({100 * max(row.steps for row in rows) / HORIZON:.0f})",
    ]


def _right_of(outlook: str, rows: Sequence[Row]) -> str:
    such = [row for row in rows if row.outlook == outlook]
    return f"{sum(map(right, such))} of {len(such)}"


def by_family(rows: Sequence[Row], title: str) -> Sheet:
    """Return how often forecasts were right, by family."""
    names = list(dict.fromkeys(row.training.family for row in rows))
    groups = {name: [row for row in rows if row.training.family == name] for name in names}
    plain = [row for row in rows if row.damping is None]
    late = [row for row in rows if row.damping is not None]
    lines = [_counts(name, group) for name, group in groups.items()]
    lines += [_counts(name, some) for name, some in (("undamped", plain), ("damped", late), ("all", rows)) if some]
    columns = [
        "family",
        "loops",
        "keep",
        "decided",
        "right of decided",
        '"keeps" right',
        '"collapses" right',
        "cost, %",
    ]
    return Sheet(title, columns, lines, "Cost: mean (largest) share of the true steps of running on to 480 iterations.")


def rivals(rows: Sequence[Row], title: str) -> Sheet:
    """Return how often the forecast and its rivals were right on the decided loops, and the rivals on all loops."""
    said = decided(rows)
    spent = f"{100 * mean(row.steps for row in said) / HORIZON:.0f}" if said else "-"
    lines = [_verdicts("forecast, decided loops", [row.outlook == KEEPS for row in said], said, spent)]
    for scope, some in (("decided loops", said), ("all loops", rows)):
        for steps in RUNS:
            says = [row.runs[str(steps)] for row in some]
            lines.append(_verdicts(f"running on to {steps}, {scope}", says, some, f"{100 * steps / HORIZON:.0f}"))
        says = [row.unchecked for row in some]
        lines.append(_verdicts(f"leaps without a check, {scope}", says, some, f"{100 * UNCHECKED / HORIZON:.0f}"))
    columns = ["what says it", "right", '"keeps" right', f"collapses after {LATE} seen", "cost, %"]
    return Sheet(title, columns, lines)


def _verdicts(name: str, keeps: Sequence[bool], rows: Sequence[Row], cost: str) -> list[str]:
    pairs = list(zip(keeps, rows, strict=True))
    keeping = [row.outcome.keeps for says, row in pairs if says]
    late = [not says for says, row in pairs if _late(row)]
    right_ones = sum(says == row.outcome.keeps for says, row in pairs)
    cells = [counted(right_ones, len(rows)), f"{sum(keeping)} of {len(keeping)}", f"{sum(late)} of {len(late)}"]
    return [name, *cells, cost]


def _late(row: Row) -> bool:
    return not row.outcome.keeps and row.outcome.onset is not None and row.outcome.onset > LATE


def mistakes(rows: Sequence[Row], title: str) -> Sheet:
    """Return the loops for which the forecast was wrong or could not tell."""
    lines = [
        [
            row.training.family,
            f"{row.training.seed}, {row.training.rate:g}, {row.training.schedule}",
            "-" if row.damping is None else f"{row.damping:g}",
            row.outlook,
            f"{100 * row.rounds[-1]['least']:.0f} to {100 * row.rounds[-1]['most']:.0f}",
            f"{100 * row.outcome.retained:.0f}",
            "-" if row.outcome.onset is None else str(row.outcome.onset),
        ]
        for row in sorted(rows, key=lambda row: row.outlook)
        if row not in (said := decided([row])) or not right(said[0])
    ]
    columns = ["family", "seed, rate, schedule", "damping", "forecast", "expected left, %", "left, %", "collapse at"]
    return Sheet(title, columns, lines)


def clock(rows: Sequence[Row]) -> str:
    """Return a sentence on how far the forecast iteration of a collapse is from the true one."""
    errors = [
        abs(math.log2(row.collapse / row.outcome.onset))
        for row in rows
        if row.collapse and row.outcome.onset and not row.outcome.keeps
    ]
    if not errors:
        return "No collapse was forecast."
    factor = 2 ** median(errors)
    return (
        f"The iteration of a collapse is forecast within a factor of {factor:.2f} in the median of {len(errors)} loops."
    )


TITLES: dict[Role, str] = {
    "fourth test": "fourth test: families that nothing was set on",
    "third test": "families of the third test, on which the present version was developed too",
    "second test": "families of the second test, on which the present version was developed too",
    "first test": "families of the first test, on which the present version was developed too",
    "development": "families that the forecast was developed on",
}


def tables(rows: Sequence[Row]) -> list[Sheet]:
    """Return every table of a ledger."""
    made = []
    for role, name in TITLES.items():
        trained = [row for row in rows if row.role == role]
        some = [row for row in trained if row.counts]
        if not some:
            continue
        sheet = by_family(some, f"Forecasts, {name}")
        left_out = f"{len(trained) - len(some)} of {len(trained)} loops did not learn their task and do not count."
        made.append(replace(sheet, caption=f"{sheet.caption} {clock(some)} {left_out}"))
        made.append(rivals(some, f"Rivals, {name}"))
        made.append(mistakes(some, f"Wrong or undecided, {name}"))
    return made
