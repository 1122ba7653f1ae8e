"""The stages of the experiment: which runs each asks for, given the rows of the stages before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from experiments.mending.cells import (
    PILOT,
    PLAIN,
    STEPS,
    TEST_TIME,
    TEST_TIME_PILOT,
    Cell,
    Option,
    cells,
    options_at,
    pilot_options,
)
from experiments.mending.runs import LEDGER, Run, measured, read_runs
from loopscope.errors import LoopscopeError
from loopscope.files import append_line

SCREENING_SEEDS = (100, 101)
COMPARISON_SEEDS = (1, 2, 3)
COMPARED = 8
"""Number of cells in the comparison."""
PILOTED = 1
"""Number of cells in the pilot."""
SECOND_CELLS = (
    Cell("external", "pre", 0.0043),
    Cell("internal", "outer", 0.0025),
    Cell("internal", "sandwich", 0.002),
)
"""Cells of the second comparison, all with recall: of each watched choice the run that learned and kept least."""
LONGER = 800
"""Training steps of the second comparison."""
MILDER = {"jacobian penalty": 0.1}
"""Strengths of the second comparison that differ from those of the first."""

Task = tuple[str, Cell, Option, int, tuple[float, ...]]
"""Stage, cell, option, seed, and damping at test time."""


def screening(rows: Sequence[Run]) -> Iterator[Task]:
    """Yield the baselines of every cell; for the second seed, of those that lost their accuracy with the first."""
    first, second = SCREENING_SEEDS
    for cell in cells():
        yield "screening", cell, PLAIN, first, ()
    lost = {row.cell for row in rows if row.stage == "screening" and row.seed == first and row.loses}
    for cell in cells():
        if cell in lost:
            yield "screening", cell, PLAIN, second, ()


def chosen_cells(rows: Sequence[Run]) -> list[Cell]:
    """Return the cells of the comparison: those that lost their accuracy with every seed of the screening.

    Of each recall and normalization the rate with the best easy accuracy comes first, the best pairs first; then the other
    rates, in the same order.

    Raises:
        LoopscopeError: there are too few such cells.
    """
    screened = [row for row in rows if row.stage == "screening"]
    easy: dict[Cell, float] = {}
    for cell in cells():
        own = [row for row in screened if row.cell == cell]
        if len(own) == len(SCREENING_SEEDS) and all(row.loses for row in own):
            easy[cell] = mean(row.easy for row in own)
    ordered = sorted(easy, key=lambda cell: -easy[cell])
    pairs: set[tuple[str, str]] = set()
    first: list[Cell] = []
    others: list[Cell] = []
    for cell in ordered:
        (others if (cell.recall, cell.norm) in pairs else first).append(cell)
        pairs.add((cell.recall, cell.norm))
    if len(ordered) < COMPARED:
        raise LoopscopeError(
            f"{len(ordered)} cells lose their accuracy with every seed of the screening, expected at least {COMPARED}: "
            "screen more cells"
        )
    return [*first, *others][:COMPARED]


def pilot(rows: Sequence[Run]) -> Iterator[Task]:
    """Yield every option at every strength, for the first cells of the comparison that have recall, with a seed of the screening."""
    with_recall = [cell for cell in chosen_cells(rows) if cell.recall != "none"][:PILOTED]
    for cell in with_recall:
        yield "pilot", cell, PLAIN, SCREENING_SEEDS[0], TEST_TIME_PILOT
        for option in pilot_options():
            yield "pilot", cell, option, SCREENING_SEEDS[0], ()


def chosen_strengths(rows: Sequence[Run]) -> dict[str, float]:
    """Return the strength of each option that left most accuracy in the pilot; of equal ones the mildest.

    Raises:
        LoopscopeError: the pilot has not been run.
    """
    found = {}
    for name, strengths in {**PILOT, TEST_TIME: TEST_TIME_PILOT}.items():
        left = {
            strength: sum(
                row.left for row in rows if (row.stage, row.option, row.strength) == ("pilot", name, strength)
            )
            for strength in strengths
        }
        if not any(row.stage == "pilot" and row.option == name for row in rows):
            raise LoopscopeError(f"the pilot has no run with {name}: run the pilot first")
        found[name] = max(strengths, key=lambda strength: left[strength])
    return found


def comparison(rows: Sequence[Run]) -> Iterator[Task]:
    """Yield every option at its strength for every chosen cell, seed by seed, the baseline first."""
    strengths = chosen_strengths(rows)
    for seed in COMPARISON_SEEDS:
        for cell in chosen_cells(rows):
            yield "comparison", cell, PLAIN, seed, (strengths[TEST_TIME],)
            for option in options_at(strengths):
                if cell.recall != "none" or not option.needs_recall:
                    yield "comparison", cell, option, seed, ()


def second_comparison(rows: Sequence[Run]) -> Iterator[Task]:
    """Yield what the comparison does, for the cells of the second one, cell by cell, with a milder penalty."""
    strengths = {**chosen_strengths(rows), **MILDER}
    for cell in SECOND_CELLS:
        for seed in COMPARISON_SEEDS:
            yield "second comparison", cell, PLAIN, seed, (strengths[TEST_TIME],)
            for option in options_at(strengths):
                yield "second comparison", cell, option, seed, ()


STAGES = {
    "screening": screening,
    "pilot": pilot,
    "comparison": comparison,
    "second comparison": second_comparison,
}


def fill(path: Path = LEDGER, stages: Sequence[str] = tuple(STAGES)) -> Iterator[Run]:
    """Do the runs of the stages that a ledger lacks, append their rows, and yield them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        while missing := _first_missing(STAGES[stage](read_runs(path)), read_runs(path)):
            for row in measured(*missing, steps=LONGER if stage == "second comparison" else STEPS):
                append_line(path, asdict(row))
                yield row


def _first_missing(tasks: Iterator[Task], rows: Sequence[Run]) -> Task | None:
    known = {row.key for row in rows}
    for stage, cell, option, seed, late in tasks:
        if (stage, cell, option.name, option.strength, seed) not in known:
            return stage, cell, option, seed, late
    return None
