"""From numbers to words: what each axis says, and what the axes say together.

Thresholds stand in one table with their origin. A threshold of origin "prior" was set by reasoning, before any model was
trained; a verdict that rests on one calls itself provisional. A fitted threshold names its models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from loopscope.evidence import evidence


class Status(StrEnum):
    """What one axis says."""

    HOLDS = "holds"
    BORDERLINE = "borderline"
    FAILS = "fails"
    UNKNOWN = "unknown"


class Verdict(StrEnum):
    """What the axes say together.

    All three axes hold: STABLE, and STABLE_AND_ACCURATE where targets were given and most answers are right.
    Reachability fails: UNSTABLE, or UNSETTLED where the answers stand and are right although the states never settle.
    Input-dependence fails: INPUT_INDEPENDENT where most inputs share their fixed point, else PATH_DEPENDENT.
    Geometry alone fails: FRAGILE. Otherwise UNDECIDED.

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
    """Where an axis begins to hold and where it fails; borderline lies between.

    Args:
        measure: the number that is compared.
        holds: the value from which the axis holds.
        fails: the value from which it fails.
        larger_is: better or worse.
        origin: prior, or the population that it was fitted on.
        why: the reasoning.
    """

    measure: str
    holds: float
    fails: float
    larger_is: Literal["better", "worse"]
    origin: str
    why: str

    def status(self, value: float | None) -> Status:
        """Return what a measured value says; a value that could not be computed says nothing."""
        if value is None or math.isnan(value):
            return Status.UNKNOWN
        sign = 1 if self.larger_is == "better" else -1
        if sign * value >= sign * self.holds:
            return Status.HOLDS
        return Status.FAILS if sign * value <= sign * self.fails else Status.BORDERLINE


PRIOR = "prior"
"""The origin of thresholds that were set by reasoning."""
ANSWERS_STAND = "fraction of answers that stand"
"""The number that tells states that wander from answers that do."""
ANSWERS_KEPT = "fraction of answers kept"
"""What decides on the answers of a loop that is time-dependent or stochastic."""
ERROR_GROWTH = "error growth per iteration"
"""What decides on the errors of such a loop: the exponential of the largest exponent along its orbit."""
LIPSCHITZ = "relative Lipschitz constant"
"""The number that a loop lacks whose inputs are discrete."""
PRIORS: dict[str, Threshold] = {
    threshold.measure: threshold
    for threshold in (
        Threshold(
            "fraction arrived",
            holds=0.9,
            fails=0.5,
            larger_is="better",
            origin=PRIOR,
            why="an answer that most inputs never settle on cannot be kept",
        ),
        Threshold(
            ANSWERS_STAND,
            holds=0.9,
            fails=0.5,
            larger_is="better",
            origin=PRIOR,
            why="a state may wander where it is read the same: its answer stands if the last half of its orbit never changed it",
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
            why="a fixed point repels from 1 on; at 0.99 an error still takes 460 iterations to fall to a hundredth",
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
            why="over 30 iterations 1.02 multiplies a gradient by 2, 1.1 by 17",
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
            why="stability is worth nothing to a model that does not solve the easy problems",
        ),
    )
}
"""The thresholds that reasoning set, by the number that they judge."""

TESTED_ON = evidence().tested_on
"""The models on which verdicts were compared with what came true, and priors with thresholds fitted on other models."""
FITTED: tuple[Threshold, ...] = tuple(
    replace(PRIORS[one.measure], holds=one.holds, fails=one.fails, origin=one.origin) for one in evidence().thresholds
)
"""The thresholds that trained models set in place of a prior. Half of the models set them; they were accepted where the
verdict came true more often with them on the other half (docs/evidence/prediction.md)."""

THRESHOLDS: dict[str, Threshold] = PRIORS | {threshold.measure: threshold for threshold in FITTED}
"""The thresholds by the number that they judge."""


