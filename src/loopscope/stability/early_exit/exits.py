"""Compare early-exit rules on one recorded orbit of any loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.checks import Prepared
from loopscope.contexts import eval_mode, without_autocast
from loopscope.errors import LoopscopeError, check_choice, check_positive
from loopscope.loop import AnswersPer, Loop, answers_per, first_state
from loopscope.metrics import MIN_PER_GROUP, auc, interval
from loopscope.stability.early_exit import starts
from loopscope.stability.early_exit.comparison import (
    MIN_ANSWERS,
    MIN_EXAMPLES,
    SLACK,
    ExitComparison,
    Recommendation,
    RuleCurve,
)
from loopscope.stability.early_exit.recording import (
    ACCUMULATED,
    COSINE,
    DIVERGENCE,
    ENTROPY,
    GATE,
    PATIENCE,
    RESIDUAL,
    Judge,
    Recording,
    record,
)
from loopscope.stability.early_exit.rules import ExitPoint, candidate_thresholds, exit_points, first_good
from loopscope.stability.nonautonomous.view import View, view_of
from loopscope.stability.orbits.answers import Answers
from loopscope.stability.targets import Targets, check_targets, rule_of
from loopscope.trees import Tree, batch_size, leaves

ITERATIONS = 64
"""Iterations of the recorded orbit by default."""
LONGER = 4
"""Where the trained iterations are known, the orbit is this many times as long."""
STARTS = 8
"""Random starts that are compared."""

FIXED, BEST_START, MAJORITY = "fixed", "best of several starts", "majority of several starts"
MEANINGS: Mapping[str, str] = {
    FIXED: "after a number of iterations",
    RESIDUAL: "the state changes by at most the threshold, relative to its norm",
    COSINE: "one minus the cosine of successive states is at most the threshold",
    DIVERGENCE: "the softmax moves by at most the threshold, in nats",
    ENTROPY: "the entropy of the softmax changes by at most the threshold, in nats",
    PATIENCE: "the answer has stayed the same for a number of iterations",
    GATE: "one minus the probability that the model's own gate gives to stopping is at most the threshold",
    ACCUMULATED: "the probability that the gate has not stopped so far, a product over the iterations, is at most the threshold",
    BEST_START: "the answer of the random start whose state moves least at the end",
    MAJORITY: "the answer that most random starts give at the end",
}
"""When each rule stops."""
SCORED = (RESIDUAL, COSINE, DIVERGENCE, ENTROPY, PATIENCE, GATE, ACCUMULATED)
STEPWISE = (FIXED, *SCORED)
"""Rules that need a single orbit."""
SEVERAL = (BEST_START, MAJORITY)


def exits(
    loop: Loop,
    inputs: Tree,
    targets: Targets | None = None,
    rules: Iterable[str] | None = None,
    iterations: int | None = None,
    trained_iterations: int | None = None,
    seed: int = 0,
    several: int = STARTS,
    answers: Answers | None = None,
) -> ExitComparison:
    """Run every orbit once, and return what each early-exit rule would have saved at each of its thresholds.

    An example stops on its own. Where a loop answers token by token (``answers_per``), each token does, as if its answer were
    taken from the iteration where it stops while the orbit goes on.

    A time-dependent or stochastic loop is recorded as it runs. Its residual says how far the state moved, not that a fixed point
    is near.

    Args:
        loop: any loop. A method ``gate(state, recalled)``, if it has one, gives the probability that a learned gate stops; it
            returns None if there is no gate. Loops that `loopscope.adapt` makes have this method.
        inputs: what ``loop.encode`` takes, batch first.
        targets: class indices or a function, see ``examine``; for tokens, one class per token that is read. Without targets,
            quality is agreement with the last iteration.
        rules: names of the rules, all by default (``ls.exits`` lists them in its error).
        iterations: length of the orbit; four times the trained iterations if these are known, else 64.
        trained_iterations: largest number of iterations in training, if known.
        seed: seed of the first random start, and of the random numbers of a step that draws some.
        several: number of random starts to compare, if the loop's start or its step is random.
        answers: what a readout answers, one row per example, where that is not the largest logit's place at every token.

    Returns:
        The curves of all rules, the oracle and a recommendation.

    Raises:
        LoopscopeError: the loop, the inputs or the targets are refused, or there is no rule of a name.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z / 2 + e, read=lambda z: z
        ... )
        >>> compared = ls.exits(loop, torch.eye(4), torch.arange(4), iterations=20)
        >>> compared.rule("residual").cheapest(quality=1.0).iterations
        1.0
    """
    chosen = list(MEANINGS) if rules is None else list(rules)
    for name in chosen:
        check_choice("the rule", name, MEANINGS)
    usual = ITERATIONS if trained_iterations is None else LONGER * trained_iterations
    length = usual if iterations is None else iterations
    check_positive(iterations=length, several=several)
    unit = answers_per(loop)
    with eval_mode(loop), without_autocast(), torch.no_grad():
        check_targets(targets, batch_size(inputs))
        view = view_of(loop, inputs, seed)
        task = _Task(inputs, targets, length, unit, answers)
        recordings = [task.record(view)]
        random = view.kind.name.is_random or _starts_at_random(view, seed)
        if random and set(SEVERAL) & set(chosen):
            recordings += [task.record(view_of(loop, inputs, seed + other)) for other in range(1, several)]
    first = recordings[0]
    good = first.final if first.right is None else first.right
    curves = [_curve(name, first, good) for name in (FIXED, *SCORED) if name in chosen and _known(name, first)]
    if len(recordings) > 1:
        curves += [_of_starts(name, recordings) for name in SEVERAL if name in chosen]
    return ExitComparison(
        unit=unit,
        units=good.shape[1],
        examples=batch_size(inputs),
        iterations=length,
        trained_iterations=trained_iterations,
        measured="agreement with the last iteration" if first.right is None else "accuracy",
        rules=curves,
        oracle=_oracle(good),
        broken=(good.any(0) & ~good[-1]).double().mean().item(),
        recommendation=_recommend(chosen, first, good),
        absent=[*_absent(chosen, first, random)],
        iterations_before=getattr(loop, "iterations_before", 0),
    )


@dataclass(frozen=True)
class _Task:
    """What is recorded for every start."""

    inputs: Tree
    targets: Targets | None
    iterations: int
    unit: AnswersPer
    answers: Answers | None

    def record(self, view: View) -> Recording:
        return record(view.loop, view.ready, self.iterations, self._make_judge(view.ready))

    def _make_judge(self, ready: Prepared) -> Judge:
        if self.unit == "example":
            return Judge(self.unit, correct=rule_of(self.targets, ready.mask), answers=self.answers)
        if callable(self.targets):
            raise LoopscopeError(
                "targets are a function, but the loop answers token by token: give a tensor with the class of each token"
            )
        return Judge(self.unit, targets=self.targets)


def _starts_at_random(view: View, seed: int) -> bool:
    """Return whether another seed gives another first state."""
    other = first_state(view.loop, view.ready.recalled, seed + 1)
    return any(not torch.equal(*pair) for pair in zip(leaves(view.ready.start), leaves(other), strict=True))


def _known(name: str, recording: Recording) -> bool:
    return name == FIXED or name in recording.scores


def _score(name: str, recording: Recording) -> Float[Tensor, "iterations units"]:
    """Return the score of a rule. A fixed number of iterations is a doubt that falls by one per iteration."""
    if name != FIXED:
        return recording.scores[name]
    counted = -torch.arange(1, recording.iterations + 1, dtype=torch.float64)
    return counted[:, None].expand(-1, len(recording.examples))


def _thresholds(name: str, score: Tensor) -> Tensor:
    return torch.unique(score) if name in (FIXED, PATIENCE) else candidate_thresholds(score)


def _named(name: str, points: Iterable[ExitPoint]) -> list[ExitPoint]:
    """Return points in order of their iterations. Counts, whose scores are negative, are given as counts."""
    sign = -1 if name in (FIXED, PATIENCE) else 1
    found = [ExitPoint(sign * point.threshold, point.iterations, point.quality) for point in points]
    return sorted(found, key=lambda point: point.iterations)


def _curve(name: str, recording: Recording, good: Bool[Tensor, "iterations units"]) -> RuleCurve:
    score = _score(name, recording)
    points = _named(name, exit_points(score, good, _thresholds(name, score)))
    if name == FIXED or recording.right is None:
        return RuleCurve(name, MEANINGS[name], points)
    doubt, right = score[-1].numpy(), recording.right[-1].numpy()
    return RuleCurve(name, MEANINGS[name], points, *_area(doubt, right, recording.examples.numpy()))


def _area(
    doubt: Float[np.ndarray, "units"], right: Bool[np.ndarray, "units"], examples: Int[np.ndarray, "units"]
) -> tuple[float | None, float | None, float | None]:
    """Return the area under the ROC curve of less doubt for right answers, and its interval over examples.

    There is no interval where fewer than five examples have a right answer, or fewer than five a wrong one.
    """

    def statistic(places: Int[np.ndarray, "chosen"]) -> float:
        return auc(-doubt[places], right[places])

    found = statistic(np.arange(len(doubt)))
    if not np.isfinite(found):
        return None, None, None
    fewest = min(len(np.unique(examples[right])), len(np.unique(examples[~right])))
    return found, *(interval(statistic, examples) if fewest >= MIN_PER_GROUP else (None, None))


def _of_starts(name: str, recordings: list[Recording]) -> RuleCurve:
    choose = starts.best_converged if name == BEST_START else starts.majority
    counts = sorted({1, *(2**power for power in range(1, 10) if 2**power < len(recordings)), len(recordings)})
    points = [starts.point(recordings[:count], choose(recordings[:count])) for count in counts]
    return RuleCurve(name, MEANINGS[name], points)


def _oracle(good: Bool[Tensor, "iterations units"]) -> ExitPoint:
    return ExitPoint(0.0, first_good(good).double().mean().item(), good.any(0).double().mean().item())


def _recommend(
    chosen: list[str], recording: Recording, good: Bool[Tensor, "iterations units"]
) -> Recommendation | None:
    """Choose the cheapest rule on every second example, and measure it on the others."""
    examples = int(recording.examples.max()) + 1
    if examples < MIN_EXAMPLES or len(recording.examples) < MIN_ANSWERS:
        return None
    choosing = recording.examples % 2 == 0
    fixed = _measured(FIXED, recording, good, choosing)
    best = max(fixed, key=lambda point: (point.quality, -point.iterations))
    if best.quality == 0:
        return None
    names = [name for name in (FIXED, *SCORED) if (name in chosen or name == FIXED) and _known(name, recording)]
    found = [
        (point.iterations, place, name, point)
        for place, name in enumerate(names)
        for point in _measured(name, recording, good, choosing)
        if point.quality >= best.quality - SLACK
    ]
    _, _, name, point = min(found, key=lambda one: one[:2])
    (measured,) = _measured(name, recording, good, ~choosing, point.threshold)
    (plain,) = _measured(FIXED, recording, good, ~choosing, best.threshold)
    counted = -point.threshold if name in (FIXED, PATIENCE) else point.threshold
    halves = (len(recording.examples[part].unique()) for part in (choosing, ~choosing))
    return Recommendation(
        name, counted, measured.iterations, measured.quality, round(-best.threshold), plain.quality, *halves
    )


def _measured(
    name: str, recording: Recording, good: Tensor, part: Bool[Tensor, "units"], threshold: float | None = None
) -> list[ExitPoint]:
    """Return the points of a rule on some of the units, for all of its thresholds or for one."""
    score = _score(name, recording)[:, part]
    at = _thresholds(name, score) if threshold is None else torch.tensor([threshold], dtype=torch.float64)
    return exit_points(score, good[:, part], at)


def _absent(chosen: list[str], recording: Recording, random: bool) -> Iterable[str]:
    if {GATE, ACCUMULATED} & set(chosen) and GATE not in recording.scores:
        yield "gate: the loop has no gate (a method gate(state, recalled) that returns a probability of stopping)"
    if set(SEVERAL) & set(chosen) and not random:
        yield "several starts: neither the loop's start nor its step is random"
