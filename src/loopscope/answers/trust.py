"""How well arrival, the residual, the estimated error and other signals separate right answers from wrong ones.

Every example of a split is run for the same number of iterations. The signals are computed without the answer, and are then
compared with whether the answer is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.contexts import device_of_loop, eval_mode
from loopscope.errors import LoopscopeError
from loopscope.evaluation import SETTLED, EvaluationConfig, answers_right, batches
from loopscope.files import read_json_as
from loopscope.loop import Loop, mask_of, readout
from loopscope.metrics import MIN_PER_GROUP, auc, interval, perfect_area, random_area, risk_curve
from loopscope.schema import misfit
from loopscope.stability.orbits.arrival import ASSUMED_RATE, Ends, Step, follow
from loopscope.tasks.task import ShowsAChoice, Split, Task
from loopscope.training.settings import settings_from
from loopscope.trees import select

DIGITS = 4
"""Significant digits of a signal. Signals are rounded before use, so the stored file reproduces the reported numbers."""

Doubt = Float[np.ndarray, "examples"]
Flags = Bool[np.ndarray, "examples"]


@dataclass(frozen=True)
class AnswerSignals:
    """Signals of each example, and whether its answer is right. A signal that was never reached is infinite.

    Args:
        right: whether the whole answer is right after the last iteration.
        arrived: whether the state arrived within 1e-4 (see ``loopscope.stability.orbits.arrival``).
        residual: relative residual r of the last step.
        contraction: rate q per step, fitted to log r over the last 8 steps above rounding.
        error: r / (1 - q), the remaining relative distance to the fixed point at this rate (``Ends.radius``).
        unsure: one minus the softmax confidence of the whole answer (see ``unsureness``).
        settling: first iteration with a residual within 1e-4, where ``loopscope solve`` stops.
        settled_right: whether the answer is right at that iteration, or at the last one if it never settled.
        settled_unsure: one minus the softmax confidence at the same iteration.
        shown_right: whether the answer shown to the user at that iteration is right. It differs from ``settled_right``
            for a task that shows a choice among legal answers (`loopscope.tasks.task.ShowsAChoice`), such as chess.
        shown_unsure: one minus the probability of the answer shown.
    """

    right: Flags
    arrived: Flags
    residual: Doubt
    contraction: Doubt
    error: Doubt
    unsure: Doubt
    settling: Doubt
    settled_right: Flags
    settled_unsure: Doubt
    shown_right: Flags
    shown_unsure: Doubt

    def __len__(self) -> int:
        return len(self.right)

    def at(self, chosen: Flags) -> AnswerSignals:
        """Return the evidence of the chosen examples."""
        return AnswerSignals(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def to_json(self) -> dict[str, list[Any]]:
        """Return one list per field, with 1 and 0 for booleans and null for infinity."""
        return {
            field.name: [
                int(value) if isinstance(value, bool) else value if math.isfinite(value) else None
                for value in getattr(self, field.name).tolist()
            ]
            for field in fields(self)
        }


FLAGS = ("right", "arrived", "settled_right", "shown_right")
SHOWN = {"shown_right": "settled_right", "shown_unsure": "settled_unsure"}
"""Substitutes for fields that older files lack: without a choice, the answer shown is the answer read."""


def _damage(values: Mapping[str, Sequence[float | None]]) -> str | None:
    """Return a description of the first fault in values for ``signals_from``, or None."""
    if (wrong := misfit(values, dict[str, list[Any]])) is not None:
        return wrong
    for name, column in values.items():
        kind: Any = Literal[0, 1] if name in FLAGS else float | None
        for place, value in enumerate(column):
            if (wrong := misfit(value, kind, f"{name}.{place}")) is not None:
                return wrong
            if value is not None and not math.isfinite(value):
                return f"{name}.{place} is {value}, expected a finite number or null"
    return None


def signals_from(values: Mapping[str, Sequence[float | None]]) -> AnswerSignals:
    """Return the evidence from the output of ``AnswerSignals.to_json``.

    Raises:
        LoopscopeError: a value is damaged, a field is missing, or fields differ in length.
    """
    if (wrong := _damage(values)) is not None:
        raise LoopscopeError(f"the evidence is damaged ({wrong}): run loopscope trust again")
    names = [field.name for field in fields(AnswerSignals)]
    values = {**{name: values[other] for name, other in SHOWN.items() if other in values}, **values}
    missing = [name for name in names if name not in values]
    if missing or len({len(values[name]) for name in names}) > 1:
        raise LoopscopeError(
            f"expected lists of equal length of {', '.join(names)}{f', but {missing[0]} is missing' if missing else ''}"
        )
    return AnswerSignals(
        **{
            name: np.array(values[name], dtype=bool)
            if name in FLAGS
            else np.array([math.inf if value is None else value for value in values[name]], dtype=np.float64)
            for name in names
        }
    )


def joined(parts: Sequence[AnswerSignals]) -> AnswerSignals:
    """Return the evidence of several splits as one."""
    return AnswerSignals(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(AnswerSignals)}
    )


@dataclass(frozen=True)
class _Measured:
    """What trust.json holds."""

    settings: dict[str, Any]
    splits: dict[str, dict[str, Any]]


def _read(path: Path) -> _Measured:
    remedy = "run loopscope trust again, or remove it"
    measured = _Measured(**read_json_as(path, _Measured, remedy))
    if not measured.splits:
        raise LoopscopeError(f"{path} holds no split: {remedy}")
    return measured


def _evidence(measured: _Measured, path: Path) -> dict[str, AnswerSignals]:
    try:
        return {name: signals_from(split.get("evidence", {})) for name, split in measured.splits.items()}
    except LoopscopeError as error:
        raise LoopscopeError(f"{path}: {error}") from error


def read_signals(path: Path) -> AnswerSignals:
    """Read the evidence of all splits from a file that ``loopscope trust`` wrote.

    Raises:
        LoopscopeError: the file is damaged or holds no evidence.
    """
    return joined(list(_evidence(_read(path), path).values()))


def extents(path: Path) -> dict[str, tuple[int, int]]:
    """Return the numbers of examples and iterations in a file of ``loopscope trust``, by split; empty if it is damaged."""
    if not path.is_file():
        return {}
    try:
        measured = _read(path)
        iterations = settings_from(measured.settings).evaluation.iterations
        return {name: (len(evidence), iterations) for name, evidence in _evidence(measured, path).items()}
    except LoopscopeError:
        return {}


SIGNALS: dict[str, Callable[[AnswerSignals], Doubt]] = {
    "arrived": lambda evidence: (~evidence.arrived).astype(np.float64),
    "residual": lambda evidence: evidence.residual,
    "contraction": lambda evidence: evidence.contraction,
    "estimated error": lambda evidence: evidence.error,
    "softmax": lambda evidence: evidence.unsure,
    "settling time": lambda evidence: evidence.settling,
}
"""The doubt of each signal. A smaller doubt means more trust in the answer."""


def unsureness(
    logits: Float[Tensor, "batch tokens outputs"], real: Bool[Tensor, "batch tokens"] | None = None
) -> Float[Tensor, "batch"]:
    """Return one minus the softmax confidence of each whole answer.

    The confidence of a token is its largest probability. The confidence of an answer is the smallest confidence of its
    real tokens. If tokens have a single output, the softmax is over tokens and the answer is the two highest tokens,
    such as the squares of a chess move; the confidence is the sum of their probabilities.

    The result is computed as the sum of the other probabilities in double precision, because one minus a confidence
    near one would round to zero.

    Args:
        logits: output of ``read``.
        real: true where a token is real.
    """
    logits = logits.double()
    if logits.shape[-1] > 1:
        others = logits.softmax(-1).sort(-1).values[..., :-1].sum(-1)
        return (others if real is None else others.masked_fill(~real, 0.0)).amax(1)
    scores = logits.squeeze(-1)
    if real is not None:
        scores = scores.masked_fill(~real, -math.inf)
    return scores.softmax(-1).sort(-1).values[:, :-2].sum(-1)


def significant(values: Tensor) -> Doubt:
    """Round numbers to ``DIGITS`` significant digits. NaN becomes infinite."""
    return np.array(
        [float(f"{value:.{DIGITS - 1}e}") if math.isfinite(value) else math.inf for value in values.tolist()]
    )


class _Judge:
    """Judges the whole answers of a batch: which are right, and how confident they are."""

    def __init__(self, loop: Loop, task: Task, problems: Tensor, answers: Tensor, real: Tensor | None) -> None:
        self.loop, self.task = loop, task
        self.problems, self.answers, self.real = problems, answers, real

    def right(self, logits: Tensor, rows: Tensor | slice = slice(None)) -> Bool[Tensor, "batch"]:
        """Return which answers in some rows of the batch are right. Padding is neither right nor wrong."""
        real = None if self.real is None else self.real[rows]
        return answers_right(self.task, logits, self.problems[rows], self.answers[rows], real)

    def unsure(self, logits: Tensor, rows: Tensor | slice = slice(None)) -> Float[Tensor, "batch"]:
        """Return one minus the confidence of the answers that are read."""
        return unsureness(logits, None if self.real is None else self.real[rows])

    def shown(
        self, logits: Tensor, rows: Tensor | slice = slice(None)
    ) -> tuple[Bool[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Return whether the answers shown to the user are right, and one minus their probability."""
        if isinstance(self.task, ShowsAChoice):
            return self.task.shown(logits, self.answers[rows])
        return self.right(logits, rows), self.unsure(logits, rows)


