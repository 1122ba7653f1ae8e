"""Accuracy against the number of iterations, for any loop on any task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.checks import check_dynamics, check_is_loop, check_read, check_states
from loopscope.contexts import device_of_loop, eval_mode
from loopscope.errors import check_positive
from loopscope.fixed_points.residual import relative_residual, smallest_scale
from loopscope.loop import Loop, first_state, readout
from loopscope.tasks.task import Split, Task
from loopscope.trees import flatten, select

WITHIN_BEST = 0.01
CACHED_TOKENS = 4096
DIFFICULTY_ITERATIONS = (1, 2, 4, 8, 16, 30, 64, 128, 256, 500, 1000, 2000)
"""The iterations after which accuracy is told apart by difficulty, and the last one."""
DIFFICULTY_BINS = 8
SETTLED = 1e-4
"""The relative residual within which a state counts as settled."""
PATIENCE = 8
"""For so many iterations in a row must a settled state keep its prediction before its example may leave early."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How a model is evaluated.

    Args:
        iterations: iterations to run; accuracy is measured after each.
        examples: most examples of a split.
        batch_size: most examples in a batch; long examples come in smaller batches on a CPU.
        until_settled: whether each example stops once its state and its prediction have settled, instead of running to
            the last iteration.

    Example:
        >>> import loopscope as ls
        >>> ls.EvaluationConfig(iterations=100, examples=64)
        EvaluationConfig(iterations=100, examples=64, batch_size=100, until_settled=False)
    """

    iterations: int = 500
    examples: int = 1000
    batch_size: int = 100
    until_settled: bool = False

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
class Steps:
    """What it cost to run each example until it had settled, in steps of single examples.

    Args:
        computed: steps that were computed.
        full: steps that running every example to the last iteration takes.
    """

    computed: int
    full: int


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
        steps: what was computed, where examples were run until they had settled; None where each was run to the last
            iteration.

    Example:
        >>> import torch
        >>> from loopscope.evaluation import summarize
        >>> solved = torch.tensor([[False, False], [True, True], [True, False]])  # 3 iterations of 2 examples
        >>> curve = summarize(solved, token_accuracy=torch.tensor([0.5, 1.0, 0.9]))
        >>> curve.best, curve.best_iteration, curve.last, curve.solved_then_broken
        (1.0, 2, 0.5, 0.5)
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
    steps: Steps | None = None


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
    steps: Steps | None = None,
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
        steps=steps,
    )


def _settled(right: Bool[Tensor, "examples"], residual: Float[Tensor, "examples"]) -> Settled:
    still = residual <= SETTLED
    return Settled(SETTLED, int(still.sum()), int((still & right).sum()))


def batches(split: Split, config: EvaluationConfig) -> list[slice]:
    """Return the rows that are run together: as many examples as the config allows and a processor's cache holds.

    Their states stay in the cache from one iteration to the next, which halves the time of long examples. On a GPU
    there is no such bound.
    """
    count = min(len(split), config.examples)
    cached = max(1, CACHED_TOKENS // split.problems.shape[1])
    size = min(config.batch_size, cached) if split.problems.device.type == "cpu" else config.batch_size
    return [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]


def decisions(
    logits: Float[Tensor, "batch tokens outputs"], real: Bool[Tensor, "batch tokens"] | None = None
) -> Int[Tensor, "batch tokens"]:
    """Return what logits decide: each token's largest output.

    Where a token has a single output, tokens are compared with each other, and what is decided is their order.

    Args:
        logits: what ``read`` returned.
        real: true where a token is real; padding decides nothing.
    """
    if real is not None:
        logits = logits.masked_fill(~real.unsqueeze(-1), float("-inf"))
    if logits.shape[-1] > 1:
        return logits.argmax(-1)
    return logits.squeeze(-1).argsort(dim=1, descending=True, stable=True)


def answers_right(
    task: Task,
    logits: Float[Tensor, "batch tokens outputs"],
    problems: Int[Tensor, "batch tokens"],
    answers: Int[Tensor, "batch columns"],
    real: Bool[Tensor, "batch tokens"] | None = None,
) -> Bool[Tensor, "batch"]:
    """Return which whole answers are right; logits that are no numbers are no answer.

    Args:
        task: gives the rule for being right.
        logits: what ``read`` returned.
        problems: the problems.
        answers: their answers.
        real: true where a token is real; padding is neither right nor wrong.
    """
    right = _right(task, logits, problems, answers)
    return (right if real is None else right | ~real).all(1)


def _right(task: Task, logits: Tensor, problems: Tensor, answers: Tensor) -> Bool[Tensor, "batch columns"]:
    """Return what is right by the task's rule, which would take logits that are no numbers for an answer."""
    right = task.correct(logits, problems, answers)
    numbers = ~logits.isnan().any(-1)
    return right & (numbers if numbers.shape == right.shape else numbers.all(1, keepdim=True))


