"""The status of each axis and the verdict on all of them, from measured numbers and thresholds.

All thresholds are in one table with their origin. A threshold of origin "prior" was set by reasoning, before any model was
trained. A verdict that rests on such a threshold is called provisional. A fitted threshold names its models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from loopscope.evidence import evidence


class Status(StrEnum):
    """The status of one axis."""

    HOLDS = "holds"
    BORDERLINE = "borderline"
    FAILS = "fails"
    UNKNOWN = "unknown"


class Verdict(StrEnum):
    """The verdict on a loop.

    - All three axes hold: STABLE, or STABLE_AND_ACCURATE if targets were given and most answers are right.
    - Reachability fails: UNSTABLE, or UNSETTLED if the answers do not change and are right although the states never settle.
    - Input-dependence fails: INPUT_INDEPENDENT if most inputs share their fixed point, else PATH_DEPENDENT.
    - Geometry alone fails: FRAGILE.
    - Otherwise: UNDECIDED.

    For loops that are time-dependent or stochastic, no fixed point is claimed: whether answers are kept takes the place of
    reachability, a swap at an iteration that of the swap at a fixed point, and the growth of errors that of geometry.

    Example:
        >>> import loopscope as ls
        >>> ls.Verdict("fragile") is ls.Verdict.FRAGILE
        True
    """

    STABLE_AND_ACCURATE = "stable and accurate"
    STABLE = "stable"
    INPUT_INDEPENDENT = "input-independent"
    PATH_DEPENDENT = "path-dependent"
    FRAGILE = "fragile"
    UNSETTLED = "never settles but keeps its answer"
    UNSTABLE = "unstable"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Threshold:
    """The values of a number from which an axis holds or fails. It is borderline between them.

    Args:
        measure: name of the number.
        holds: value from which the axis holds.
        fails: value from which it fails.
        larger_is: "better" or "worse".
        origin: "prior", or the models that it was fitted on.
        why: the reasoning.
    """

    measure: str
    holds: float
    fails: float
    larger_is: Literal["better", "worse"]
    origin: str
    why: str

    def status(self, value: float | None) -> Status:
        """Return the status that a measured value implies. It is unknown if the value could not be computed."""
        if value is None or math.isnan(value):
            return Status.UNKNOWN
        sign = 1 if self.larger_is == "better" else -1
        if sign * value >= sign * self.holds:
            return Status.HOLDS
        return Status.FAILS if sign * value <= sign * self.fails else Status.BORDERLINE


PRIOR = "prior"
"""The origin of thresholds that were set by reasoning."""
ANSWERS_STAND = "fraction of answers that stand"
"""The number that distinguishes changing answers from changing states."""
ANSWERS_KEPT = "fraction of answers kept"
"""The number that decides on the answers of a time-dependent or stochastic loop."""
ERROR_GROWTH = "error growth per iteration"
"""The number that decides on the errors of such a loop: the exponential of the largest exponent along its orbit."""
LIPSCHITZ = "relative Lipschitz constant"
"""The number that is not defined for loops with discrete inputs."""
PRIORS: dict[str, Threshold] = {
    threshold.measure: threshold
    for threshold in (
        Threshold(
            "fraction arrived",
            holds=0.9,
            fails=0.5,
            larger_is="better",
            origin=PRIOR,
            why="a loop cannot keep answers if most of its inputs never settle",
        ),
        Threshold(
            ANSWERS_STAND,
            holds=0.9,
            fails=0.5,
            larger_is="better",
            origin=PRIOR,
            why="a state may move without changing its answer: an answer stands if the last half of its orbit never changed it",
        ),
        Threshold(
            "fraction moved",
            holds=0.9,
            fails=0.5,
            larger_is="better",
            origin=PRIOR,
            why="with another input recalled, the state must go to that input's fixed point",
        ),
        Threshold(
            "fraction shared",
            holds=0.1,
            fails=0.5,
            larger_is="worse",
            origin=PRIOR,
            why="a fixed point that inputs share, from their own starts and from a common one, is not the input's own",
        ),
        Threshold(
            "radius",
            holds=0.99,
            fails=1.0,
            larger_is="worse",
            origin=PRIOR,
            why="a fixed point with a radius above 1 repels; at 0.99, an error takes 460 iterations to fall to a hundredth",
        ),
        Threshold(
            LIPSCHITZ,
            holds=100.0,
            fails=1e4,
            larger_is="worse",
            origin=PRIOR,
            why="a relative change of the input of 1% should not move the fixed point by more than its own size",
        ),
        Threshold(
            "gradient growth per iteration",
            holds=1.02,
            fails=1.1,
            larger_is="worse",
            origin=PRIOR,
            why="over 30 iterations, 1.02 multiplies a gradient by 2 and 1.1 by 17",
        ),
        Threshold(
            ANSWERS_KEPT,
            holds=0.9,
            fails=0.5,
            larger_is="better",
            origin=PRIOR,
            why="without a fixed point, what can last is the answer: that of the last iteration of training should still stand",
        ),
        Threshold(
            ERROR_GROWTH,
            holds=1.0,
            fails=1.02,
            larger_is="worse",
            origin=PRIOR,
            why="errors that shrink on average along the orbit are forgotten; 1.02 doubles them every 35 iterations",
        ),
        Threshold(
            "easy accuracy",
            holds=0.9,
            fails=0.5,
            larger_is="better",
            origin=PRIOR,
            why="stability has no value if a model does not solve the easy problems",
        ),
    )
}
"""The thresholds that were set by reasoning, by name of the number."""

TESTED_ON = evidence().tested_on
"""The models on which verdicts were compared to outcomes, and priors to thresholds fitted on other models."""
FITTED: tuple[Threshold, ...] = tuple(
    replace(PRIORS[one.measure], holds=one.holds, fails=one.fails, origin=one.origin) for one in evidence().thresholds
)
"""The thresholds that were fitted on half of the trained models. Each replaced a prior because the verdict came true more often
with it on the other half (docs/evidence/prediction.md)."""

THRESHOLDS: dict[str, Threshold] = PRIORS | {threshold.measure: threshold for threshold in FITTED}
"""All thresholds, by name of the number."""


@dataclass(frozen=True)
class Axis:
    """One axis: its status and the numbers that decided it.

    Args:
        name: reachability, input-dependence or geometry.
        status: the status.
        numbers: the deciding numbers by the names of their thresholds; None if one could not be computed.
        reason: one sentence.
        doubt: why its numbers cannot be trusted, in one clause. The axis is then unknown and the verdict undecided. None
            if there is no reason for doubt.
    """

    name: str
    status: Status
    numbers: Mapping[str, float | None]
    reason: str
    doubt: str | None = None


def judge(
    name: str,
    numbers: Mapping[str, float | None],
    reason: str,
    thresholds: Mapping[str, Threshold] = THRESHOLDS,
) -> Axis:
    """Return an axis, which fails if any number fails, holds if all hold, and is unknown if one is missing."""
    statuses = [thresholds[measure].status(value) for measure, value in numbers.items()]
    for status in (Status.FAILS, Status.UNKNOWN, Status.BORDERLINE):
        if status in statuses:
            return Axis(name, status, dict(numbers), reason)
    return Axis(name, Status.HOLDS if statuses else Status.UNKNOWN, dict(numbers), reason)


def judge_reachability(
    numbers: Mapping[str, float | None], reason: str, thresholds: Mapping[str, Threshold] = THRESHOLDS
) -> Axis:
    """Return axis 1, which states alone decide. Answers that stand only distinguish unsettled from unstable."""
    states = {measure: value for measure, value in numbers.items() if measure != ANSWERS_STAND}
    return replace(judge("reachability", states, reason, thresholds), numbers=dict(numbers))


def judge_geometry(
    numbers: Mapping[str, float | None],
    reason: str,
    thresholds: Mapping[str, Threshold] = THRESHOLDS,
    doubt: str | None = None,
) -> Axis:
    """Return axis 3, which is unknown if no fixed point was reached for a radius or if its numbers are in doubt."""
    axis = judge("geometry", numbers, reason, thresholds)
    if numbers["radius"] is None or doubt is not None:
        axis = replace(axis, status=Status.UNKNOWN)
    return replace(axis, doubt=doubt)


def is_shared(input_dependence: Axis, thresholds: Mapping[str, Threshold] = THRESHOLDS) -> bool:
    """Return whether axis 2 fails because inputs share their fixed points.

    Otherwise inputs have several fixed points each, and the start chooses among them: after a swap, a state goes to a third
    point, or to the other input's point in some pairs only, or stays where its own start has led it.
    """
    return thresholds["fraction shared"].status(input_dependence.numbers["fraction shared"]) is Status.FAILS


def verdict(
    reachability: Axis,
    input_dependence: Axis,
    geometry: Axis,
    easy_accuracy: float | None,
    thresholds: Mapping[str, Threshold] = THRESHOLDS,
) -> Verdict:
    """Return the verdict on three axes (see ``Verdict``).

    A loop whose states never arrive counts as unsettled instead of unstable only if its answers stand and are known to be
    right, because an orbit may also settle on wrong answers. A borderline axis neither holds nor fails: if it decides, the
    verdict is undecided. The verdict is also undecided if the deciding numbers are in doubt, unless states do not arrive
    anyway.

    Args:
        reachability: axis 1.
        input_dependence: axis 2.
        geometry: axis 3.
        easy_accuracy: fraction of the examined inputs that are right at the end; None if no targets were given.
        thresholds: the thresholds by which the axes were judged.
    """
    accurate = thresholds["easy accuracy"].status(easy_accuracy) is Status.HOLDS
    if reachability.status is Status.FAILS:
        stands = thresholds[ANSWERS_STAND].status(reachability.numbers.get(ANSWERS_STAND)) is Status.HOLDS
        return Verdict.UNSETTLED if stands and accurate else Verdict.UNSTABLE
    if reachability.status is not Status.HOLDS or geometry.doubt is not None:
        return Verdict.UNDECIDED
    if input_dependence.status is Status.FAILS:
        return Verdict.INPUT_INDEPENDENT if is_shared(input_dependence, thresholds) else Verdict.PATH_DEPENDENT
    if input_dependence.status is not Status.HOLDS:
        return Verdict.UNDECIDED
    if geometry.status is Status.FAILS:
        return Verdict.FRAGILE
    if geometry.status is not Status.HOLDS:
        return Verdict.UNDECIDED
    return Verdict.STABLE_AND_ACCURATE if accurate else Verdict.STABLE


def is_provisional(*axes: Axis, easy_accuracy: float | None) -> bool:
    """Return whether any number was compared to a prior threshold."""
    compared = [measure for axis in axes for measure in axis.numbers]
    if easy_accuracy is not None:
        compared.append("easy accuracy")
    return any(THRESHOLDS[measure].origin == PRIOR for measure in compared)


def priors_of(axes: Iterable[Axis]) -> str:
    """Return a clause that says which thresholds of some axes are priors."""
    return "some of its thresholds are priors" if fitted_on(axes) else "its thresholds are priors"


def fitted_on(axes: Iterable[Axis]) -> dict[str, list[str]]:
    """Return the numbers of some axes whose thresholds were fitted, by the models that they were fitted on."""
    found: dict[str, list[str]] = {}
    for measure in dict.fromkeys(measure for axis in axes for measure in axis.numbers):
        if THRESHOLDS[measure].origin != PRIOR:
            found.setdefault(THRESHOLDS[measure].origin, []).append(measure)
    return found