class _Settling:
    """Records the first iteration at which each orbit has settled, and its answer there."""

    def __init__(self, judge: _Judge, on_iteration: Callable[[], None]) -> None:
        self.judge, self.on_iteration = judge, on_iteration
        none = judge.problems.new_zeros(len(judge.problems), dtype=torch.float64)
        self.after = torch.full_like(none, math.inf)
        self.right, self.shown_right = (torch.zeros_like(none, dtype=torch.bool) for _ in range(2))
        self.unsure, self.shown_unsure = none, none.clone()

    def __call__(self, step: Step) -> None:
        """Record one iteration."""
        self.on_iteration()
        now = (step.residual <= SETTLED) & self.after[step.rows].isinf()
        if bool(now.any()):
            rows = step.rows[now]
            self.after[rows] = step.index + 1
            logits = readout(self.judge.loop, select(step.after, now), select(step.recalled, now))
            self.right[rows] = self.judge.right(logits, rows)
            self.unsure[rows] = self.judge.unsure(logits, rows)
            self.shown_right[rows], self.shown_unsure[rows] = self.judge.shown(logits, rows)


def _rates(ends: Ends) -> Float[Tensor, "batch"]:
    """Return the fitted contraction rates. At the rounding floor, where no rate can be fitted, use the assumed rate.

    A fitted rate of one or more is kept, although the error at the rounding floor uses the assumed rate.
    """
    return torch.where(ends.rate.isnan() & ends.at_floor, ASSUMED_RATE, ends.rate)


