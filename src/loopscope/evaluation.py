"""Accuracy against the number of iterations, for any loop on any task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.errors import check_positive
from loopscope.fixed_points.residual import relative_residual, smallest_scale
from loopscope.loop import Loop, eval_mode, flatten, mask_of
from loopscope.tasks.task import Split, Task

WITHIN_BEST = 0.01
CACHED_TOKENS = 4096
DIFFICULTY_ITERATIONS = (1, 2, 4, 8, 16, 30, 64, 128, 256, 500, 1000, 2000)
"""The iterations after which accuracy is told apart by difficulty, and the last one."""
DIFFICULTY_BINS = 8
SETTLED = 1e-4
"""The relative residual within which a state counts as settled."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How a model is evaluated.

    Args:
        iterations: iterations to run; accuracy is taken after each.
        examples: most examples of a split.
        batch_size: most examples run together; fewer where they are long (see ``batches``).
    """

    iterations: int = 500
    examples: int = 1000
    batch_size: int = 100

    def __post_init__(self) -> None:
        check_positive(iterations=self.iterations, examples=self.examples, batch_size=self.batch_size)


@dataclass(frozen=True)
class DifficultyBin:
    """Accuracy on the examples of a range of difficulty.

    Args:
        lowest: the least difficulty of its examples.
        highest: the greatest.
        examples: number of examples.
        iterations: the iterations after which accuracy was taken.
        answer_accuracy: fraction of its examples whose whole answer is right, after each of these.
    """

    lowest: float
    highest: float
    examples: int
    iterations: list[int]
    answer_accuracy: list[float]


@dataclass(frozen=True)
class Settled:
    """Does arrival tell right answers from wrong ones? Taken at the last iteration.

    Args:
        tolerance: relative residual within which a state counts as settled.
        examples: number of examples whose state is.
        right: those of them whose whole answer is right.
    """

    tolerance: float
    examples: int
    right: int


@dataclass(frozen=True)
class AccuracyCurve:
    """Accuracy of one split at every iteration, from 1 on (item i is after i + 1 iterations).

    Args:
        examples: number of examples.
        answer_accuracy: fraction of examples whose whole answer is right.
        token_accuracy: fraction of tokens that are right.
        best: largest answer accuracy.
        best_iteration: the first iteration that reaches it.
        last: answer accuracy at the last iteration.
        first_within_1_percent: the first iteration whose accuracy is within 0.01 of the best.
        solved_then_broken: fraction of examples that are right at some iteration and wrong at the last.
        other_rules: answer accuracy by the task's other rules, by their names.
        by_difficulty: answer accuracy in bins of about as many examples each, easiest first; none where the split has
            no difficulty.
        settled: how many examples have settled, and how many of those are right.
    """

    examples: int
    answer_accuracy: list[float]
    token_accuracy: list[float]
    best: float
    best_iteration: int
    last: float
    first_within_1_percent: int
    solved_then_broken: float
    other_rules: dict[str, list[float]] = field(default_factory=dict)
    by_difficulty: list[DifficultyBin] = field(default_factory=list)
    settled: Settled | None = None


def difficulty_bins(
    solved: Bool[Tensor, "iterations examples"], difficulty: Float[Tensor, "examples"]
) -> list[DifficultyBin]:
    """Return accuracy in at most ``DIFFICULTY_BINS`` bins, bounded by quantiles; equal difficulties share a bin."""
    last = len(solved)
    iterations = [i for i in DIFFICULTY_ITERATIONS if i < last] + [last]
    inner = torch.linspace(0, 1, DIFFICULTY_BINS + 1, dtype=difficulty.dtype)[1:-1]
    bounds = difficulty.quantile(inner, interpolation="lower").unique()
    places = torch.bucketize(difficulty, bounds)
    at = solved[[i - 1 for i in iterations]].double()
    bins = []
    for place in places.unique():
        within = places == place
        bins.append(
            DifficultyBin(
                lowest=difficulty[within].min().item(),
                highest=difficulty[within].max().item(),
                examples=int(within.sum()),
                iterations=iterations,
                answer_accuracy=at[:, within].mean(1).tolist(),
            )
        )
    return bins


def summarize(
    solved: Bool[Tensor, "iterations examples"],
    token_accuracy: Float[Tensor, "iterations"],
    other_rules: Mapping[str, Float[Tensor, "iterations"]] | None = None,
    difficulty: Float[Tensor, "examples"] | None = None,
    residual: Float[Tensor, "examples"] | None = None,
) -> AccuracyCurve:
    """Return the curve and its figures from which examples are solved at each iteration, and their last residuals."""
    accuracy = solved.double().mean(1)
    best = accuracy.max()
    # A hair below, so that an accuracy of exactly the best less 0.01 counts whatever its rounding.
    near = accuracy >= best - WITHIN_BEST - 1e-9
    return AccuracyCurve(
        examples=solved.shape[1],
        answer_accuracy=accuracy.tolist(),
        token_accuracy=token_accuracy.double().tolist(),
        best=best.item(),
        best_iteration=int(accuracy.argmax()) + 1,
        last=accuracy[-1].item(),
        first_within_1_percent=int(near.int().argmax()) + 1,
        solved_then_broken=(solved.any(0) & ~solved[-1]).double().mean().item(),
        other_rules={name: values.tolist() for name, values in (other_rules or {}).items()},
        by_difficulty=[] if difficulty is None else difficulty_bins(solved, difficulty),
        settled=None if residual is None else _settled(solved[-1], residual),
    )


def _settled(right: Bool[Tensor, "examples"], residual: Float[Tensor, "examples"]) -> Settled:
    still = residual <= SETTLED
    return Settled(SETTLED, int(still.sum()), int((still & right).sum()))


def batches(split: Split, config: EvaluationConfig) -> list[slice]:
    """Return the rows that are run together: as many examples as the config allows and a processor's cache holds.

    Their states stay in the cache from one iteration to the next, which halves the time of long examples.
    """
    count = min(len(split), config.examples)
    size = min(config.batch_size, max(1, CACHED_TOKENS // split.problems.shape[1]))
    return [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]


@torch.no_grad()  # not inference mode: what a loop keeps for later (tables, masks) must still serve in training
def evaluate_split(
    loop: Loop,
    task: Task,
    split: Split,
    config: EvaluationConfig,
    on_iteration: Callable[[], None] | None = None,
) -> AccuracyCurve:
    """Run a loop on a split and return its accuracy after every iteration.

    No more than two states are held at a time, and one bit per example and iteration. Padding (the loop's mask) counts neither as
    right nor as wrong. A module is put in eval mode meanwhile.

    Args:
        loop: any loop whose ``read`` gives the task's logits.
        task: gives inputs and the rule for being right.
        split: the examples.
        config: iterations, examples, batch size.
        on_iteration: called after each iteration of each batch.
    """
    split = split.first(config.examples)
    solved = torch.empty(config.iterations, len(split), dtype=torch.bool)
    tokens_right, tokens = torch.zeros(2, config.iterations, dtype=torch.float64)
    residual = torch.empty(len(split))
    others: dict[str, Tensor] = defaultdict(lambda: torch.zeros(config.iterations, dtype=torch.float64))
    with eval_mode(loop):
        for rows in batches(split, config):
            problems, answers = split.problems[rows], split.answers[rows]
            recalled = loop.encode(task.inputs(problems))
            state = loop.start(recalled)
            real = mask_of(loop, recalled)
            smallest = smallest_scale(state, real)
            for i in range(config.iterations):
                before = state
                state = loop.step(before, recalled)
                logits = loop.read(state)
                right = task.correct(logits, problems, answers)
                padding = torch.zeros_like(right) if real is None else ~real
                solved[i, rows] = (right | padding).all(1)
                tokens_right[i] += (right & ~padding).sum()
                tokens[i] += (~padding).sum()
                for name, right_so in task.other_rules(logits, problems, answers).items():
                    others[name][i] += right_so.sum()
                if on_iteration is not None:
                    on_iteration()
            residual[rows] = relative_residual(flatten(before, real), flatten(state, real), smallest).float()
    other_rules = {name: right / len(split) for name, right in others.items()}
    return summarize(solved, tokens_right / tokens, other_rules, split.difficulty, residual)


def evaluate(
    loop: Loop,
    task: Task,
    config: EvaluationConfig | None = None,
    on_iteration: Callable[[], None] | None = None,
) -> dict[str, AccuracyCurve]:
    """Return the accuracy curve of each of the task's evaluation splits."""
    config = config or EvaluationConfig()
    return {
        name: evaluate_split(loop, task, split, config, on_iteration)
        for name, split in task.evaluation_splits().items()
    }


def iterations_to_run(task: Task, config: EvaluationConfig) -> int:
    """Return how many times ``evaluate`` will call ``on_iteration``: for progress."""
    return config.iterations * sum(len(batches(split, config)) for split in task.evaluation_splits().values())


def to_json(curves: Mapping[str, AccuracyCurve]) -> dict[str, Any]:
    """Return the curves as plain JSON values."""
    return {name: asdict(curve) for name, curve in curves.items()}
