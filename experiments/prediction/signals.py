"""Signals: single numbers of a trained loop that may tell whether it will retain its accuracy.

Each signal comes with the seconds that it takes, given the model and its inputs. Most signals are rivals of the framework,
which are numbers in common use. All but one of them see no more than the trained number of iterations. The exception simply
runs the same easy inputs on: to the end, and as far as a forecast's own steps would go. The other signals are the framework's
own: residuals and restarts (`experiments.prediction.restarts`), and the forecast of `loopscope forecast`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.prediction.restarts import after_random_start, after_swap, run_pass, slope, slowest_tokens
from loopscope.contexts import device_of_loop, eval_mode, without_autocast
from loopscope.errors import LoopscopeError, check_positive
from loopscope.evaluation import EvaluationConfig, answers_right, evaluate_split, rule_of_split
from loopscope.fixed_points.residual import smallest_scale
from loopscope.forecasts.forecast import forecast
from loopscope.forecasts.result import Outlook, fall
from loopscope.jacobian import random_vectors, step_jacobian
from loopscope.loop import Loop, mask_of, readout
from loopscope.models.recall import matrix_radius, recall_weights
from loopscope.tasks import Split, Task, answers_of
from loopscope.training.settings import RunSettings
from loopscope.trees import Tree, flatten, norms, select

POWER_STEPS = 20
"""Number of products J v in the plain power iteration."""
POWER_EXAMPLES = 8
"""Largest number of examples in the plain power iteration."""

STATE_RADIUS = "spectral radius of W_state"
WEIGHT_RATIO = "||W_state|| / ||W_input||"
POWER_ITERATION = "real power iteration"
LAST_RESIDUAL = "last residual"
NORM_RATIO = "norm ratio"
COSINE = "cosine of the last two"
EASY_ACCURACY = "easy accuracy"
SLOPE = "slope of the residual"
SLOWEST_TOKENS = "residual of the slowest tokens"
SWAP = "distance after a swap"
SWAP_ANSWER = "answers kept after a swap"
RANDOM = "distance after a random start"
RANDOM_ANSWER = "answers kept after a random start"
FORECAST = "forecast"
FORECAST_KEPT = "accuracy kept, by the forecast"
FORECAST_LEAST = "least accuracy kept, by the forecast"
FORECAST_MOST = "most accuracy kept, by the forecast"
FORECAST_ANSWER = "answers kept, by the forecast"
FORECAST_COLLAPSE = "collapse, by the forecast"
FORECAST_STEPS = "steps of the forecast"
LONG_RUN = "running on"
AT_FORECAST = ", as many steps as the forecast"
"""Ending of the name of the signal that sees as much as the forecast."""
SAME_STEPS = f"{LONG_RUN}{AT_FORECAST}"
OF_WEIGHTS = (STATE_RADIUS, WEIGHT_RATIO)
"""Signals of the weights, which do not depend on the number of iterations."""
BUDGET = 30
"""Largest number of iterations that a forecast may see. If training used fewer, signals are measured here as well."""
AT_BUDGET = f", {BUDGET} iterations"
"""Ending of the names of signals that are measured there."""


@dataclass(frozen=True)
class Signal:
    """The value of a signal and its cost.

    Args:
        value: value of the signal; None if it is not defined for the model or not finite.
        seconds: time that it takes, including the iterations that it needs.
    """

    value: float | None
    seconds: float


def power_iteration(
    loop: Loop, state: Tree, recalled: Tree, steps: int = POWER_STEPS, seed: int = 0
) -> Float[Tensor, "batch"]:
    """Return |v^T J v| after ``steps`` products J v from a random v, per example, as is common practice.

    It converges to the spectral radius if one real eigenvalue dominates. If a complex pair dominates, as is usual, it is
    too low and depends on ``steps``.
    """
    check_positive(steps=steps)
    jacobian = step_jacobian(loop, state, recalled)
    vector = random_vectors(jacobian.batch, jacobian.size, jacobian.point, torch.Generator().manual_seed(seed))
    quotient = torch.zeros(jacobian.batch)
    for _ in range(steps):
        product = jacobian.jvp(vector)
        quotient = (vector * product).sum(1).abs()
        length = torch.linalg.vector_norm(product, dim=1, keepdim=True)
        vector = product / length.clamp_min(torch.finfo(product.dtype).tiny)
    return quotient


def _signal(value: float | None, seconds: float) -> Signal:
    known = value is not None and math.isfinite(value)
    return Signal(value if known else None, round(seconds, 4))


def _timed(work: Callable[[], float]) -> Signal:
    began = time.perf_counter()
    return _signal(work(), time.perf_counter() - began)


def measure_signals(
    loop: Loop, task: Task, split: Split, trained_iterations: int, iterations: int, seed: int = 0
) -> dict[str, Signal]:
    """Return every signal of a loop on some easy problems, by name.

    Args:
        loop: the loop. Its readout gives the task's logits.
        task: gives the inputs and the rule for a right answer.
        split: the problems, at least two.
        trained_iterations: largest number of iterations in training, after which signals are measured.
        iterations: the horizon of the forecast, and the number of iterations of the rival that runs on. Its value is the
            accuracy there over the best on the way, or 0 if no answer is ever right. There is no forecast if training used as
            many iterations.
        seed: seed of the power iteration's start.
    """
    check_positive(trained_iterations=trained_iterations, iterations=iterations)
    found, answers = _of_weights(loop), answers_of(task)
    split = split.to(device_of_loop(loop, split.problems.device))
    with eval_mode(loop), without_autocast():
        began = time.perf_counter()
        with torch.no_grad():
            recalled = loop.encode(task.inputs(split.problems))
        seen = run_pass(loop, recalled, trained_iterations, seed)
        spent = time.perf_counter() - began
        state, mask = seen.last, mask_of(loop, recalled)

        def radius() -> float:
            rows = slice(0, POWER_EXAMPLES)
            return float(power_iteration(loop, select(state, rows), select(recalled, rows), seed=seed).median())

        def norm_ratio() -> float:
            smallest = smallest_scale(seen.start, mask)
            return float((norms(state, mask) / torch.maximum(norms(seen.start, mask), smallest)).median())

        def cosine() -> float:
            before, last = (flatten(part, mask).double() for part in (seen.before, state))
            return float(torch.cosine_similarity(before, last, dim=1).median())

        for name, work in {
            POWER_ITERATION: radius,
            LAST_RESIDUAL: lambda: float(seen.residual[-1].median()),
            NORM_RATIO: norm_ratio,
            COSINE: cosine,
            EASY_ACCURACY: lambda: _accuracy(loop, task, split, recalled, state),
            SLOPE: lambda: float(slope(seen.residual).median()),
            SLOWEST_TOKENS: lambda: float(slowest_tokens(loop, seen).median()),
        }.items():
            own = _timed(work)
            found[name] = _signal(own.value, own.seconds + spent)
        if iterations > trained_iterations:
            found.update(_of_forecast(loop, task, split, trained_iterations, iterations, seed))
        for names, go in (
            ((SWAP, SWAP_ANSWER), lambda: after_swap(loop, seen, trained_iterations, answers)),
            ((RANDOM, RANDOM_ANSWER), lambda: after_random_start(loop, seen, trained_iterations, seed, answers)),
        ):
            began = time.perf_counter()
            came = go()
            took = spent + time.perf_counter() - began
            values = (float(came.left.nanmedian()), float(came.same_answer.double().mean()))
            found.update({name: _signal(value, took) for name, value in zip(names, values, strict=True)})
        found[LONG_RUN] = _timed(lambda: _kept(loop, task, split, iterations))
    return found


def measure_further(loop: Loop, task: Task, split: Split, trained_iterations: int, seed: int = 0) -> dict[str, Signal]:
    """Return the signals of states and answers after ``BUDGET`` iterations; none if training used as many.

    Their names are those of `measure_signals` followed by ``AT_BUDGET``. Running on ends there too.
    """
    if trained_iterations >= BUDGET:
        return {}
    found = measure_signals(loop, task, split, BUDGET, BUDGET, seed)
    return {f"{name}{AT_BUDGET}": signal for name, signal in found.items() if name not in OF_WEIGHTS}


def _accuracy(loop: Loop, task: Task, split: Split, recalled: Tree, state: Tree) -> float:
    with torch.no_grad():
        right = answers_right(
            task, readout(loop, state, recalled), split.problems, split.answers, mask_of(loop, recalled)
        )
    return float(right.double().mean())


def _of_forecast(loop: Loop, task: Task, split: Split, trained: int, horizon: int, seed: int) -> dict[str, Signal]:
    """Return the signals of a forecast to a horizon, and what running on for as many steps says.

    The forecast itself is 1 if the loop keeps its answers, 0 if it collapses and None if the forecast cannot tell.
    """
    inputs, rule = task.inputs(split.problems), rule_of_split(task, split)
    found = forecast(loop, inputs, rule, trained, seed, answers_of(task), horizon=horizon)
    last = found.rounds[-1] if found.rounds else None
    values = {
        FORECAST: None if found.outlook is Outlook.CANNOT_TELL else float(found.keeps),
        FORECAST_KEPT: found.kept,
        FORECAST_LEAST: None if last is None else last.least,
        FORECAST_MOST: None if last is None else last.most,
        FORECAST_ANSWER: found.points[-1].same,
        FORECAST_COLLAPSE: fall([(point.iteration, point.value) for point in found.points]),
        FORECAST_STEPS: float(found.steps),
    }
    signals = {name: _signal(value, found.seconds) for name, value in values.items()}
    return signals | {SAME_STEPS: _timed(lambda: _kept(loop, task, split, found.steps))}


def _of_weights(loop: Loop) -> dict[str, Signal]:
    weights = recall_weights(loop)
    if weights is None:
        return {STATE_RADIUS: Signal(None, 0.0), WEIGHT_RATIO: Signal(None, 0.0)}
    of_state, of_input = weights
    return {
        STATE_RADIUS: _timed(lambda: matrix_radius(of_state)),
        WEIGHT_RATIO: _timed(lambda: float(of_state.norm() / of_input.norm())),
    }


def _kept(loop: Loop, task: Task, split: Split, iterations: int) -> float:
    config = EvaluationConfig(iterations=iterations, examples=len(split), until_settled=True)
    curve = evaluate_split(loop, task, split, config)
    return curve.last / curve.best if curve.best > 0 else 0.0


def forecast_split(settings: RunSettings, examples: int) -> Split:
    """Return the easy problems that forecasts are made from: the last of the easy split, which evaluation does not use.

    Args:
        settings: settings of the run.
        examples: number of problems.

    Raises:
        LoopscopeError: the easy split is too small for both.
    """
    name, split = next(iter(settings.data.evaluation_splits().items()))
    evaluated = settings.evaluation.examples
    if len(split) < evaluated + examples:
        raise LoopscopeError(
            f"the easy split ({name}) has {len(split)} problems, expected {evaluated} for the evaluation and {examples} others "
            "for forecasts: lower evaluation.examples or examination.examples"
        )
    difficulty = None if split.difficulty is None else split.difficulty[-examples:]
    return Split(split.problems[-examples:], split.answers[-examples:], difficulty)