def rule_of_split(task: Task, split: Split) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the rule that says which whole answers to a split's problems are right, from logits and the problems' rows."""
    return lambda logits, rows: answers_right(task, logits, split.problems[rows], split.answers[rows])


@dataclass(frozen=True)
class _Judged:
    """What is right about the examples of a batch after one iteration; padding is neither right nor wrong."""

    right: Bool[Tensor, "batch columns"]
    padding: Bool[Tensor, "batch columns"]
    others: dict[str, Bool[Tensor, "batch"]]

    def at(self, chosen: Bool[Tensor, "batch"]) -> _Judged:
        return _Judged(self.right[chosen], self.padding[chosen], select(self.others, chosen))

    def outcomes(self) -> Bool[Tensor, "batch rules"]:
        """Return every outcome that is recorded."""
        return torch.cat([self.right | self.padding, *(right.unsqueeze(1) for right in self.others.values())], dim=1)


class _Tally:
    """What is right after each iteration, over all examples, and the examples' last residuals.

    It is kept where it is found, so that a GPU need not wait for it to be read.
    """

    def __init__(self, iterations: int, examples: int, device: torch.device) -> None:
        self.solved = torch.empty(iterations, examples, dtype=torch.bool, device=device)
        self.residual = torch.empty(examples, device=device)
        self.tokens_right, self.tokens = torch.zeros(2, iterations, dtype=torch.float64, device=device)
        self.others: dict[str, Tensor] = defaultdict(
            lambda: torch.zeros(iterations, dtype=torch.float64, device=device)
        )

    def add(self, at: slice, rows: Int[Tensor, "batch"], judged: _Judged) -> None:
        """Record some examples for the iterations ``at``."""
        self.solved[at, rows] = (judged.right | judged.padding).all(1)
        self.tokens_right[at] += (judged.right & ~judged.padding).sum()
        self.tokens[at] += (~judged.padding).sum()
        for name, right in judged.others.items():
            self.others[name][at] += right.sum()


class _Stillness:
    """For how many iterations in a row each example's state has been settled and its prediction unchanged."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, ...] | None = None
        self._still = torch.zeros((), dtype=torch.long)

    def settled(self, residual: Float[Tensor, "batch"], *last: Tensor) -> Bool[Tensor, "batch"]:
        """Return which examples have been still for long enough, after one more iteration.

        Args:
            residual: relative residual of the step.
            last: what must not change, each batch first.
        """
        still = residual <= SETTLED
        for now, before in zip(last, self._last or last, strict=True):
            still = still & (now == before).all(1)
        self._still, self._last = torch.where(still, self._still + 1, 0), last
        return self._still >= PATIENCE

    def keep(self, rows: Bool[Tensor, "batch"]) -> None:
        """Forget all examples but some."""
        self._last, self._still = select((self._last, self._still), rows)


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
    right nor as wrong. A module is put in eval mode meanwhile; the split is taken to the device of its parameters.

    With ``config.until_settled`` an example leaves the batch once, for ``PATIENCE`` iterations in a row, its relative
    residual was within ``SETTLED`` and neither what its logits decide nor what is right about it changed. What is
    right about it then stands for all later iterations too; so does its residual.

    Args:
        loop: any loop whose ``read`` gives the task's logits.
        task: gives inputs and the rule for being right.
        split: the examples.
        config: iterations, examples, batch size, and whether examples leave early.
        on_iteration: called after each iteration of each batch, those that nothing is left to do in included.
    """
    check_is_loop(loop)
    split = split.first(config.examples)
    device = device_of_loop(loop, split.problems.device)
    split = split.to(device)
    tally, computed = _Tally(config.iterations, len(split), device), 0
    with eval_mode(loop):
        for part in batches(split, config):
            rows = torch.arange(part.start, part.stop, device=device)
            computed += _run(loop, task, split, rows, config, on_iteration or (lambda: None), tally)
    return summarize(
        tally.solved.cpu(),
        (tally.tokens_right / tally.tokens).cpu(),
        {name: (right / len(split)).cpu() for name, right in tally.others.items()},
        None if split.difficulty is None else split.difficulty.cpu(),
        tally.residual.cpu(),
        Steps(computed, config.iterations * len(split)) if config.until_settled else None,
    )


def _run(
    loop: Loop,
    task: Task,
    split: Split,
    rows: Int[Tensor, "batch"],
    config: EvaluationConfig,
    on_iteration: Callable[[], None],
    tally: _Tally,
) -> int:
    """Run some examples of a split together and record what becomes of them; return the steps computed."""
    problems, answers = split.problems[rows], split.answers[rows]
    recalled = loop.encode(task.inputs(problems))
    state = first_state(loop, recalled)
    real = check_states(loop, state, recalled)
    check_read(readout(loop, state, recalled), len(rows))
    if config.until_settled and not int(rows[0]):  # examples will leave the batch: may they?
        check_dynamics(loop, state, recalled)
    smallest = smallest_scale(state, real)
    stillness, computed = _Stillness(), 0
    for i in range(config.iterations):
        before = state
        state = loop.step(before, recalled)
        computed += len(rows)
        logits = readout(loop, state, recalled)
        right = _right(task, logits, problems, answers)
        padding = torch.zeros_like(right) if real is None else ~real
        judged = _Judged(right, padding, task.other_rules(logits, problems, answers))
        tally.add(slice(i, i + 1), rows, judged)
        on_iteration()
        if not config.until_settled and i + 1 < config.iterations:
            continue
        now = relative_residual(flatten(before, real), flatten(state, real), smallest).float()
        tally.residual[rows] = now
        if not config.until_settled:
            continue
        settled = stillness.settled(now, decisions(logits, real), judged.outcomes())
        if bool(settled.any()):
            tally.add(slice(i + 1, None), rows[settled], judged.at(settled))
            going = ~settled
            rows, problems, answers, smallest = select((rows, problems, answers, smallest), going)
            state, recalled = select((state, recalled), going)
            real = None if real is None else real[going]
            stillness.keep(going)
        if not len(rows):
            break
    for _ in range(i + 1, config.iterations):
        on_iteration()
    return computed


def evaluate(
    loop: Loop,
    task: Task,
    config: EvaluationConfig | None = None,
    on_iteration: Callable[[], None] | None = None,
    splits: Mapping[str, Split] | None = None,
) -> dict[str, AccuracyCurve]:
    """Return the accuracy curve of each of the task's evaluation splits, or of ``splits`` where they are given.

    Example:
        >>> import torch, loopscope as ls
        >>> task = ls.PrefixSums(train_bits=4, test_bits=(4, 8), strings=10, test_strings=4)
        >>> config = ls.LoopedTransformerConfig(
        ...     width=16, heads=2, inputs=1, outputs=2, grid=(0,), attention="local", kernel_size=5
        ... )
        >>> curves = ls.evaluate(ls.build_model(config), task, ls.EvaluationConfig(iterations=3))
        >>> {name: len(curve.answer_accuracy) for name, curve in curves.items()}
        {'4 bits': 3, '8 bits': 3}
    """
    config = config or EvaluationConfig()
    return {
        name: evaluate_split(loop, task, split, config, on_iteration)
        for name, split in (task.evaluation_splits() if splits is None else splits).items()
    }


def iterations_to_run(splits: Mapping[str, Split], config: EvaluationConfig) -> int:
    """Return how many times ``evaluate`` will call ``on_iteration``: for progress."""
    return config.iterations * sum(len(batches(split, config)) for split in splits.values())


def to_json(curves: Mapping[str, AccuracyCurve]) -> dict[str, Any]:
    """Return the curves as plain JSON values."""
    return {name: asdict(curve) for name, curve in curves.items()}