def _observe(
    loop: Loop, task: Task, split: Split, rows: slice, iterations: int, on_iteration: Callable[[], None]
) -> AnswerSignals:
    """Run some examples of a split as one batch."""
    problems, answers = split.problems[rows], split.answers[rows]
    recalled = loop.encode(task.inputs(problems))
    real = mask_of(loop, recalled)
    judge = _Judge(loop, task, problems, answers, real)
    settling = _Settling(judge, on_iteration)
    ends = follow(loop, recalled, loop.start(recalled), iterations=iterations, tolerance=SETTLED, observe=settling)
    for _ in range(int(ends.iterations.max()), iterations):
        on_iteration()
    logits = readout(loop, ends.state, recalled)
    right, unsure = judge.right(logits), judge.unsure(logits)
    shown_right, shown_unsure = judge.shown(logits)
    settled = settling.after.isfinite()
    return AnswerSignals(
        right=right.cpu().numpy(),
        arrived=ends.arrived.cpu().numpy(),
        residual=significant(ends.residual[-1]),
        contraction=significant(_rates(ends)),
        error=significant(ends.radius),
        unsure=significant(unsure),
        settling=settling.after.cpu().numpy(),
        settled_right=torch.where(settled, settling.right, right).cpu().numpy(),
        settled_unsure=significant(torch.where(settled, settling.unsure, unsure)),
        shown_right=torch.where(settled, settling.shown_right, shown_right).cpu().numpy(),
        shown_unsure=significant(torch.where(settled, settling.shown_unsure, shown_unsure)),
    )


