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
from loopscope.errors import check_history, check_positive
from loopscope.fixed_points.residual import relative_residual, smallest_scale
from loopscope.loop import Loop, first_state, readout
from loopscope.stability.orbits.answers import at_every_token, gives_answer, predictions
from loopscope.stability.results import reached_by
from loopscope.tasks.task import Split, Task, answers_of
from loopscope.trees import flatten, select

WITHIN_BEST = 0.01
CACHED_TOKENS = 4096
DIFFICULTY_ITERATIONS = (1, 2, 4, 8, 16, 30, 64, 128, 256, 500, 1000, 2000)
"""Iterations after which accuracy is split by difficulty. The last iteration of a run is always added."""
DIFFICULTY_BINS = 8
SETTLED = 1e-4
"""The relative residual within which a state counts as settled."""
PATIENCE = 8
"""Number of consecutive settled iterations with the same prediction before an example may leave early."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How a model is evaluated.

    Args:
        iterations: number of iterations to run. Accuracy is measured after each.
        examples: largest number of examples per split.
        batch_size: largest number of examples per batch. On a CPU, long examples come in smaller batches.
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
    """Accuracy on the examples within a range of difficulty.

    Args:
        lowest: smallest difficulty in the bin.
        highest: largest difficulty in the bin.
        examples: number of examples.
        iterations: iterations after which accuracy was measured.
        answer_accuracy: fraction of examples whose whole answer is right, after each of these iterations.
    """

    lowest: float
    highest: float
    examples: int
    iterations: list[int]
    answer_accuracy: list[float]


@dataclass(frozen=True)
class Settled:
    """How many examples have settled at the last iteration, and how many of these are right.

    Args:
        tolerance: relative residual within which a state counts as settled.
        examples: number of examples whose state has settled.
        right: number of settled examples whose whole answer is right.
    """

    tolerance: float
    examples: int
    right: int


@dataclass(frozen=True)
class FinalAnswers:
    """Iterations by which answers are final, which means that they never change again up to the last iteration.

    Args:
        half: iteration by which 50% of the answers are final; None if fewer are.
        nine_tenths: iteration by which 90% of the answers are final; None if fewer are.
        all: iteration by which all answers are final; None if some are not.
    """

    half: float | None
    nine_tenths: float | None
    all: float | None


@dataclass(frozen=True)
class BrokenReadouts:
    """Readouts that turn NaN or infinite.

    Args:
        examples: number of examples with such a readout.
        first: first iteration at which a readout does.
    """

    examples: int
    first: int


@dataclass(frozen=True)
class Steps:
    """Cost of running each example until it settles, in steps of single examples.

    Args:
        computed: number of steps that were computed.
        full: number of steps if every example ran to the last iteration.
    """

    computed: int
    full: int


@dataclass(frozen=True)
class AccuracyCurve:
    """Accuracy on one split after every iteration. Item i is the accuracy after i + 1 iterations.

    Args:
        examples: number of examples.
        answer_accuracy: fraction of examples whose whole answer is right.
        token_accuracy: fraction of tokens that are right.
        best: largest answer accuracy.
        best_iteration: the first iteration that reaches it.
        last: answer accuracy at the last iteration.
        first_within_1_percent: the first iteration whose accuracy is within 0.01 of the best.
        solved_then_broken: fraction of examples that are right at some iteration and wrong at the last.
        other_rules: answer accuracy under each of the task's other rules, by name.
        by_difficulty: answer accuracy in bins of about equal size, easiest first. Empty if the split has no difficulty.
        settled: how many examples have settled, and how many of these are right.
        steps: cost of the run if examples stopped when they had settled; None if all ran to the last iteration.
        final: by which iteration answers are final; None for a single iteration.
        broken: the readouts that turn NaN or infinite; None if there are none.

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
    final: FinalAnswers | None = None
    broken: BrokenReadouts | None = None


def difficulty_bins(
    solved: Bool[Tensor, "iterations examples"], difficulty: Float[Tensor, "examples"]
) -> list[DifficultyBin]:
    """Return the accuracy in at most ``DIFFICULTY_BINS`` quantile bins. Equal difficulties share a bin."""
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
    changed_at: Int[Tensor, "examples"] | None = None,
    broken_at: Int[Tensor, "examples"] | None = None,
) -> AccuracyCurve:
    """Summarize which examples are solved after each iteration as an accuracy curve.

    Args:
        solved: which examples are right after each iteration.
        token_accuracy: fraction of tokens that are right.
        other_rules: answer accuracy under the task's other rules, by name.
        difficulty: difficulty of each example.
        residual: the last relative residual of each example.
        steps: cost of the run, if examples stopped when they had settled.
        changed_at: the last iteration at which each example's answer changed; 0 if it never did.
        broken_at: the first iteration at which each example's readout was NaN or infinite; 0 if it never was.
    """
    accuracy = solved.double().mean(1)
    best = accuracy.max()
    # The margin of 1e-9 makes an accuracy of exactly best - 0.01 count in spite of rounding.
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
        final=None if changed_at is None or len(solved) == 1 else _final(changed_at, len(solved)),
        broken=None if broken_at is None else _broken(broken_at),
    )


