"""What an examination of a time-dependent or stochastic loop found, as typed plain values that go to JSON and back.

See `loopscope.stability.results` for what lists and None stand for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from loopscope.kinds import Kind
from loopscope.stability.results import Numbers, known

WIDEST = 0.9
"""The growth that decides is this quantile over the inputs, as for the spectral radius of autonomous loops."""

HISTORY = (
    "its readout reads the history of states, so answers may change after the state has arrived; norms, residuals and Jacobians "
    "are those of the state without it"
)
"""What is said of a loop whose readout reads the history."""


@dataclass(frozen=True)
class KindResult:
    """What kind of loop was examined.

    Args:
        name: autonomous, time-dependent, stochastic, or time-dependent and stochastic.
        told_by: how the loop says so; empty for an autonomous loop.
        undefined: what is not defined for such a loop, and what is measured instead; empty where all is defined.
        reads_history: whether the readout reads a history that is carried in the state.
    """

    name: Kind = Kind.AUTONOMOUS
    told_by: str = ""
    undefined: str = ""
    reads_history: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the loop is autonomous and reads the last state alone, so that nothing need be said of its kind."""
        return self.name is Kind.AUTONOMOUS and not self.reads_history

    @property
    def sentence(self) -> str:
        """The kind, how the loop says so, and what is not defined."""
        told = f"{self.name}, since {self.told_by}" if self.told_by else f"{self.name}"
        return "; ".join(part for part in (told, self.undefined, HISTORY if self.reads_history else "") if part)


@dataclass(frozen=True)
class KeptResult:
    """How many answers of one iteration remain at later ones.

    Args:
        reference: the iteration whose answers are compared with later ones: the last one of training where it is known,
            else half of the budget.
        kept: fraction of the inputs whose answer is that of ``reference``, per iteration from the first on; None before it,
            and where an expensive readout was left out. The mean over draws.
        draws: the same over the last 8 iterations, per draw of the noise; one entry where nothing is drawn.
        agreement: fraction of the inputs whose last answer is the same in all draws; None where nothing is drawn.
    """

    reference: int
    kept: Numbers
    draws: list[float]
    agreement: float | None = None

    @property
    def at_end(self) -> float:
        """The fraction kept at the end, the mean over draws."""
        return sum(self.draws) / len(self.draws)


@dataclass(frozen=True)
class ExponentsResult:
    """Exponents of the product of Jacobians along the orbits, in natural logarithms per iteration.

    Args:
        rows: which inputs.
        values: the largest exponents of each row, largest first.
        error: half width of the 95% interval of each.
        growth: factor by which errors in the fastest growing direction grow in each iteration: three quantiles over the rows.
        first: the iterations before this one do not count in the exponents.
        counted: the number of iterations that count, per row.
    """

    rows: list[int]
    values: list[Numbers]
    error: list[Numbers]
    growth: list[Numbers]
    first: int
    counted: list[int]

    @property
    def largest(self) -> Numbers:
        """The largest exponent of each row."""
        return [values[0] for values in self.values]

    @property
    def factor(self) -> float | None:
        """The factor per iteration by which small errors grow: of the largest exponents, the 90% quantile over rows."""
        found = known(self.largest)
        return float(np.exp(np.quantile(found, WIDEST))) if found else None

    @property
    def factor_error(self) -> float | None:
        """Half width of the 95% interval of ``factor``."""
        errors, factor = known([error[0] for error in self.error]), self.factor
        return float(factor * np.median(errors)) if errors and factor is not None else None


@dataclass(frozen=True)
class NoiseResult:
    """How large the noise of a stochastic step is.

    Args:
        step: root mean square distance of one step's results from their mean over draws, relative to the state, per input.
        residual: the relative residual at which the orbit levels off: its median over the last quarter of the iterations.
    """

    step: Numbers
    residual: Numbers


@dataclass(frozen=True)
class NonautonomousResult:
    """What is defined for a loop without a single map.

    Args:
        answers: how many answers are kept.
        exponents: growth of small errors along the orbit.
        swapped_at: the iteration at which inputs were swapped (see ``SwapResult``); None where they were not.
        contraction: factor per iteration by which an orbit, started at the swap from another input's state, approaches the
            input's own; per swapped input.
        noise: size of the noise; None where nothing is drawn.
        parts: spectral radii of parts of the step, as the loop itself states them (``part_radii``).
    """

    answers: KeptResult | None = None
    exponents: ExponentsResult | None = None
    swapped_at: int | None = None
    contraction: Numbers = field(default_factory=list)
    noise: NoiseResult | None = None
    parts: dict[str, float] = field(default_factory=dict)
