"""The numbers of an examination beyond those that decide, as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from loopscope.stability import Examination
from loopscope.stability.nonautonomous.results import NonautonomousResult
from loopscope.stability.results import Numbers, SensitivityResult, known

Read = Callable[[Examination], Sequence[float | None] | None]


@dataclass(frozen=True)
class Quantity:
    """One measured quantity.

    Args:
        name: what it is called.
        read: returns its values over inputs, or its one value, from an examination; None where it was not measured.
        meaning: what it says, in a sentence.
    """

    name: str
    read: Read
    meaning: str

    def known(self, exam: Examination) -> list[float]:
        """Return the values that are known."""
        return known(self.read(exam))


def _norm_ratio(exam: Examination) -> Numbers:
    pairs = zip(exam.reachability.norm, exam.reachability.start_norm, strict=True)
    return [norm / start if norm is not None and start else None for norm, start in pairs]


def _transient_peak(exam: Examination) -> Numbers | None:
    found = exam.geometry.transient
    return [max(known(norms), default=None) for norms in zip(*found.norms, strict=True)] if found else None


def _count(flags: Sequence[bool] | None, wanted: bool) -> list[float] | None:
    return [float(sum(flag is wanted for flag in flags))] if flags else None


def _sensitivity(read: Callable[[SensitivityResult], Numbers]) -> Read:
    return lambda exam: read(exam.input_dependence.sensitivity) if exam.input_dependence.sensitivity else None


def _exponent(place: int) -> Read:
    def read(exam: Examination) -> Numbers | None:
        found = exam.nonautonomous
        if found is None or found.exponents is None:
            return None
        return [values[place] for values in found.exponents.values if len(values) > place]

    return read


def _along_orbit(read: Callable[[NonautonomousResult], Sequence[float | None] | None]) -> Read:
    return lambda exam: None if exam.nonautonomous is None else read(exam.nonautonomous)


QUANTITIES = (
    Quantity(
        "iterations to tolerance", lambda exam: exam.reachability.iterations_to_tolerance, "when an input has settled"
    ),
    Quantity(
        "observed contraction", lambda exam: exam.reachability.rate, "factor of the residual per iteration, at the end"
    ),
    Quantity("norm of the state, end over start", _norm_ratio, "far above 1: the state grew"),
    Quantity(
        "norm growth per iteration",
        lambda exam: exam.reachability.growth,
        "log of the factor; 0 for a bounded orbit",
    ),
    Quantity(
        "largest Lyapunov exponent",
        lambda exam: exam.reachability.lyapunov,
        "above 0: chaos; measured only where the orbit did not arrive",
    ),
    Quantity(
        "answers kept at the end, per draw",
        _along_orbit(lambda found: found.answers.draws if found.answers else None),
        "fraction of the inputs whose answer is that of the iteration compared with",
    ),
    Quantity("largest exponent along the orbit", _exponent(0), "log of the growth of small errors per iteration"),
    Quantity("second exponent along the orbit", _exponent(1), "the same across the fastest growing direction"),
    Quantity(
        "error growth per iteration",
        _along_orbit(lambda found: [found.exponents.factor] if found.exponents else None),
        "of the whole step, along the orbit; above 1: errors grow",
    ),
    Quantity(
        "radii of parts of the step",
        _along_orbit(lambda found: list(found.parts.values())),
        "as the loop states them; they do not decide what the whole step does",
    ),
    Quantity(
        "contraction after a swap",
        _along_orbit(lambda found: found.contraction),
        "factor per iteration by which orbits from two inputs' states approach under one recalled input",
    ),
    Quantity(
        "noise of one step, relative",
        _along_orbit(lambda found: found.noise.step if found.noise else None),
        "spread over draws from one state",
    ),
    Quantity(
        "residual at which it levels off",
        _along_orbit(lambda found: found.noise.residual if found.noise else None),
        "the noise floor of the orbit",
    ),
    Quantity(
        "spectral radius",
        lambda exam: exam.spectrum.radius if exam.spectrum else None,
        "below 1: the state attracts; the pace of the last errors",
    ),
    Quantity("its error", lambda exam: exam.spectrum.error if exam.spectrum else None, "how far the radius may be off"),
    Quantity(
        "radii that contradict the orbit",
        lambda exam: _count(exam.spectrum.contradicted, True) if exam.spectrum else None,
        "should be 0",
    ),
    Quantity(
        "radii not at a fixed point",
        lambda exam: _count(exam.spectrum.at_fixed_point, False) if exam.spectrum else None,
        "these say less",
    ),
    Quantity(
        "nearly defective Jacobians",
        lambda exam: _count(exam.spectrum.defective, True) if exam.spectrum else None,
        "their eigenvalues move easily",
    ),
    Quantity(
        "share of variance between inputs",
        lambda exam: [exam.input_dependence.variance.share] if exam.input_dependence.variance else None,
        "1: the input alone decides",
    ),
    Quantity("sensitivity to the input", _sensitivity(lambda found: found.gain), "change of the fixed point"),
    Quantity("sensitivity, relative", _sensitivity(lambda found: found.relative), "both changes in relative size"),
    Quantity(
        "disagreement with a finite change", _sensitivity(lambda found: found.disagreement), "near 0: trust the above"
    ),
    Quantity(
        "sensitivity to the start", _sensitivity(lambda found: found.start_gain), "0 at an attracting fixed point"
    ),
    Quantity(
        "Lipschitz constant in the input",
        lambda exam: exam.geometry.lipschitz.value if exam.geometry.lipschitz else None,
        "largest singular value, estimated",
    ),
    Quantity(
        "Lipschitz constant, relative",
        lambda exam: exam.geometry.lipschitz.relative if exam.geometry.lipschitz else None,
        "1: the fixed point changes by as much as the input",
    ),
    Quantity(
        "norm of the resolvent",
        lambda exam: exam.geometry.resolvent.value if exam.geometry.resolvent else None,
        "amplifies implicit gradients, and the error of a residual",
    ),
    Quantity(
        "gradient growth per iteration",
        lambda exam: exam.geometry.gradients.growth if exam.geometry.gradients else None,
        "1: steady; above: explodes",
    ),
    Quantity(
        "its log less that of the radius",
        lambda exam: exam.geometry.gradients.agreement if exam.geometry.gradients else None,
        "0: they agree; above: a transient",
    ),
    Quantity("largest transient growth", _transient_peak, "above 1: errors grow before they shrink"),
    Quantity("radial gain", lambda exam: exam.geometry.radial_gain, "how much of the step acts along the norm"),
)
"""In the order of the table."""


def quantity_rows(exam: Examination) -> list[list[str]]:
    """Return quantity, median, 10% to 90%, number of values and meaning, for what was measured."""
    rows = []
    for quantity in QUANTITIES:
        if numbers := quantity.known(exam):
            low, middle, high = np.quantile(numbers, (0.1, 0.5, 0.9))
            spread = f"{low:.4g} – {high:.4g}" if high > low else ""
            rows.append([quantity.name, f"{middle:.4g}", spread, str(len(numbers)), quantity.meaning])
    return rows