def _final(changed_at: Int[Tensor, "examples"], iterations: int) -> FinalAnswers:
    """Return the iterations by which answers are final. An answer that changed in the last iteration is not final."""
    final = [None if last == iterations else max(1.0, last) for last in changed_at.tolist()]
    return FinalAnswers(*(reached_by(final, share) for share in (0.5, 0.9, 1.0)))


def _broken(broken_at: Int[Tensor, "examples"]) -> BrokenReadouts | None:
    broken = broken_at[broken_at > 0]
    return BrokenReadouts(len(broken), int(broken.min())) if len(broken) else None


def _settled(right: Bool[Tensor, "examples"], residual: Float[Tensor, "examples"]) -> Settled:
    still = residual <= SETTLED
    return Settled(SETTLED, int(still.sum()), int((still & right).sum()))


def batches(split: Split, config: EvaluationConfig) -> list[slice]:
    """Split the examples into batches that respect the config and, on a CPU, fit its cache.

    States that stay in the cache from one iteration to the next halve the time of long examples. On a GPU only the
    config limits a batch.
    """
    count = min(len(split), config.examples)
    cached = max(1, CACHED_TOKENS // split.problems.shape[1])
    size = min(config.batch_size, cached) if split.problems.device.type == "cpu" else config.batch_size
    return [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]


def decisions(
    logits: Float[Tensor, "batch tokens outputs"], real: Bool[Tensor, "batch tokens"] | None = None
) -> Int[Tensor, "batch tokens"]:
    """Return the decision that logits make: the index of each token's largest output.

    If tokens have a single output, they are compared with each other, and the decision is their order.

    Args:
        logits: output of ``read``.
        real: true where a token is real. Padding is ignored.
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
    """Return which whole answers are right. An answer with NaN among its logits is wrong.

    Args:
        task: the task, whose rule decides.
        logits: output of ``read``.
        problems: the problems.
        answers: the answers to the problems.
        real: true where a token is real. Padding counts neither as right nor as wrong.
    """
    right = _right(task, logits, problems, answers)
    return (right if real is None else right | ~real).all(1)


def _right(task: Task, logits: Tensor, problems: Tensor, answers: Tensor) -> Bool[Tensor, "batch columns"]:
    """Apply the task's rule, and count NaN logits as wrong, which the rule alone might accept."""
    right = task.correct(logits, problems, answers)
    numbers = ~logits.isnan().any(-1)
    return right & (numbers if numbers.shape == right.shape else numbers.all(1, keepdim=True))


def rule_of_split(task: Task, split: Split) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of logits and rows of the split that says which whole answers are right."""
    return lambda logits, rows: answers_right(task, logits, split.problems[rows], split.answers[rows])


@dataclass(frozen=True)
class _Judged:
    """Which columns of a batch's answers are right after one iteration. Padding is neither right nor wrong."""

    right: Bool[Tensor, "batch columns"]
    padding: Bool[Tensor, "batch columns"]
    others: dict[str, Bool[Tensor, "batch"]]

    def at(self, chosen: Bool[Tensor, "batch"]) -> _Judged:
        return _Judged(self.right[chosen], self.padding[chosen], select(self.others, chosen))

    def outcomes(self) -> Bool[Tensor, "batch rules"]:
        """Return all recorded outcomes as one tensor."""
        return torch.cat([self.right | self.padding, *(right.unsqueeze(1) for right in self.others.values())], dim=1)


class _Tally:
    """Counts of right answers after each iteration, and the last residual of each example.

    The tensors stay on the loop's device, so that a GPU does not wait for the CPU to read them.
    """

    def __init__(self, iterations: int, examples: int, device: torch.device) -> None:
        check_history(iterations, examples + 64)  # beside the outcomes, the sums of a few rules in float64
        self.solved = torch.empty(iterations, examples, dtype=torch.bool, device=device)
        self.residual = torch.empty(examples, device=device)
        self.changed_at, self.broken_at = torch.zeros(2, examples, dtype=torch.long, device=device)
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

    def note(self, iteration: int, rows: Int[Tensor, "batch"], seen: _Seen) -> None:
        """Record whose answer changed in an iteration (from 1), and whose readout broke."""
        self.changed_at[rows] = torch.where(seen.changed, iteration, self.changed_at[rows])
        new = seen.broken & (self.broken_at[rows] == 0)
        self.broken_at[rows] = torch.where(new, iteration, self.broken_at[rows])


@dataclass(frozen=True)
class _Seen:
    """The changes of a batch's readouts in one iteration."""

    changed: Bool[Tensor, "batch"]
    broken: Bool[Tensor, "batch"]


class _Answers:
    """The latest answers of a batch, and which numbers of its readout were finite at the first state."""

    def __init__(self, task: Task, logits: Tensor, real: Tensor | None) -> None:
        self._answers = answers_of(task) or predictions
        self._last, self._finite = self._compared(logits, real), logits.isfinite()

    def _compared(self, logits: Tensor, real: Tensor | None) -> Tensor:
        answers = self._answers(logits)
        return answers if real is None or answers.shape != real.shape else answers.masked_fill(~real, 0)

    def seen(self, logits: Tensor, real: Tensor | None) -> _Seen:
        """Compare the readout of one more iteration to the previous one. NaN is not an answer and counts as a change."""
        now, answered = self._compared(logits, real), at_every_token(gives_answer(logits), real)
        changed = (now != self._last).flatten(1).any(1) | ~answered
        intact = at_every_token((logits.isfinite() | ~self._finite).all(-1), real)
        self._last = now
        return _Seen(changed, ~intact | ~answered)

    def keep(self, rows: Bool[Tensor, "batch"]) -> None:
        """Keep only the given examples."""
        self._last, self._finite = select((self._last, self._finite), rows)


class _Stillness:
    """Counts, per example, consecutive iterations with a settled state and an unchanged prediction."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, ...] | None = None
        self._still = torch.zeros((), dtype=torch.long)

    def settled(self, residual: Float[Tensor, "batch"], *last: Tensor) -> Bool[Tensor, "batch"]:
        """Return which examples have been still for long enough, after one more iteration.

        Args:
            residual: relative residual of the step.
            last: tensors that must not change, batch first.
        """
        still = residual <= SETTLED
        for now, before in zip(last, self._last or last, strict=True):
            still = still & (now == before).all(1)
        self._still, self._last = torch.where(still, self._still + 1, 0), last
        return self._still >= PATIENCE

    def keep(self, rows: Bool[Tensor, "batch"]) -> None:
        """Keep only the given examples."""
        self._last, self._still = select((self._last, self._still), rows)


@torch.no_grad()  # not inference mode: tensors that a loop caches (tables, masks) must remain usable in training
def evaluate_split(
    loop: Loop,
    task: Task,
    split: Split,
    config: EvaluationConfig,
    on_iteration: Callable[[], None] | None = None,
) -> AccuracyCurve:
    """Run a loop on a split and return its accuracy after every iteration.

    At most two states are kept in memory, and one bit per example and iteration. Padding (the loop's mask) counts
    neither as right nor as wrong. A module is in eval mode during the run. The split is moved to the device of the
    loop's parameters.

    With ``config.until_settled``, an example leaves the batch after ``PATIENCE`` consecutive iterations in which its
    relative residual was within ``SETTLED`` and neither its decision nor its correctness changed. Its outcome and
    residual then count for all later iterations.

    Args:
        loop: any loop whose ``read`` returns the task's logits.
        task: encodes the problems and judges the answers.
        split: the examples.
        config: iterations, examples, batch size, and whether examples leave early.
        on_iteration: called after each iteration of each batch, including iterations in which no example is left.
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
        tally.changed_at.cpu(),
        tally.broken_at.cpu(),
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
    """Run some examples of a split as one batch and record the outcomes. Return the number of steps computed."""
    problems, answers = split.problems[rows], split.answers[rows]
    recalled = loop.encode(task.inputs(problems))
    state = first_state(loop, recalled)
    real = check_states(loop, state, recalled)
    logits = readout(loop, state, recalled)
    check_read(logits, len(rows))
    if config.until_settled and not int(rows[0]):  # examples will leave the batch, so they must be independent
        check_dynamics(loop, state, recalled)
    smallest = smallest_scale(state, real)
    stillness, computed, seen = _Stillness(), 0, _Answers(task, logits, real)
    for i in range(config.iterations):
        before = state
        state = loop.step(before, recalled)
        computed += len(rows)
        logits = readout(loop, state, recalled)
        right = _right(task, logits, problems, answers)
        padding = torch.zeros_like(right) if real is None else ~real
        judged = _Judged(right, padding, task.other_rules(logits, problems, answers))
        tally.add(slice(i, i + 1), rows, judged)
        tally.note(i + 1, rows, seen.seen(logits, real))
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
            seen.keep(going)
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
    """Return the accuracy curve of each evaluation split of a task, by name.

    Args:
        loop: any loop whose ``read`` returns the task's logits.
        task: encodes the problems and judges the answers.
        config: options of the evaluation; the defaults if None.
        on_iteration: called after each iteration of each batch.
        splits: splits to evaluate instead of the task's own.

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
    """Return how many times ``evaluate`` will call ``on_iteration``, for a progress bar."""
    return config.iterations * sum(len(batches(split, config)) for split in splits.values())


def to_json(curves: Mapping[str, AccuracyCurve]) -> dict[str, Any]:
    """Return the curves as plain JSON values."""
    return {name: asdict(curve) for name, curve in curves.items()}
