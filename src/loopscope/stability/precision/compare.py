"""Run the same orbits in several precisions, side by side, and compare them with float64."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.checks import check_answers, check_is_loop, check_not_empty, check_outputs_last, check_read
from loopscope.contexts import eval_mode, exact_products, random_states_kept, without_autocast
from loopscope.errors import LoopscopeError, check_choice, check_count, check_seed
from loopscope.fixed_points.residual import relative_residual, smallest_scale
from loopscope.jacobian import Jacobian, step_jacobian
from loopscope.kinds import timed, wants_of
from loopscope.loop import Loop, first_state, mask_of, readout
from loopscope.schema import to_plain
from loopscope.stability.orbits.answers import Answers, Correct, at_every_token, gives_answer, predictions
from loopscope.stability.orbits.arrival import line
from loopscope.stability.orbits.trace import quantiles
from loopscope.stability.parts.progress import one_line
from loopscope.stability.precision.arithmetic import ARITHMETICS, REFERENCE, Arithmetic
from loopscope.stability.precision.error_growth import LEAST, Course, predict_difference
from loopscope.stability.precision.result import PrecisionComparison, PrecisionResult
from loopscope.stability.starts import random_direction
from loopscope.stability.targets import Targets, check_targets, rule_of
from loopscope.trees import Tree, flatten, scaled_norm, select

FOLLOWED = 4
"""Inputs whose exponents are measured, and whose differences are predicted."""
KNOWN = 60
"""Iterations that predictions rest on, or a quarter of all if that is less."""
LEAST_KNOWN = 8
"""Iterations that predictions rest on at least."""
SMALL = 0.1
"""Relative differences up to this one grow as the exponents say."""
FITTED = 4
"""Iterations from which a growth is fitted at least."""
SAMPLES = 32
"""Iterations whose own rounding error is measured; between them its size is interpolated."""


def precision(
    loop: Loop,
    inputs: Tree,
    targets: Targets | None = None,
    iterations: int = 200,
    *,
    precisions: Iterable[str] = tuple(ARITHMETICS),
    answers: Answers | None = None,
    seed: int = 0,
) -> PrecisionComparison:
    """Run the same orbits in float64, float32, TF32, bfloat16 and with weights rounded to int8, and compare them.

    TF32 is emulated, so that it needs no GPU: factors of products are rounded to ten bits of mantissa. In bf16, weights, states
    and products are in bfloat16. int8 rounds each row of each matrix to 255 levels and computes in float32. The loop and the
    random state are left as they were.

    Args:
        loop: the loop. A ``FunctionLoop`` must name its ``module``, so that the weights can be converted.
        inputs: what ``loop.encode`` takes, batch first.
        targets: as ``examine`` takes them.
        iterations: iterations to run.
        precisions: names of the precisions to compare with float64.
        answers: as ``examine`` takes them.
        seed: of a random first state and of tangent vectors.

    Returns:
        For each precision how the difference grows, from which iteration on answers differ, where the residual levels off,
        and the last difference as predicted from the first iterations and the exponents of the loop.

    Raises:
        LoopscopeError: the loop does not run in float64, its step draws random numbers, an option is out of range, or targets
            have another shape.

    Example:
        >>> import loopscope as ls
        >>> layer = torch.nn.Linear(8, 8)
        >>> loop = ls.FunctionLoop(
        ...     lambda x: x, torch.zeros_like, lambda z, x: torch.tanh(layer(z)) + x, lambda z: z, module=layer
        ... )
        >>> found = ls.precision(loop, torch.eye(8), iterations=40, precisions=["float32"])
        >>> found["float32"].first_differs is None, found["float32"].floor < 1e-6
        (True, True)
    """
    check_is_loop(loop)
    count = check_not_empty(inputs)
    check_targets(targets, count)
    check_count(iterations=iterations)
    check_seed(seed)
    if wants_of(loop).generator:
        raise LoopscopeError(
            "the step draws random numbers, which differ from one precision to the next: give a step without noise to compare"
        )
    asked = list(dict.fromkeys(precisions))
    for name in asked:
        check_choice("precision", name, ARITHMETICS)
    began = time.perf_counter()
    with eval_mode(loop), without_autocast(), exact_products(), random_states_kept(), torch.no_grad():
        runs = _Runs.start(loop, inputs, [name for name in asked if name != REFERENCE.name], seed)
        runs.judge_by(targets, answers)
        exponents = _Exponents.of(runs, seed)
        for index in range(iterations):
            if index % max(1, iterations // SAMPLES) == 0:
                runs.sample()
            if exponents is not None:
                exponents.carry(runs.reference, counted=index >= iterations // 2)
            runs.step()
        runs.sample()
        known = min(iterations, max(LEAST_KNOWN, min(KNOWN, iterations // 4)))
        course = None if exponents is None else exponents.course()
        results = tuple(_result(run, runs.reference, course, known) for run in [runs.reference, *runs.others])
    last = None if course is None else float(course.exponents[iterations // 2 :].mean(0).median())
    return PrecisionComparison(results, iterations, known, count, last, runs.unknown, time.perf_counter() - began)


@dataclass
class _Run:
    """The orbits in one precision, with what was recorded of each state. Lists begin with the first state."""

    arithmetic: Arithmetic
    loop: Loop
    recalled: Tree
    state: Tree
    flat: Float[Tensor, "batch n"]
    smallest: Float[Tensor, "batch"]
    norms: list[Tensor] = field(default_factory=list)
    differences: list[Tensor] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)
    same: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    errors: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, arithmetic: Arithmetic, loop: Loop, inputs: Tree, drawn: Tree | None) -> _Run:
        converted = timed(arithmetic.loop(loop))
        with arithmetic.products():
            recalled = converted.encode(arithmetic.cast(inputs))
            state = arithmetic.cast(first_state(converted, recalled) if drawn is None else drawn)
        mask = mask_of(converted, recalled)
        flat = flatten(state, mask).double()
        return cls(arithmetic, converted, recalled, state, flat, smallest_scale(flat, None))

    @property
    def mask(self) -> Bool[Tensor, "batch *tokens"] | None:
        return mask_of(self.loop, self.recalled)

    def stepped(self, state: Tree, recalled: Tree) -> Tree:
        with self.arithmetic.products():
            return self.arithmetic.cast(self.loop.step(state, recalled))

    def logits(self) -> Tensor:
        with self.arithmetic.products():
            return readout(self.loop, self.state, self.recalled).double()

    def advance(self) -> None:
        self.state = self.stepped(self.state, self.recalled)
        after = flatten(self.state, self.mask).double()
        self.residuals.append(relative_residual(self.flat, after, self.smallest))
        self.flat = after


@dataclass
class _Runs:
    """The orbits in all precisions."""

    reference: _Run
    others: list[_Run]
    unknown: dict[str, str]
    answers: Answers | None = None
    correct: Correct | None = None

    @classmethod
    def start(cls, loop: Loop, inputs: Tree, names: list[str], seed: int) -> _Runs:
        drawn = _drawn_start(loop, inputs, seed)
        try:
            reference = _Run.start(REFERENCE, loop, inputs, drawn)
            reference.stepped(reference.state, reference.recalled)
        except RuntimeError as error:
            raise LoopscopeError(
                f"the loop does not run in float64 ({one_line(error)[:160]}): name the model that it uses, "
                "FunctionLoop(..., module=model), so that its weights are converted"
            ) from error
        others, unknown = [], {}
        for name in names:
            try:
                run = _Run.start(ARITHMETICS[name], loop, inputs, drawn)
                run.stepped(run.state, run.recalled)
                run.logits()
                others.append(run)
            except RuntimeError as error:
                unknown[name] = f"the loop does not run in this precision: {one_line(error)}"
        return cls(reference, others, unknown)

    def judge_by(self, targets: Targets | None, answers: Answers | None) -> None:
        """Take in what answers are and which are right, and record the first states."""
        logits, run = self.reference.logits(), self.reference
        check_read(logits, len(run.flat))
        if answers is not None:
            check_answers(answers, logits)
        elif targets is None:
            check_outputs_last(logits, run.state)
        self.answers, self.correct = answers, rule_of(targets, run.mask)
        self.record()

    def step(self) -> None:
        for run in (self.reference, *self.others):
            run.advance()
        self.record()

    def record(self) -> None:
        expected, given = self._answered(self.reference)
        for run in (self.reference, *self.others):
            answered, gives = self._answered(run)
            run.norms.append(scaled_norm(run.flat))
            run.differences.append(scaled_norm(run.flat - self.reference.flat))
            equal = (answered == expected).reshape(len(answered), -1) | self._padding(answered)
            run.same.append(equal.all(1) & given & gives)

    def _answered(self, run: _Run) -> tuple[Tensor, Tensor]:
        """Return what a run answers, and which examples have an answer at every real token."""
        logits = run.logits()
        gives = at_every_token(gives_answer(logits), run.mask)
        if self.correct is not None:
            run.right.append(self.correct(logits, torch.arange(len(logits), device=logits.device)))
        return (self.answers or predictions)(logits), gives

    def _padding(self, answered: Tensor) -> Tensor:
        """Return which answers are those of padding, flat."""
        mask = self.reference.mask
        flat = torch.zeros_like(answered.reshape(len(answered), -1), dtype=torch.bool)
        return flat if mask is None or mask.shape != answered.shape else ~mask.reshape(len(mask), -1)

    def sample(self) -> None:
        """Measure the error of one step alone, from the state of the reference, for the inputs that are followed."""
        some = slice(0, FOLLOWED)
        reference = self.reference
        state, recalled = (select(tree, some) for tree in (reference.state, reference.recalled))
        mask = None if reference.mask is None else reference.mask[some]
        exact = flatten(reference.stepped(state, recalled), mask).double()
        for run in self.others:
            after = run.stepped(run.arithmetic.cast(state), select(run.recalled, some))
            run.errors[len(reference.norms) - 1] = scaled_norm(flatten(after, mask).double() - exact)


class _Exponents:
    """Tangent vectors that exact products with the Jacobian carry along the orbits of a few inputs."""

    def __init__(self, jacobian: Jacobian, vectors: Float[Tensor, "batch n"]) -> None:
        self.jacobian, self.vectors = jacobian, vectors
        self.log_growth: list[Tensor] = []
        self.first: Tensor | None = None
        self.sum, self.squares, self.counted = torch.zeros_like(vectors), torch.zeros_like(vectors[:, 0]), 0

    @classmethod
    def of(cls, runs: _Runs, seed: int) -> _Exponents | None:
        run, some = runs.reference, slice(0, FOLLOWED)
        state, recalled = (select(tree, some) for tree in (run.state, run.recalled))
        mask = None if run.mask is None else run.mask[some]
        try:
            jacobian = step_jacobian(run.loop, state, recalled)
            jacobian.jvp(jacobian.point)
        except (LoopscopeError, RuntimeError) as error:
            runs.unknown["exponents"] = one_line(error)
            return None
        generator = torch.Generator().manual_seed(seed)
        return cls(jacobian, random_direction(state, generator, mask))

    def carry(self, run: _Run, counted: bool) -> None:
        """Carry the vectors through the step from the state of a run, which counts for the spread of the orbit or not."""
        pushed = self.jacobian.at(select(run.state, slice(0, FOLLOWED))).jvp(self.vectors)
        length = scaled_norm(pushed).clamp_min(LEAST)
        self.log_growth.append(length.log())
        self.vectors = pushed / length[:, None]
        if counted:
            flat = run.flat[:FOLLOWED]
            self.first = flat if self.first is None else self.first
            moved = flat - self.first
            self.sum, self.squares, self.counted = (
                self.sum + moved,
                self.squares + moved.square().sum(1),
                self.counted + 1,
            )

    def course(self) -> Course:
        count = max(self.counted, 1)
        spread = (self.squares / count - (self.sum / count).square().sum(1)).clamp_min(0).sqrt()
        return Course(torch.stack(self.log_growth), spread)


def _drawn_start(loop: Loop, inputs: Tree, seed: int) -> Tree | None:
    """Return first states that were drawn at random, which must be the same in every precision; None if they are not random."""
    loop, recalled = timed(loop), loop.encode(inputs)
    one, other = (first_state(loop, recalled, place) for place in (seed, seed + 1))
    return None if bool((flatten(one) == flatten(other)).all()) else one


def _result(run: _Run, reference: _Run, course: Course | None, known: int) -> PrecisionResult:
    norms = torch.stack(reference.norms).clamp_min(LEAST)
    difference = torch.stack(run.differences) / norms
    residual = torch.stack(run.residuals)
    some = slice(0, FOLLOWED)
    predicted = None
    if course is not None and run is not reference:
        errors = _every_iteration(run.errors, len(difference))
        lengths = torch.stack(run.differences)[: known + 1, some]
        predicted = _median(predict_difference(lengths, errors, course) / norms[-1, some])
    return PrecisionResult(
        name=run.arithmetic.name,
        difference=to_plain(quantiles(difference)),
        growth=_growth(difference),
        predicted=predicted,
        measured=None if run is reference else _median(difference[-1, some]),
        residual=to_plain(quantiles(residual, (0.5,))[0]),
        floor=_median(residual.amin(0)),
        same=to_plain(torch.stack(run.same).double().mean(1)),
        differ_from=_differ_from(torch.stack(run.same)),
        accuracy=to_plain(torch.stack(run.right).double().mean(1)) if run.right else None,
    )


def _every_iteration(samples: dict[int, Tensor], count: int) -> Float[Tensor, "iterations batch"]:
    """Return sizes at every iteration from those at a few, interpolated on a logarithmic scale."""
    places = torch.tensor(sorted(samples), dtype=torch.double)
    logs = torch.stack([samples[int(place)] for place in places]).clamp_min(LEAST).log()
    wanted = torch.arange(count, dtype=torch.double)
    after = torch.searchsorted(places, wanted).clamp(1, max(1, len(places) - 1))
    if len(places) == 1:
        return logs.exp().expand(count, -1)
    share = ((wanted - places[after - 1]) / (places[after] - places[after - 1])).to(logs)[:, None]
    after = after.to(logs.device)
    return (logs[after - 1] * (1 - share) + logs[after] * share).exp()


def _growth(difference: Float[Tensor, "iterations batch"]) -> float | None:
    """Return the factor by which differences grow per iteration while they are small, median over the examples."""
    outgrown = (difference > SMALL).cumsum(0) > 0
    small = (difference > 0) & ~outgrown
    late = small & (small.cumsum(0) > small.sum(0) // 2)
    slope, _ = line(difference.clamp_min(LEAST).log(), late)
    return _median(torch.where(late.sum(0) >= FITTED, slope, math.nan).exp())


def _differ_from(same: Bool[Tensor, "iterations batch"]) -> list[int | None]:
    """Return for each example the first iteration at which it differs, and differs more often than not from there on."""
    left = torch.arange(len(same), 0, -1, device=same.device)[:, None]
    differs = ~same & (2 * same.flip(0).cumsum(0).flip(0) <= left)
    first = differs.int().argmax(0).tolist()
    return [place if found else None for place, found in zip(first, differs.any(0).tolist(), strict=True)]


def _median(values: Float[Tensor, "batch"]) -> float | None:
    known = values[values.isfinite()]
    return float(known.double().quantile(0.5)) if len(known) else None
