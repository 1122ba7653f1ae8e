"""What each option against collapse bought and what it cost, counted over the cells that lose their accuracy without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from experiments.mending.cells import BASELINE, Cell
from experiments.mending.runs import COMPARISONS, KEPT, Run


@dataclass(frozen=True)
class CellEffect:
    """One option on one cell, means over the seeds that both it and the baseline have.

    Args:
        cell: the cell.
        option: the option.
        strength: its strength; None if it has none.
        seeds: number of seeds.
        base_easy: easy accuracy of the baseline.
        base_left: accuracy that the baseline has left.
        easy: easy accuracy with the option.
        left: accuracy left with the option.
        time: CPU time of training over that of the baseline; 0 if every run of either diverged.
        runs: number of seeds whose baseline has learned and loses its accuracy.
        runs_mended: number of these with which the option leaves 90% of the easy accuracy of the baseline.
    """

    cell: Cell
    option: str
    strength: float | None
    seeds: int
    base_easy: float
    base_left: float
    easy: float
    left: float
    time: float
    runs: int
    runs_mended: int

    @property
    def loses(self) -> bool:
        """Whether the baseline loses its accuracy."""
        return self.base_left < KEPT * self.base_easy

    @property
    def mended(self) -> bool:
        """Whether the option keeps what the baseline loses."""
        return self.loses and self.left >= KEPT * self.base_easy


@dataclass(frozen=True)
class Effect:
    """One option over all cells that lose their accuracy without it.

    Args:
        option: the option.
        strength: its strength; None if it has none.
        cells: its effect on each of these cells.
    """

    option: str
    strength: float | None
    cells: tuple[CellEffect, ...]

    @property
    def mended(self) -> int:
        """Number of cells that it mends."""
        return sum(one.mended for one in self.cells)

    @property
    def runs(self) -> tuple[int, int]:
        """Number of runs that it mends, and of runs whose baseline has learned and loses its accuracy."""
        return sum(one.runs_mended for one in self.cells), sum(one.runs for one in self.cells)

    @property
    def left(self) -> float:
        """Mean accuracy left."""
        return mean(one.left for one in self.cells)

    @property
    def bought(self) -> float:
        """Mean gain in accuracy left."""
        return mean(one.left - one.base_left for one in self.cells)

    @property
    def cost(self) -> float:
        """Mean loss of easy accuracy."""
        return mean(one.base_easy - one.easy for one in self.cells)

    @property
    def time(self) -> float:
        """Mean ratio of the CPU time of training."""
        return mean(one.time for one in self.cells)

    @property
    def works(self) -> bool:
        """Whether it mends at least half of the cells."""
        return 2 * self.mended >= len(self.cells)


def compared(rows: Sequence[Run], cell: Cell, option: str, strength: float | None = None) -> CellEffect | None:
    """Return the effect of an option on a cell; None if no seed has both it and the baseline.

    Args:
        rows: rows of comparisons.
        cell: the cell.
        option: the option; the baseline itself gives a comparison with itself.
        strength: its strength.
    """
    own = {row.seed: row for row in rows if (row.cell, row.option, row.strength) == (cell, option, strength)}
    base = {row.seed: row for row in rows if row.cell == cell and row.option == BASELINE}
    seeds = sorted(own.keys() & base.keys())
    if not seeds:
        return None
    finished = [seed for seed in seeds if own[seed].seconds and base[seed].seconds]
    lost = [seed for seed in seeds if base[seed].loses]
    spent = sum(base[seed].seconds for seed in finished)
    return CellEffect(
        cell,
        option,
        strength,
        len(seeds),
        mean(base[seed].easy for seed in seeds),
        mean(base[seed].left for seed in seeds),
        mean(own[seed].easy for seed in seeds),
        mean(own[seed].left for seed in seeds),
        sum(own[seed].seconds for seed in finished) / spent if spent else 0.0,
        len(lost),
        sum(own[seed].left >= KEPT * base[seed].easy for seed in lost),
    )


def effects(rows: Sequence[Run]) -> list[Effect]:
    """Return the effect of each option at each strength, the best first: by the share of cells mended, then by the accuracy left.

    Args:
        rows: rows of a ledger. Only those of comparisons count.
    """
    some = [row for row in rows if row.stage in COMPARISONS]
    cells = list(dict.fromkeys(row.cell for row in some))
    found = []
    for option, strength in dict.fromkeys((row.option, row.strength) for row in some if row.option != BASELINE):
        on_cells = [one for cell in cells if (one := compared(some, cell, option, strength)) is not None and one.loses]
        if on_cells:
            found.append(Effect(option, strength, tuple(on_cells)))
    return sorted(found, key=lambda one: (-one.mended / len(one.cells), -one.left))
