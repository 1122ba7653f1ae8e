"""Results of the parts of an examination, as typed plain values that convert to JSON and back.

Lists have one entry per input, in the order of the examined inputs. If a part has ``rows`` (positions among the examined
inputs), its lists have one entry per row. None stands for what could not be computed or does not apply. Quantiles are taken
over the inputs: 10%, 50%, 90%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Numbers = list[float | None]
"""One number per input or per iteration; None if it is unknown."""
Effort = Literal["quick", "standard", "thorough"]


def known(values: Sequence[float | None] | None) -> list[float]:
    """Return the numbers that are known."""
    return [value for value in values or [] if value is not None]


def reached_by(iterations: Sequence[float | None], fraction: float) -> float | None:
    """Return the iteration by which this fraction of the inputs is done, or None if fewer are done in the end.

    Args:
        iterations: iteration at which each input was done; None if it never was.
        fraction: fraction of the inputs, above 0.
    """
    done = sorted(known(iterations))
    place = math.ceil(fraction * len(iterations)) - 1
    return done[place] if 0 <= place < len(done) else None


def middle(values: Sequence[float | None] | None) -> float | None:
    """Return the median of the known numbers, or None if there are none."""
    numbers = known(values)
    return median(numbers) if numbers else None


@dataclass(frozen=True)
class NoiseFloorResult:
    """The smallest residual that an orbit can be expected to reach, given the rounding of the step.

    Args:
        error: relative rounding error of one evaluation of the step, as a root mean square.
        residual: largest relative residual that may be rounding.
        precision: floating type that rounds like the step, such as bfloat16; the state's own type unless the step is coarser.
    """

    error: float
    residual: float
    precision: str


@dataclass(frozen=True)
class Settings:
    """What was examined, and how.

    Args:
        effort: quick, standard or thorough.
        inputs: number of inputs whose orbits were followed.
        given: number of inputs that ``examine`` was given.
        swapped: number of inputs for swaps, counts of fixed points and gradients.
        jacobians: number of inputs whose Jacobian and basin were measured.
        iterations: largest number of iterations of every orbit.
        tolerance: relative residual within which a state may count as arrived.
        prediction: whether this was prediction mode, in which no orbit goes beyond the trained number of iterations.
        trained_iterations: largest number of iterations in training, if known.
        seed: seed of every random start and direction.
        dtype: precision of the state, such as float32.
        numbers_per_state: count of floating numbers in the state of one input.
        accuracy: fraction of answers that are right at the end; None without targets.
        answers_per: whether answers are counted by "example" or, for a language model, by "token".
        noise_floor: measured rounding of the step; None if no state stayed finite or there was no time.
    """

    effort: Effort
    inputs: int
    given: int
    swapped: int
    jacobians: int
    iterations: int
    tolerance: float
    prediction: bool
    trained_iterations: int | None
    seed: int
    dtype: str
    numbers_per_state: int
    accuracy: float | None
    answers_per: Literal["example", "token"] = "example"
    noise_floor: NoiseFloorResult | None = None


@dataclass(frozen=True)
class Curves:
    """Quantities along the orbits, with one entry per iteration.

    Args:
        residual: relative residual of the state: three lists, one per quantile.
        norm: norm of the state, in the state's units: three lists, one per quantile.
        read_residual: relative residual of the readout: three lists, one per quantile. None after iterations at which an expensive
            readout was left out.
        prediction_changes: mean fraction of predictions that changed in this iteration, or since the last one that was read.
        accuracy: fraction of answers that are right; None without targets.
    """

    residual: list[Numbers]
    norm: list[Numbers]
    read_residual: list[Numbers]
    prediction_changes: Numbers
    accuracy: Numbers | None


@dataclass(frozen=True)
class ReachabilityResult:
    """Whether each input's orbit arrives at a fixed point, and what it does instead.

    Args:
        arrived: whether the orbit arrived.
        iterations_to_tolerance: iterations until the residual stays within the tolerance; None if it never does.
        rate: factor by which the residual shrinks per iteration, over the last 8 iterations above rounding.
        rate_error: half width of the rate's 95% interval.
        distance_left: residual / (1 - rate), the relative distance that remains to the fixed point.
        norm: norm of the last state, in the state's units.
        start_norm: norm of the first state.
        labels: fixed point, cycle, drift, quasi-periodic, chaotic, diverging or undecided.
        reasons: the evidence for each label, in words.
        period: 1 for a fixed point, the period of a cycle, else 0.
        lyapunov: largest Lyapunov exponent per iteration; measured only for orbits that have no simpler label.
        lyapunov_error: half width of the exponent's 95% interval.
        growth: growth of log norm per iteration, at the end.
        left_at: iteration at which the orbit left a fixed point that it had come near; 0 if it never did.
        counts: number of inputs by label.
        readout_broken_at: first iteration at which a number of the readout turned NaN or infinite; 0 if none did.
        answered: whether the readout gives an answer at the end. A readout with NaN does not.
    """

    arrived: list[bool]
    iterations_to_tolerance: Numbers
    rate: Numbers
    rate_error: Numbers
    distance_left: Numbers
    norm: Numbers
    start_norm: Numbers
    labels: list[str]
    reasons: list[str]
    period: list[int]
    lyapunov: Numbers
    lyapunov_error: Numbers
    growth: Numbers
    left_at: list[int]
    counts: dict[str, int]
    readout_broken_at: list[int] = field(default_factory=list)
    answered: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class AnswerResult:
    """When answers became final, which means that they never changed again within the budget of the orbits.

    Args:
        final_at: iteration per answer, which is one for each input, or one for each token that is read if answers are counted by
            token. None if the answer still changed in the last iteration, or the readout gives none.
        half: iteration by which 50% of the answers are final; None if fewer are.
        nine_tenths: iteration by which 90% of the answers are final; None if fewer are.
        all: iteration by which all answers are final; None if some are not.
    """

    final_at: Numbers
    half: float | None
    nine_tenths: float | None
    all: float | None


@dataclass(frozen=True)
class SpectrumResult:
    """Eigenvalues of the Jacobian at the last state of some inputs.

    Args:
        rows: which inputs.
        eigenvalue: eigenvalue of largest modulus, as [real, imaginary].
        radius: modulus of that eigenvalue, which is the spectral radius.
        error: absolute error of the radius.
        converged: whether the error is within 1% of the radius.
        defective: whether the Jacobian is nearly defective, so that its eigenvalues are sensitive to perturbations.
        at_fixed_point: whether the state had arrived. Elsewhere the radius says nothing about a fixed point.
        rate: observed contraction per iteration (see ``ReachabilityResult``).
        rate_error: half width of the rate's 95% interval.
        contradicted: whether the orbit contracts more slowly than this Jacobian allows.
        others: further eigenvalues of the first row, as [real, imaginary]; empty with effort quick.
        hidden: whether products with this Jacobian disagree with finite differences of the step, which means that autograd
            does not see the whole step.
    """

    rows: list[int]
    eigenvalue: list[Numbers]
    radius: Numbers
    error: Numbers
    converged: list[bool]
    defective: list[bool]
    at_fixed_point: list[bool]
    rate: Numbers
    rate_error: Numbers
    contradicted: list[bool]
    others: list[Numbers]
    hidden: list[bool] = field(default_factory=list)

    @property
    def radius_at_fixed_point(self) -> Numbers:
        """The spectral radius of each row, or None if the state had not arrived."""
        return [radius if fixed else None for radius, fixed in zip(self.radius, self.at_fixed_point, strict=True)]


@dataclass(frozen=True)
class Returns:
    """How many starts of one kind lead back to the same fixed point.

    Args:
        returned: fraction of the starts with a known end that came back.
        known: fraction of the starts whose end is known.
    """

    returned: float | None
    known: float | None


@dataclass(frozen=True)
class BasinResult:
    """How far from the fixed point an orbit may start and still return to it.

    Args:
        rows: which inputs.
        radii: sizes of the perturbations, relative to the norm of the fixed point.
        returned: fraction of the perturbed starts that came back, per radius.
        known: fraction of the perturbed starts whose end is known, per radius.
        random: how many random starts came back.
        foreign: how many starts at the fixed points of other inputs came back.
    """

    rows: list[int]
    radii: list[float]
    returned: Numbers
    known: Numbers
    random: Returns
    foreign: Returns


@dataclass(frozen=True)
class SwapResult:
    """Where settled states go when their recalled input or their start is replaced by another input's.

    Args:
        recall: pairs by outcome, with the state kept and another input recalled.
        start: pairs by outcome, with the recalled input kept and the orbit started from another input's fixed point.
        moved: fraction of the known pairs of ``recall`` that went to the other input's fixed point; None if most pairs
            are unknown.
        shared: fraction of the known pairs of ``recall`` whose inputs share a fixed point; None if most pairs are unknown.
    """

    recall: dict[str, int]
    start: dict[str, int]
    moved: float | None
    shared: float | None


@dataclass(frozen=True)
class DistinctResult:
    """Number of distinct fixed points among the first N inputs that arrived, for every N.

    Args:
        own: the numbers from each input's own start.
        common: the numbers from one start for all inputs.
    """

    own: list[int]
    common: list[int]


@dataclass(frozen=True)
class VarianceResult:
    """The share of the variance of fixed points that lies between inputs, rather than between random starts of one input.

    Args:
        share: between / (between + within).
        error: standard error of the share, by the jackknife over inputs.
        between: variance between inputs.
        within: variance over the starts of an input, averaged over inputs.
        inputs: number of inputs that count.
        arrived: fraction of all orbits that arrived.
    """

    share: float | None
    error: float | None
    between: float | None
    within: float | None
    inputs: int
    arrived: float | None


@dataclass(frozen=True)
class SensitivityResult:
    """How the fixed point moves with the input, and with the start, along one random direction.

    Args:
        path: variable of the derivative: either the inputs, through encode, or the recalled input.
        gain: change of the fixed point over the change of the input, per row of the spectrum.
        relative: relative change of the fixed point over the relative change of the input.
        disagreement: relative distance between the derivative and a finite change of the input.
        start_gain: change of the end over the change of the start.
    """

    path: str
    gain: Numbers
    relative: Numbers
    disagreement: Numbers
    start_gain: Numbers


@dataclass(frozen=True)
class InputDependenceResult:
    """Whether the fixed point is this input's own.

    Args:
        swaps: the swap test.
        distinct: distinct fixed points.
        variance: share of the variance between inputs (not with effort quick).
        sensitivity: local derivatives (not with effort quick).
    """

    swaps: SwapResult | None = None
    distinct: DistinctResult | None = None
    variance: VarianceResult | None = None
    sensitivity: SensitivityResult | None = None


@dataclass(frozen=True)
class GradientResult:
    """How a gradient changes on its way back through the iterations, by real backpropagation.

    Args:
        rows: which inputs.
        norms: norm of the gradient after passing k iterations, for k = 1, 2, ...: three quantiles for each k.
        growth: factor per iteration, per row.
        agreement: log of the growth minus log of the spectral radius, per row of the spectrum; None away from fixed points.
        labels: number of inputs by label: vanishing, steady, exploding or unknown.
    """

    rows: list[int]
    norms: list[Numbers]
    growth: Numbers
    agreement: Numbers
    labels: dict[str, int]


@dataclass(frozen=True)
class LipschitzResult:
    """The largest singular value of the derivative of the fixed point in the input, per row of ``GeometryResult``.

    Args:
        value: the singular value if converged, otherwise a lower bound.
        error: absolute error.
        converged: whether the error is within the tolerance of the effort.
        relative: relative change of the fixed point over the relative change of the input.
        path: variable of the derivative: either the inputs, through encode, or the recalled input.
    """

    value: Numbers
    error: Numbers
    converged: list[bool]
    relative: Numbers
    path: str


@dataclass(frozen=True)
class ResolventResult:
    """The largest singular value of (I - J)^-1, per row of ``GeometryResult``.

    Args:
        value: the singular value if converged, otherwise a lower bound.
        error: absolute error.
        converged: whether the error is within the tolerance of the effort.
    """

    value: Numbers
    error: Numbers
    converged: list[bool]


@dataclass(frozen=True)
class TransientResult:
    """How much k iterations can stretch a small error: the norms of powers of J.

    Args:
        powers: the values of k.
        norms: lower bounds on the norm of J to the power k: one list per power, with one entry per row of ``GeometryResult``.
    """

    powers: list[int]
    norms: list[Numbers]


@dataclass(frozen=True)
class GeometryResult:
    """Whether the fixed point is smooth, and whether gradients pass.

    Args:
        rows: inputs that had arrived, at whose fixed points ``lipschitz``, ``resolvent`` and ``transient`` are measured.
        gradients: gradients through the iterations.
        radial_gain: fraction of the radial direction that passes an iteration, per row of the spectrum.
        lipschitz: how far a change of the input moves the fixed point.
        resolvent: how much implicit gradients are amplified (not with effort quick).
        transient: how much errors grow before they shrink (not with effort quick).
        input_is_discrete: whether there is no derivative in the input, for example because the loop recalls token ids. The
            axis is then judged without the Lipschitz constant.
    """

    rows: list[int] = field(default_factory=list)
    gradients: GradientResult | None = None
    radial_gain: Numbers | None = None
    lipschitz: LipschitzResult | None = None
    resolvent: ResolventResult | None = None
    transient: TransientResult | None = None
    input_is_discrete: bool = False


@dataclass(frozen=True)
class PortraitResult:
    """One input's orbit in the plane that shows most of it, and a second orbit of the same input from a random start.

    Args:
        row: which input: the first that arrived or, if none did, the first one.
        path: [x, y] per iteration, beginning with the start.
        foreign: [x, y] per iteration of the orbit from a random start.
        explained: share of the variance along each of the two directions.
        fixed_point: [x, y] of the point where the first orbit arrived, or None.
    """

    row: int
    path: list[Numbers]
    foreign: list[Numbers]
    explained: Numbers
    fixed_point: Numbers | None
