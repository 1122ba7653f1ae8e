"""Forecasts, by checked leaps within a budget of true steps, of whether a loop keeps its answers for hundreds of iterations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.checks import check_answers, check_is_loop, check_not_empty, check_read
from loopscope.contexts import eval_mode, without_autocast
from loopscope.errors import LoopscopeError, check_count, check_positive, check_seed
from loopscope.evaluation import decisions
from loopscope.fixed_points.noise_floor import NoiseFloor, measure_noise_floor
from loopscope.forecasts.check import MOVING, Check, check
from loopscope.forecasts.fit import SMALL
from loopscope.forecasts.leaps import SETTLING, WATCHED, Leap, leap_through, run
from loopscope.forecasts.oscillation import dies_out
from loopscope.forecasts.result import HOLDS, Forecast, Outlook, Point, Round
from loopscope.forecasts.schedule import fewest_steps, first_round, next_round
from loopscope.forecasts.true_steps import AGREEING, DRAWS, by_true_steps
from loopscope.kinds import Kind
from loopscope.loop import Loop, answers_per
from loopscope.readouts import ReadingPlan, plan_readings
from loopscope.stability.nonautonomous.kept import draws_of
from loopscope.stability.nonautonomous.view import view_of
from loopscope.stability.orbits.answers import Answers, predictions
from loopscope.stability.targets import Correct, Targets, check_readout, check_targets, rule_of
from loopscope.trees import Tree, device_of, flatten, norms, tree_map

HORIZON = 480
"""Default iteration to forecast."""
TRAINED = 15
"""Number of iterations in training if it is unknown."""
BUDGET = 0.2
"""Default cost of a forecast, as a fraction of the cost of running the loop to the horizon."""
SHORTEST_BUDGET = 6
"""Least default cost of a forecast, as a multiple of the iterations in training. Near horizons need more than ``BUDGET``."""
CHECKS = 2
"""Number of steps charged for the checks of the loop, which evaluate the step a few times on two examples."""
DOUBT = 0.25
"""Fraction of the answers in doubt that go the other way, in the two bounds of a round."""
ROOM = 2.0
"""An answer is sure, though its state moves more than the fit says or shows, if it stays the same when state and outputs move on
at their last pace for this many times the iterations of the leaps."""
GROWING = 2.0
"""Factor over one leap or over all leaps from which the change per iteration counts as growing."""
RESOLVED = 1 / SMALL
"""Largest factor by which the change per iteration may grow over leaps that show an answer to be lost. Beyond it, all that the
orbit did at first is below what the fit resolves."""
NEAR = 1.01
"""Precision, as a factor, to which the iteration of a collapse is determined."""


@dataclass(frozen=True)
class _Reading:
    """What one state answers.

    Attributes:
        answers: the answers, one per row: of each example, or of each real token.
        right: which of them are right, where targets were given.
        finite: which of them are there: the state of the example and the outputs are finite.
        finite_state: whether the state of each example is finite.
        example: the example that each answer belongs to.
    """

    answers: Tensor
    right: Bool[Tensor, "answers"] | None
    finite: Bool[Tensor, "answers"]
    finite_state: Bool[Tensor, "batch"]
    example: Int[Tensor, "answers"]

    def kept(self, first: _Reading) -> Bool[Tensor, "answers"]:
        """Return which answers are kept: those that are right or, without targets, the same as the first ones."""
        return self.same(first) if self.right is None else self.right

    def same(self, first: _Reading) -> Bool[Tensor, "answers"]:
        return (self.answers == first.answers).all(1) & self.finite

    def point(self, iteration: int, first: _Reading, leapt: bool) -> Point:
        return Point(
            iteration,
            leapt,
            _fraction(self.same(first)),
            None if self.right is None else _fraction(self.right),
            _fraction(self.finite),
        )


@dataclass(frozen=True)
class _Reader:
    """Reads the answers of states.

    Args:
        loop: the loop.
        recalled: its recalled input.
        examples: number of inputs.
        real: true where a token is real.
        correct: which answers are right, if targets were given.
        answers: the user's function from logits to answers, if there is one.
        plan: how many examples are read at once, and after which iterations.
    """

    loop: Loop
    recalled: Tree
    examples: int
    real: Bool[Tensor, "batch *tokens"] | None
    correct: Correct | None
    answers: Answers | None
    plan: ReadingPlan

    def __call__(self, state: Tree) -> _Reading:
        return self._reading([state], lambda logits: logits[0])

    def ahead(self, state: Tree, before: Tree, times: float) -> _Reading:
        """Read the outputs as they would be after ``times`` their change between two states."""
        return self._reading([state, before], lambda logits: logits[0] + times * (logits[0] - logits[1]))

    def _reading(self, states: Sequence[Tree], outputs: Callable[[Sequence[Tensor]], Tensor]) -> _Reading:
        state = states[0]
        found = self.plan.in_parts(
            self.loop, states, self.recalled, lambda part, logits: self._of(part, outputs(logits))
        )
        finite_state = flatten(state, self.real).isfinite().all(1)
        counted = torch.ones_like(found["finite"])
        if self.by_token and self.real is not None and self.real.flatten(1).shape == counted.shape:
            counted = self.real.flatten(1)
        finite = (found["finite"] & finite_state.unsqueeze(1))[counted]
        answers = found["answers"].unsqueeze(2) if self.by_token else found["answers"].unsqueeze(1)
        return _Reading(
            answers=answers[counted],
            right=None if self.correct is None else found["right"][counted] & finite,
            finite=finite,
            finite_state=finite_state,
            example=torch.nonzero(counted)[:, 0],
        )

    @property
    def by_token(self) -> bool:
        """Whether every token that is read has an answer of its own."""
        return answers_per(self.loop) == "token"

    def _of(self, part: slice, logits: Tensor) -> dict[str, Tensor]:
        """Return what the logits of some examples answer: one row per example, one column per answer of it."""
        count = part.stop - part.start
        check_read(logits, count)
        real = None if self.real is None else self.real[part]
        rows = torch.arange(part.start, part.stop, device=logits.device)
        # The argmax of NaN logits is always the first one, so a broken readout would seem to keep its answer.
        found = {
            "answers": self._answers(logits, real).reshape(count, -1),
            "finite": (_readable_tokens(logits) if self.by_token else readable(logits, real)).reshape(count, -1),
        }
        return found if self.correct is None else found | {"right": self.correct(logits, rows).reshape(count, -1)}

    def _answers(self, logits: Tensor, real: Tensor | None) -> Tensor:
        if self.answers is not None:
            return check_answers(self.answers, logits)
        return predictions(logits) if self.by_token else _predictions(logits, real)


def _readable_tokens(logits: Tensor) -> Bool[Tensor, "batch *tokens"]:
    return ~logits.isnan().any(-1) & logits.amax(-1).isfinite()


def readable(logits: Tensor, real: Bool[Tensor, "batch *tokens"] | None = None) -> Bool[Tensor, "batch"]:
    """Return which examples have a prediction at every real token: no logit is NaN, and the largest is finite.

    A model may exclude classes by a logit of minus infinity.
    """
    known = _readable_tokens(logits)
    if real is not None and known.shape == real.shape:
        known = known | ~real
    return known.reshape(len(known), -1).all(1)


def _predictions(logits: Tensor, real: Tensor | None) -> Tensor:
    # With one token and one output, there is no order among tokens, only a sign.
    if logits.ndim == 3 and logits.shape[1:] != (1, 1):
        return decisions(logits, real)
    return predictions(logits).reshape(len(logits), -1)


def _fraction(which: Bool[Tensor, "answers"]) -> float:
    return float(which.double().mean())


@dataclass(frozen=True)
class _Flight:
    """The leaps of one round, with their checks and answers.

    Args:
        leaps: the leaps. There are none if the orbit itself reached the horizon.
        checks: the check of each leap.
        landed: the answers at the end of each leap.
        late: the answers of the last states before the horizon and of the state at the horizon.
        beyond: the answers if state or outputs moved on at their last pace (see ``ROOM``).
        drifted: the answers if the outputs went on or back as over the second half of the orbit (see ``ROOM``). Only where the
            step rounds so coarsely that the fit cannot see a drift.
        oscillates: which examples oscillate before the first leap, with an oscillation that dies out before the horizon.
    """

    leaps: Sequence[Leap]
    checks: Sequence[Check]
    landed: Sequence[_Reading]
    late: Sequence[_Reading]
    beyond: Sequence[_Reading]
    drifted: Sequence[_Reading]
    oscillates: Bool[Tensor, "batch"]

    def kept(self, first: _Reading) -> Bool[Tensor, "answers"]:
        """Return which answers are kept both at the horizon and just before it."""
        return torch.stack([reading.kept(first) for reading in self.late]).all(0)

    def sure(self, first: _Reading) -> Bool[Tensor, "answers"]:
        """Return which answers are kept for sure.

        The orbit has come to rest, and every leap passed its check, or its miss could not change the answer.
        """
        steady = self._checked(one.steady for one in self.checks)
        beyond = self._all(reading.kept(first) for reading in self.beyond)
        rests = self._checked(one.rests for one in self.checks)
        drifted = self._all(reading.kept(first) for reading in self.drifted)
        return self.kept(first) & ((rests & drifted) | (steady & beyond)) & ~self.unsettled

    @property
    def unsettled(self) -> Bool[Tensor, "answers"]:
        """Which answers belong to examples whose oscillation dies out only within the leaps."""
        return self.oscillates[self.late[-1].example]

    @property
    def on_path(self) -> Bool[Tensor, "answers"]:
        """Which answers belong to examples whose leaps all end where the fit says, even if a check failed."""
        return self._checked(one.on_path for one in self.checks)

    @property
    def bounded(self) -> Bool[Tensor, "answers"]:
        """Which answers belong to examples whose change per iteration does not grow over all leaps."""
        return self._growth[-1] <= GROWING

    @property
    def resolved(self) -> Bool[Tensor, "answers"]:
        """Which answers belong to examples whose change per iteration never outgrows what the fit resolves."""
        return self._growth.amax(0) <= RESOLVED

    @property
    def _growth(self) -> Float[Tensor, "places answers"]:
        """The factor by which the change per iteration has grown, before the first leap and after each one."""
        none = torch.ones_like(self.late[-1].example, dtype=torch.float64)
        return torch.stack([none, *(one.growth[self.late[-1].example] for one in self.checks)]).cumprod(0)

    def _checked(self, flags: Iterable[Bool[Tensor, "batch"]]) -> Bool[Tensor, "answers"]:
        return self._all(one[self.late[-1].example] for one in flags)

    def _all(self, flags: Iterable[Bool[Tensor, "answers"]]) -> Bool[Tensor, "answers"]:
        return torch.stack([torch.ones_like(self.late[-1].finite), *flags]).all(0)


def forecast(
    loop: Loop,
    inputs: Tree,
    targets: Targets | None = None,
    trained_iterations: int | None = None,
    seed: int = 0,
    answers: Answers | None = None,
    *,
    horizon: int = HORIZON,
    budget: float | None = None,
) -> Forecast:
    """Forecast whether a loop keeps its answers to a horizon or collapses, at a fraction of the cost of running it there.

    The loop is run for some iterations. Leaps go from there to the horizon (see `loopscope.leaps`), and true steps after each
    leap check it. The first round takes about 30 steps, or fewer if the horizon is near. Longer rounds follow until two in a row
    give the same answer or the budget is spent. If the evidence does not suffice, the forecast says that it cannot tell.

    A time-dependent or stochastic loop, or one whose readout reads the history, cannot be extrapolated. It is run as far as the
    budget allows: ``budget=1`` runs it to the horizon. A stochastic loop is run three times, and needs ``budget=3``.

    Give easy inputs, such as those of training. Whether hard ones are ever solved is another question.

    Args:
        loop: any loop, such as a model of this package or a ``FunctionLoop`` around your own.
        inputs: what ``loop.encode`` takes, batch first.
        targets: the same as for ``examine``. Without targets, answers can only be compared with earlier ones.
        trained_iterations: largest number of iterations in training, 15 if unknown. Its answers are the first point.
        seed: seed of a random first state.
        answers: function from logits to answers, one row per input. Two answers count as the same if their rows are equal. By
            default, the answer is each token's largest output or, if tokens have a single output, the order of the tokens
            (for a single token, its sign).
        horizon: the iteration to forecast.
        budget: largest number of true steps, as a fraction of those to the horizon. By default a fifth, or six times the
            iterations in training if that is more.

    Returns:
        The outlook with its evidence. Its ``str`` is one sentence.

    Raises:
        LoopscopeError: ``loop`` is not a loop, the state is not in float32 or float64, the step changes the shapes or the
            precision of its state or is random without taking a generator, the readout is not a tensor of outputs, there
            are no inputs, targets or answers have another shape, or the budget is too small for a single leap.

    Example:
        >>> import loopscope as ls
        >>> halving = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> said = ls.forecast(halving, torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        >>> print(said.outlook.value, said.steps)
        keeps 62
        >>> print(said)
        will keep the answers of iteration 15 to 480 iterations: 100% are the same there
    """
    check_is_loop(loop)
    check_count(horizon=horizon)
    if budget is not None:
        check_positive(budget=budget)
    trained = TRAINED if trained_iterations is None else trained_iterations
    check_count(trained_iterations=trained)
    if trained >= horizon:
        raise LoopscopeError(
            f"horizon is {horizon}, expected more than the {trained} iterations of training: raise it, or set trained_iterations"
        )
    check_seed(seed)
    examples = check_not_empty(inputs)
    check_targets(targets, examples)
    steps = _allowed(horizon, trained) if budget is None else math.floor(budget * horizon + 1e-9)
    began = time.perf_counter()
    with eval_mode(loop), without_autocast(), torch.no_grad():
        view = view_of(loop, inputs, seed)
        loop, recalled, start, real = view.loop, view.ready.recalled, view.ready.start, view.ready.mask
        check_readout(loop, start, recalled, targets, answers)
        rule = rule_of(targets, real, answers_per(loop))
        reader = _Reader(loop, recalled, examples, real, rule, answers, plan_readings(loop, start, recalled))
        if view.kind.undefined or view.kind.reads_history:
            return by_true_steps(
                draws_of(loop, DRAWS),
                recalled,
                start,
                reader,
                reader.plan,
                # The noise of a stochastic loop may be zero, and its readout may read the history.
                kind=view.kind.name if view.kind.undefined else Kind.AUTONOMOUS,
                examples=examples,
                trained=trained,
                horizon=horizon,
                steps=steps,
            )
        states = run(loop, recalled, [start], 1)
        steps = steps - CHECKS
        plans = [first_round(horizon, steps, trained)]
        orbit = _Orbit(loop, recalled, states, reader, first=min(trained, plans[0].orbit))
        found: list[Round] = []
        sure: Tensor = torch.zeros((), dtype=torch.bool, device=device_of(recalled))
        floor: NoiseFloor | None = None
        while True:
            orbit.run_to(plans[-1].orbit)
            noise = floor.residual if floor is not None and floor.is_coarser else 0.0
            flight = _fly(loop, recalled, orbit, plans[-1].landings, reader, real, noise)
            # An answer that one round has shown to be kept need not pass the check of the next round again.
            sure = sure | flight.sure(orbit.first)
            found.append(_round_of(orbit, flight, sure, orbit.steps + sum(one.steps for one in plans)))
            if floor is None and _moves(found[-1]):
                floor = measure_noise_floor(loop, orbit.states[-1], recalled)
            following = next_round(horizon, steps, plans, decided=found[-1].outlook is not Outlook.CANNOT_TELL)
            if following is None or _agreed(found, orbit):
                break
            plans.append(following)
        return _told(found, orbit, flight, reader, floor, horizon, time.perf_counter() - began)


def _allowed(horizon: int, trained: int) -> int:
    """Return the default number of true steps, including those for the checks of the loop. It is never too small for a leap."""
    return max(math.floor(BUDGET * horizon + 1e-9), SHORTEST_BUDGET * trained, fewest_steps(horizon) + CHECKS)


class _Orbit:
    """The true orbit as far as it was run: its last states, the state half-way, and the answers of all states."""

    def __init__(self, loop: Loop, recalled: Tree, states: Sequence[Tree], reader: _Reader, first: int) -> None:
        self._loop, self._recalled, self._reader, self._first = loop, recalled, reader, first
        self.iteration, self.steps = 1, CHECKS
        self.states = list(states)
        self.middle = (1, self.states[-1])
        self.readings: list[tuple[int, _Reading]] = []
        self._read()

    def run_to(self, iteration: int) -> None:
        while self.iteration < iteration:
            self.states = run(self._loop, self._recalled, self.states, 1)[-SETTLING - 1 :]
            self.iteration += 1
            if self.iteration <= iteration // 2:
                self.middle = (self.iteration, self.states[-1])
            self._read(at_the_end=self.iteration > iteration - WATCHED)
        self.steps = self.iteration + CHECKS

    def _read(self, *, at_the_end: bool = False) -> None:
        """Read the state where training ends, just before leaps, and where a reading is due."""
        past = self.iteration - self._first
        if past == 0 or (past > 0 and (at_the_end or self._reader.plan.is_due(past + 1))):
            self.readings.append((self.iteration, self._reader(self.states[-1])))

    @property
    def first(self) -> _Reading:
        return self.readings[0][1]

    @property
    def stands(self) -> Bool[Tensor, "answers"]:
        """Which answers are kept in the last true iterations."""
        return torch.stack([reading.kept(self.first) for _, reading in self.readings[-AGREEING:]]).all(0)


def _fly(
    loop: Loop,
    recalled: Tree,
    orbit: _Orbit,
    landings: Sequence[int],
    reader: _Reader,
    real: Bool[Tensor, "batch *tokens"] | None,
    noise: float,
) -> _Flight:
    """Leap from the end of the orbit to the horizon, and read and check where the leaps end."""
    leaps = leap_through(loop, recalled, orbit.states, orbit.iteration, landings, real, noise)
    landed = [reader(one.settled[-1]) for one in leaps]
    if leaps:
        late = [*(reader(state) for state in leaps[-1].landing.before), landed[-1]]
    else:
        late = [reading for _, reading in orbit.readings[-WATCHED:]]
    checks = [check(one, real, noise) for one in leaps]
    if not leaps:
        return _Flight(leaps, checks, landed, late, [], [], torch.zeros_like(late[-1].finite_state))
    size = norms(orbit.states[-1], real)
    oscillates = dies_out(leaps[0].fit, size, landings[-1] - orbit.iteration, MOVING)
    drifted = _drifted(orbit, landings[-1], reader) if noise else []
    return _Flight(leaps, checks, landed, late, _beyond(leaps, orbit.iteration, reader), drifted, oscillates)


def _beyond(leaps: Sequence[Leap], start: int, reader: _Reader) -> list[_Reading]:
    """Read the state at the horizon, and its outputs, as they would be after moving on at their last pace."""
    before, last = leaps[-1].settled[-WATCHED], leaps[-1].settled[-1]
    times = ROOM * (leaps[-1].end - start) / (WATCHED - 1)
    return [
        reader(tree_map(lambda new, old: new + times * (new - old) if new.is_floating_point() else new, last, before)),
        reader.ahead(last, before, times),
    ]


def _drifted(orbit: _Orbit, horizon: int, reader: _Reader) -> list[_Reading]:
    """Read the outputs as they would be after going on, or back, at their pace over the second half of the orbit."""
    iteration, middle = orbit.middle
    times = ROOM * (horizon - orbit.iteration) / (orbit.iteration - iteration)
    return [reader.ahead(orbit.states[-1], middle, one) for one in (times, -times)]


def _best(orbit: _Orbit, flight: _Flight) -> float:
    if orbit.first.right is None:
        return 1.0
    readings = [*(reading for _, reading in orbit.readings), *flight.landed]
    return max(_fraction(reading.kept(orbit.first)) for reading in readings)


def _round_of(orbit: _Orbit, flight: _Flight, sure: Bool[Tensor, "answers"], steps: int) -> Round:
    """Return the bounds that a round sets on the accuracy left at the horizon, where ``sure`` answers are kept for sure."""
    kept, stands, best = flight.kept(orbit.first), orbit.stands, _best(orbit, flight)
    doubtful = kept & ~sure
    likely = doubtful & stands & flight.bounded
    # A leap that went astray says nothing about the answer, so the true orbit has to. Nor does a leap along a path that grows
    # so far that the fit does not resolve the rest of the state.
    lost = ~kept & stands
    unknown = lost & torch.where(flight.on_path, ~flight.resolved, flight.unsettled)
    astray = lost & ~flight.on_path & ~unknown
    possible = _fraction(unknown) + (1 - DOUBT) * _fraction(astray)
    least = min(1.0, (_fraction(kept & sure) + (1 - DOUBT) * _fraction(likely)) / best) if best else 0.0
    most = min(1.0, (_fraction(kept) + possible) / best) if best else 0.0
    oscillating = _fraction((doubtful | unknown) & flight.unsettled)
    return Round(orbit.iteration, steps, least, most, _fraction(doubtful), *_evidence(flight, doubtful), oscillating)


def _evidence(flight: _Flight, doubtful: Bool[Tensor, "answers"]) -> tuple[float | None, float | None, float | None]:
    """Return the medians of change, expected change and growth over doubtful answers.

    They are those of the last leap whose check an answer's example failed, or of the last leap if it failed none.
    """
    if not bool(doubtful.any()):
        return None, None, None
    rows = flight.late[-1].example[doubtful]
    failed = torch.stack([~one.passed[rows] for one in flight.checks])
    places = torch.arange(len(failed), device=failed.device).unsqueeze(1)
    last = torch.where(failed.any(0), (failed * places).amax(0), len(failed) - 1)

    def median(name: str) -> float:
        values = torch.stack([getattr(one, name)[rows] for one in flight.checks])
        return float(values.gather(0, last.unsqueeze(0)).squeeze(0).median())

    return median("change"), median("expected"), median("growth")


def _agreed(found: Sequence[Round], orbit: _Orbit) -> bool:
    """Return whether no further round is needed."""
    outlook = found[-1].outlook
    if outlook is Outlook.CANNOT_TELL:
        return False
    if len(found) > 1 and found[-2].outlook is outlook:
        return True
    return outlook is Outlook.COLLAPSES and _fallen(orbit)


def _fallen(orbit: _Orbit) -> bool:
    """Return whether the orbit itself has lost answers, as far as it was run."""
    values = [_fraction(reading.kept(orbit.first)) for _, reading in orbit.readings]
    best = max(values) if orbit.first.right is not None else 1.0
    return len(values) >= AGREEING and max(values[-AGREEING:]) < HOLDS * best


def _told(
    found: Sequence[Round],
    orbit: _Orbit,
    flight: _Flight,
    reader: _Reader,
    floor: NoiseFloor | None,
    horizon: int,
    seconds: float,
) -> Forecast:
    first, last = orbit.first, found[-1]
    points = [
        *(reading.point(iteration, first, False) for iteration, reading in orbit.readings),
        *(reading.point(leap.end, first, True) for leap, reading in zip(flight.leaps, flight.landed, strict=True)),
    ]
    late = [
        reading.point(horizon + place, first, bool(flight.leaps))
        for place, reading in enumerate(flight.late[:-1], 1 - len(flight.late))
    ]
    broken = _breakage(points, flight, reader)
    outlook, reason = last.outlook, broken
    if _best(orbit, flight) == 0:
        outlook, reason = Outlook.CANNOT_TELL, f"there are no right answers to keep{broken and f', and {broken}'}"
    elif len(found) > 1 and {outlook, found[-2].outlook} == {Outlook.KEEPS, Outlook.COLLAPSES}:
        outlook = Outlook.CANNOT_TELL
        reason = (
            f"{found[-2].orbit} iterations say {found[-2].outlook.value}, but {last.orbit} say {last.outlook.value}"
        )
    elif outlook is Outlook.CANNOT_TELL:
        reason = f"{_doubt(last, reader)}{_rounding(last, floor)}"
    collapse = None
    if outlook is Outlook.COLLAPSES:
        enough = HOLDS * _best(orbit, flight)
        collapse = _onset(points, flight, lambda state: _fraction(reader(state).kept(first)) >= enough, enough)
    return Forecast(
        outlook,
        reason,
        collapse,
        horizon,
        points,
        reader.examples,
        seconds,
        late,
        last.steps,
        tuple(found),
        tokens=len(first.finite) if reader.by_token else None,
    )


def _doubt(last: Round, reader: _Reader) -> str:
    """Return the reason why a round cannot tell."""
    between = f"between {100 * last.least:.0f}% and {100 * last.most:.0f}% is left"
    what = "tokens" if reader.by_token else "inputs"
    if last.oscillating > 0 and last.oscillating >= last.unchecked / 2:
        return (
            f"{between}, because the states of {100 * last.oscillating:.0f}% of the {what} still oscillate after "
            f"{last.orbit} iterations and come to rest only later"
        )
    if last.change is None or last.expected is None or last.growth is None:
        return between
    inputs = f"of {100 * last.unchecked:.0f}% of the {what}"
    if last.growth > GROWING:
        return f"{between}, because the changes {inputs} grow"
    if math.isinf(last.change):
        return f"{between}, because the states {inputs} are not finite after a leap"
    return (
        f"{between}, because the states {inputs} change by {last.change:.1e} per iteration after a leap, where "
        f"{last.expected:.1e} is expected"
    )


def _moves(last: Round) -> bool:
    """Return whether a round cannot tell because states still move after a leap, though not ever faster."""
    if last.outlook is not Outlook.CANNOT_TELL or last.change is None or last.growth is None:
        return False
    return last.growth <= GROWING and MOVING < last.change < math.inf


def _rounding(last: Round, floor: NoiseFloor | None) -> str:
    """Return a clause that names the rounding of the step, if that explains why states still change after a leap."""
    if floor is None or not _moves(last) or last.change is None or last.change > floor.residual:
        return ""
    return f"; the step rounds like {floor.precision}, which explains changes of up to {floor.residual:.1e}"


def _onset(points: Sequence[Point], flight: _Flight, holds: Callable[[Tree], bool], enough: float) -> float | None:
    """Return the approximate iteration from which too little is left, or None if enough is left at the last point."""
    held = [place for place, point in enumerate(points) if point.value >= enough]
    if not held or held[-1] == len(points) - 1:
        return None
    before, after = points[held[-1]].iteration, points[held[-1] + 1].iteration
    return _boundary(before, after, flight.leaps, holds)


def _boundary(before: int, after: int, leaps: Sequence[Leap], holds: Callable[[Tree], bool]) -> float:
    """Return where something ceases to hold between two iterations, by bisection on the fit of the leap between them."""
    between = next((leap for leap in leaps if leap.start == before), None)
    while between is not None and after > max(before + 1, NEAR * before):
        middle = (before + after) // 2
        before, after = (middle, after) if holds(between.at(middle)) else (before, middle)
    return float(after)


def _breakage(points: Sequence[Point], flight: _Flight, reader: _Reader) -> str:
    """Return what ceases to be finite and about when, or an empty string if everything is finite."""
    if points[-1].finite == 1:
        return ""
    broken = next(place for place, point in enumerate(points) if point.finite < 1)
    what = "outputs" if bool(flight.late[-1].finite_state.all()) else "states"
    answers = "tokens" if reader.by_token else "inputs"
    inputs = f"the {what} of {100 * (1 - points[-1].finite):.0f}% of the {answers} are not finite"
    if broken == 0:
        return f"{inputs} as early as iteration {points[0].iteration}"
    before, after = points[broken - 1].iteration, points[broken].iteration
    when = _boundary(before, after, flight.leaps, lambda state: bool(reader(state).finite.all()))
    return f"{inputs} from about iteration {when:.0f} on"