@dataclass(frozen=True)
class Axis:
    """One axis: what it says and the numbers that decided.

    Args:
        name: reachability, input-dependence or geometry.
        status: what it says.
        numbers: the deciding numbers by their thresholds' names; None where one could not be computed.
        reason: one sentence.
        doubt: why its numbers cannot be trusted, in one clause; the axis is then unknown and the verdict undecided. None
            where nothing speaks against them.
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
    """Return the axis: it fails where any number fails, holds where all hold, and is unknown where one is missing."""
    statuses = [thresholds[measure].status(value) for measure, value in numbers.items()]
    for status in (Status.FAILS, Status.UNKNOWN, Status.BORDERLINE):
        if status in statuses:
            return Axis(name, status, dict(numbers), reason)
    return Axis(name, Status.HOLDS if statuses else Status.UNKNOWN, dict(numbers), reason)


def judge_reachability(
    numbers: Mapping[str, float | None], reason: str, thresholds: Mapping[str, Threshold] = THRESHOLDS
) -> Axis:
    """Return axis 1, which states alone decide; answers that stand only tell unsettled from unstable."""
    states = {measure: value for measure, value in numbers.items() if measure != ANSWERS_STAND}
    return replace(judge("reachability", states, reason, thresholds), numbers=dict(numbers))


def judge_geometry(
    numbers: Mapping[str, float | None],
    reason: str,
    thresholds: Mapping[str, Threshold] = THRESHOLDS,
    doubt: str | None = None,
) -> Axis:
    """Return axis 3, which is unknown where no fixed point was reached for a radius, or where its numbers are in doubt."""
    axis = judge("geometry", numbers, reason, thresholds)
    if numbers["radius"] is None or doubt is not None:
        axis = replace(axis, status=Status.UNKNOWN)
    return replace(axis, doubt=doubt)


def is_shared(input_dependence: Axis, thresholds: Mapping[str, Threshold] = THRESHOLDS) -> bool:
    """Return whether an axis 2 that fails does so because inputs share their fixed points, and not because of their path.

    Otherwise inputs have several fixed points each, and the start chooses among them: a state goes on to a third point, or
    to the other input's in some pairs only, or stays where its own start has led it.
    """
    return thresholds["fraction shared"].status(input_dependence.numbers["fraction shared"]) is Status.FAILS


def verdict(
    reachability: Axis,
    input_dependence: Axis,
    geometry: Axis,
    easy_accuracy: float | None,
    thresholds: Mapping[str, Threshold] = THRESHOLDS,
) -> Verdict:
    """Return the verdict that the axes add up to (see ``Verdict``).

    A loop whose states never arrive is unsettled, not unstable, only where its answers stand and are known to be right: an
    orbit may also settle on wrong answers. An axis that is borderline neither holds nor fails: where one decides, the
    verdict is undecided. So it is where numbers that decide are in doubt, unless states do not arrive anyway.

    Args:
        reachability: axis 1.
        input_dependence: axis 2.
        geometry: axis 3.
        easy_accuracy: fraction of the examined inputs that are right at the end; None where no targets were given.
        thresholds: those that the axes were judged by.
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
    """Return whether any number was compared with a prior threshold."""
    compared = [measure for axis in axes for measure in axis.numbers]
    if easy_accuracy is not None:
        compared.append("easy accuracy")
    return any(THRESHOLDS[measure].origin == PRIOR for measure in compared)


def priors_of(axes: Iterable[Axis]) -> str:
    """Return which thresholds of some axes are priors, in words."""
    return "some of its thresholds are priors" if fitted_on(axes) else "its thresholds are priors"


def fitted_on(axes: Iterable[Axis]) -> dict[str, list[str]]:
    """Return the numbers of some axes whose thresholds were fitted, by the models that they were fitted on."""
    found: dict[str, list[str]] = {}
    for measure in dict.fromkeys(measure for axis in axes for measure in axis.numbers):
        if THRESHOLDS[measure].origin != PRIOR:
            found.setdefault(THRESHOLDS[measure].origin, []).append(measure)
    return found
