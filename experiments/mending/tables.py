"""The tables of the experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median

from experiments.mending.cells import BASELINE
from experiments.mending.effects import Effect, compared, effects
from experiments.mending.runs import COMPARISONS, HORIZON, Run
from experiments.mending.watched import FAR, SOON, WATCHED, Watched, final_rise, first_rise
from loopscope.reports.kit.formats import DASH
from loopscope.reports.kit.sheet import Sheet


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"


def named(effect: Effect) -> str:
    """Return the option of an effect with its strength."""
    return effect.option if effect.strength is None else f"{effect.option} {effect.strength:g}"


def bought(rows: Sequence[Run]) -> Sheet:
    """Return what each option bought and what it cost."""
    found = effects(rows)
    lines = [
        [
            named(one),
            f"{one.mended} of {len(one.cells)}",
            "{} of {}".format(*one.runs),
            f"{_percent(mean(cell.base_left for cell in one.cells))} → {_percent(one.left)}",
            f"{100 * one.bought:+.0f}",
            f"{100 * -one.cost + 0.0:+.0f}",
            DASH if not one.time else f"{one.time:.2f}",
        ]
        for one in found
    ]
    return Sheet(
        "What each option bought and what it cost",
        [
            "option",
            "cells mended",
            "runs mended",
            f"left at {HORIZON}, %",
            "gained, points",
            "easy accuracy, points",
            "time, ×",
        ],
        lines,
        "Over the cells whose baseline loses its accuracy. Easy accuracy: the change after the trained iterations. Time: CPU time of "
        "training over that of the baseline.",
    )


def by_cell(rows: Sequence[Run]) -> Sheet:
    """Return the accuracy left by cell and option, with that of the baseline and its easy accuracy."""
    some = [row for row in rows if row.stage in COMPARISONS]
    options = effects(rows)
    lines = []
    for cell in dict.fromkeys(row.cell for row in some):
        base = compared(some, cell, BASELINE)
        if base is None:
            continue
        cells = [compared(some, cell, one.option, one.strength) for one in options]
        lines.append(
            [
                str(cell) if base.loses else f"{cell} (keeps its accuracy)",
                str(base.seeds),
                _percent(base.easy),
                _percent(base.left),
                *(DASH if one is None else f"{_percent(one.left)}{'*' if one.mended else ''}" for one in cells),
            ]
        )
    return Sheet(
        f"Accuracy left at iteration {HORIZON}, %",
        ["cell", "seeds", "baseline, easy", "baseline", *map(named, options)],
        lines,
        "Means over the seeds. * mended: at least 90% of the easy accuracy of the baseline.",
    )


def orbits(rows: Sequence[Run]) -> Sheet:
    """Return how the orbits of the baselines end, by cell."""
    some = [row for row in rows if row.orbits]
    labels = list(dict.fromkeys(label for row in some for label in row.orbits))
    cells = dict.fromkeys(row.cell for row in some)
    lines = [
        [
            str(cell),
            *(str(sum(row.orbits.get(label, 0) for row in some if row.cell == cell)) for label in labels),
            ", ".join(row.verdict for row in some if row.cell == cell),
        ]
        for cell in cells
    ]
    columns = ["cell", *labels, "verdict"]
    return Sheet("Orbits of the baselines", columns, lines, "Number of easy problems, with the first seed.")


def pilot(rows: Sequence[Run]) -> Sheet:
    """Return what the pilot found for each strength."""
    some = [row for row in rows if row.stage == "pilot"]
    keys = list(dict.fromkeys((row.option, row.strength) for row in some))
    lines = [
        [
            option if strength is None else f"{option} {strength:g}",
            ", ".join(_percent(row.easy) for row in some if (row.option, row.strength) == (option, strength)),
            ", ".join(_percent(row.left) for row in some if (row.option, row.strength) == (option, strength)),
        ]
        for option, strength in keys
    ]
    cells = "; ".join(dict.fromkeys(str(row.cell) for row in some))
    return Sheet("Pilot", ["option", "easy, %", f"left at {HORIZON}, %"], lines, f"One number per cell: {cells}.")


def screening(rows: Sequence[Run]) -> Sheet:
    """Return every run of the screening."""
    lines = [
        [str(row.cell), str(row.seed), _percent(row.easy), _percent(row.left), "loses" if row.loses else ""]
        for row in rows
        if row.stage == "screening"
    ]
    return Sheet("Screening", ["cell", "seed", "easy, %", f"left at {HORIZON}, %", ""], lines)


Flags = Callable[[Watched], Sequence[bool]]


def _watch_flags(row: Watched) -> Sequence[bool]:
    return row.flags


def _rival_flags(row: Watched) -> Sequence[bool]:
    return row.rival_flags


def _at_the_end(row: Watched) -> Sequence[bool]:
    """Return the flag of running on once, after training."""
    return [*[False] * (len(row.moments) - 1), row.moments[-1].rival_collapses]


def _share_of(places: Sequence[tuple[Watched, int]]) -> str:
    return f"{100 * median(row.share(place) for row, place in places):.0f}" if places else DASH


def _warning(name: str, rows: Sequence[Watched], flags: Flags, seconds: float) -> list[str]:
    lost, kept = [row for row in rows if row.collapses], [row for row in rows if not row.collapses]
    rose = [(row, place) for row in lost if (place := final_rise(flags(row))) is not None]
    early = [place for row, place in rose if row.share(place) <= SOON]
    false = [row for row in kept if final_rise(flags(row)) is not None]
    ever = [row for row in kept if first_rise(flags(row)) is not None]
    return [
        name,
        f"{len(rose)} of {len(lost)}",
        f"{len(false)} of {len(kept)}",
        f"{len(early)} of {len(rose)}",
        _share_of(rose),
        f"{len(ever)} of {len(kept)}",
        f"{seconds:.1f}",
    ]


def warnings(rows: Sequence[Watched]) -> Sheet:
    """Return how often the watch and its rivals warned, rightly and in time."""
    some = [row for row in rows if row.counts]
    watch = mean(sum(moment.seconds for moment in row.moments) for row in some)
    running = mean(sum(moment.rival_seconds for moment in row.moments) for row in some)
    once = mean(row.moments[-1].rival_seconds for row in some)
    lines = [
        _warning("watch", some, _watch_flags, watch),
        _warning(f"running on to {FAR} at the same steps", some, _rival_flags, running),
        _warning(f"running on to {FAR} after training", some, _at_the_end, once),
    ]
    training = mean(row.seconds for row in some)
    return Sheet(
        "Warnings while training",
        [
            "what warns",
            "collapses, flag up at the end",
            "keeps, flag up at the end",
            f"right, and up by {100 * SOON:.0f}% of training",
            "rose for good at, median %",
            "keeps, flag ever up",
            "CPU seconds",
        ],
        lines,
        f"{len(some)} of {len(rows)} runs learned their task; training took {training:.1f} CPU seconds on average. The warnings see "
        f"{WATCHED} problems, the outcome is that of the others.",
    )


def watched_runs(rows: Sequence[Watched]) -> Sheet:
    """Return every watched run: its outcome, and when the flag rose."""

    def when(row: Watched, place: int | None) -> str:
        return DASH if place is None else f"{100 * row.share(place):.0f}"

    lines = [
        [
            str(row.cell),
            _percent(row.easy),
            _percent(row.left / row.best) if row.best else DASH,
            "does not count" if not row.counts else "collapses" if row.collapses else "keeps",
            when(row, first_rise(row.flags)),
            when(row, final_rise(row.flags)),
            when(row, final_rise(row.rival_flags)),
        ]
        for row in rows
    ]
    columns = [
        "recall, normalization, rate",
        "easy, %",
        f"kept at {FAR}, %",
        "outcome",
        "flag first up, %",
        "flag up for good, %",
        "running on, up for good, %",
    ]
    return Sheet("Watched runs", columns, lines, "Flags: share of training at which they rose.")


def all_tables(runs: Sequence[Run], watched: Sequence[Watched]) -> list[Sheet]:
    """Return every table that the ledgers have rows for.

    Args:
        runs: rows of the comparison and the stages before it.
        watched: rows of the watched runs.
    """
    made = [bought(runs), by_cell(runs), orbits(runs)] if effects(runs) else []
    if any(row.counts for row in watched):
        made += [warnings(watched), watched_runs(watched)]
    stages = {row.stage for row in runs}
    made += [table(runs) for stage, table in (("pilot", pilot), ("screening", screening)) if stage in stages]
    return made