@torch.no_grad()
def observe_split(
    loop: Loop,
    task: Task,
    split: Split,
    config: EvaluationConfig,
    on_iteration: Callable[[], None] | None = None,
) -> AnswerSignals:
    """Run a loop on a split and return the evidence of each example.

    An example stops once its residual has been at the rounding floor for 8 iterations. The split is moved to the device
    of the loop's parameters, if it has any.

    Args:
        loop: any loop whose ``read`` returns the task's logits.
        task: encodes the problems and judges the answers.
        split: the examples.
        config: iterations, examples and batch size.
        on_iteration: called as in `loopscope.evaluation.evaluate_split`.
    """
    told = on_iteration or (lambda: None)
    split = split.to(device_of_loop(loop, split.problems.device))
    with eval_mode(loop):
        return joined([_observe(loop, task, split, part, config.iterations, told) for part in batches(split, config)])


@dataclass(frozen=True)
class Judgement:
    """How well one signal separates right answers from wrong ones.

    Args:
        auc: probability that a right answer is trusted more than a wrong one, with ties counted one half. None if all
            answers are right or all are wrong.
        low: lower end of the bootstrap 95% interval of ``auc``. None if too few answers are right or wrong.
        high: upper end of the interval.
        area: area under the curve of risk against coverage (``loopscope.metrics``).
    """

    auc: float | None
    low: float | None
    high: float | None
    area: float


def judge_signal(doubt: Doubt, right: Flags, seed: int = 0) -> Judgement:
    """Return how well a doubt separates right answers from wrong ones."""
    area, value = risk_curve(doubt, right).area, auc(-doubt, right)
    if math.isnan(value):
        return Judgement(None, None, None, area)
    if min(right.sum(), (~right).sum()) < MIN_PER_GROUP:
        return Judgement(value, None, None, area)
    low, high = interval(lambda chosen: auc(-doubt[chosen], right[chosen]), np.arange(len(right)), seed=seed)
    return Judgement(value, low, high, area)


@dataclass(frozen=True)
class Counted:
    """A group of examples.

    Args:
        examples: number of examples.
        right: number of examples with a right answer.
    """

    examples: int
    right: int

    @property
    def accuracy(self) -> float | None:
        """The fraction of right answers; None for an empty group."""
        return self.right / self.examples if self.examples else None


def counted(right: Flags) -> Counted:
    """Count the examples and the right ones."""
    return Counted(len(right), int(right.sum()))


@dataclass(frozen=True)
class SplitTrust:
    """How well each signal separates right answers from wrong ones on one split.

    Args:
        all: all examples.
        arrived: examples that arrived (see ``loopscope.stability.orbits.arrival``).
        others: examples that did not arrive.
        perfect_area: area under risk against coverage of the best order.
        random_area: area under risk against coverage of a random order.
        signals: judgement of each signal in ``SIGNALS``.
        evidence: the evidence that these numbers are computed from.
    """

    all: Counted
    arrived: Counted
    others: Counted
    perfect_area: float
    random_area: float
    signals: dict[str, Judgement]
    evidence: AnswerSignals

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **{name: asdict(values[name]) for name in ("all", "arrived", "others")},
            "perfect_area": self.perfect_area,
            "random_area": self.random_area,
            "signals": {name: asdict(judgement) for name, judgement in self.signals.items()},
            "evidence": self.evidence.to_json(),
        }


def assess(evidence: AnswerSignals) -> SplitTrust:
    """Assess how well each signal separates right answers from wrong ones."""
    right, wrong = evidence.right, int((~evidence.right).sum())
    return SplitTrust(
        all=counted(right),
        arrived=counted(right[evidence.arrived]),
        others=counted(right[~evidence.arrived]),
        perfect_area=perfect_area(len(right), wrong),
        random_area=random_area(len(right), wrong),
        signals={name: judge_signal(doubt(evidence), right) for name, doubt in SIGNALS.items()},
        evidence=evidence,
    )


def measure_trust(
    loop: Loop,
    task: Task,
    config: EvaluationConfig,
    on_iteration: Callable[[], None] | None,
    splits: Mapping[str, Split],
) -> dict[str, SplitTrust]:
    """Run a loop on each split and assess how well each signal separates right answers from wrong ones."""
    return {name: assess(observe_split(loop, task, split, config, on_iteration)) for name, split in splits.items()}
