"""One visitor's session: models at work on one problem, a point in time, and what the experiments found."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from loopscope.errors import LoopscopeError, check_choice, check_count, check_positive
from loopscope.forecasts.forecast import forecast
from loopscope.forecasts.result import Forecast
from loopscope.lab import findings
from loopscope.lab.exhibits import Exhibit
from loopscope.lab.lane import Lane, Track
from loopscope.lab.orbit import LONGEST

PLAYED = 200
"""Most iterations that one press of Play shows of an orbit that does not settle."""
STEADY = 50
"""Iterations without a change of the answer after which there is nothing more to see."""
AFTER_SETTLING = 10
"""Iterations that Play shows where there was nothing more to see before."""
RETURNING = 120
"""Most iterations of a pushed orbit, or after a change of the question."""
WATCHED = 20
"""Iterations after a push or a change before anything is said of it: a state that stays where it is has settled at once."""
BEFORE_CHANGE = 40
"""Iterations before the question of an orbit is changed that has not been run yet."""
FRAME = 0.3
"""Seconds of computing between two pictures of a long run."""

Frames = Iterator[None]
"""An action as it goes on: it stops at each picture, and goes on when it is asked for the next."""


class Session:
    """What one visitor is doing.

    Args:
        exhibits: the exhibits to choose from.
        chosen: name of the first one shown; the first exhibit by default.

    Attributes:
        lanes: the models that are shown, one or two side by side.
        iteration: the iteration that is shown.
        problem: what is wrong with what was asked last, in one line; empty if nothing is.
        found: for each experiment one sentence per lane.
        stride: iterations from one picture of Play or of an experiment to the next.

    Example:
        >>> import torch
        >>> from loopscope.lab.exhibits import exhibit
        >>> from loopscope.loop import FunctionLoop
        >>> halving = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> session = Session([exhibit(halving, torch.eye(3))])
        >>> frames = list(session.play())
        >>> session.iteration, session.lanes[0].settled(session.iteration)
        (14, True)
        >>> for _ in session.push(0.5):
        ...     pass
        >>> session.found["push"][0][:14]
        'It came back: '
    """

    def __init__(self, exhibits: Sequence[Exhibit], chosen: str | None = None) -> None:
        self.exhibits = {one.name: one for one in exhibits}
        self._draws = 0
        self._action: Frames | None = None
        self.problem = ""
        self.lanes: list[Lane] = []
        self.iteration = 0
        self.found: dict[str, list[str]] = {}
        self.stride = 1
        self.choose(chosen or exhibits[0].name)

    @property
    def text(self) -> str:
        """The problem as it is typed in."""
        return self.lanes[0].own.question.text

    @property
    def end(self) -> int:
        """The last iteration that has been run in some lane."""
        return max(lane.end for lane in self.lanes)

    @property
    def busy(self) -> bool:
        """Whether an action goes on."""
        return self._action is not None

    def begin(self, action: Frames) -> None:
        """Begin an action, in place of the one that goes on: the latest click wins."""
        self._action = action

    def stop(self) -> None:
        """Stop the action that goes on."""
        self._action = None

    def proceed(self) -> None:
        """Take the action to its next picture, or to its end.

        Raises:
            LoopscopeError: the action is refused, see the actions.
        """
        action, self._action = self._action, None
        if action is not None and next(action, self) is not self:
            self._action = action

    def rivals(self) -> list[str]:
        """Return the exhibits that can be shown beside the first one: those that take the same problems."""
        first = self.lanes[0].exhibit
        return [one.name for one in self.exhibits.values() if one.kind == first.kind and one is not first]

    def choose(self, name: str) -> None:
        """Show an exhibit, on the present problem if it takes it, else on the first of its own.

        Raises:
            LoopscopeError: there is no such exhibit.
        """
        check_choice("the model", name, self.exhibits)
        first = self.exhibits[name]
        same = bool(self.lanes) and self.lanes[0].exhibit.kind == first.kind
        self._open([first], self.text if same else next(iter(first.examples)))

    def compare(self, name: str | None) -> None:
        """Show another exhibit beside the first one, on the same problem; None shows the first one alone.

        Raises:
            LoopscopeError: there is no such exhibit, or it takes other problems.
        """
        if name is not None:
            check_choice("the model beside it", name, self.rivals())
        first = self.lanes[0].exhibit
        self._open([first, *([self.exhibits[name]] if name else [])], self.text)

    def ask(self, text: str) -> None:
        """Show the present exhibits on another problem.

        Raises:
            LoopscopeError: the text is not a problem.
        """
        self._open([lane.exhibit for lane in self.lanes], text)

    def restart(self) -> None:
        """Go back to the first state, without the orbits of experiments."""
        self.ask(self.text)

    def edit(self, lane: int, place: int, key: str) -> bool:
        """Press a key at a place of a board; return whether that changed the problem.

        Raises:
            LoopscopeError: the problem that this makes is refused.
        """
        exhibit, question = self.lanes[lane].exhibit, self.lanes[lane].at(self.iteration).question
        return self._edited(exhibit.view.edited(question, place, key))

    def move(self, lane: int, origin: int, target: int) -> bool:
        """Move a part of the board to another place; return whether that changed the problem.

        Raises:
            LoopscopeError: the problem that this makes is refused.
        """
        exhibit, question = self.lanes[lane].exhibit, self.lanes[lane].at(self.iteration).question
        return self._edited(exhibit.view.moved(question, origin, target))

    def show(self, iteration: int) -> None:
        """Show an iteration that has been run."""
        self.iteration = max(0, min(iteration, self.end))

    def show_every(self, stride: int) -> None:
        """Set the number of iterations from one picture to the next, without stopping the action that goes on.

        Raises:
            LoopscopeError: the number is not at least 1.
        """
        check_count(stride=stride)
        self.stride = stride

    def step(self, iterations: int = 1) -> None:
        """Go on by some iterations."""
        check_count(iterations=iterations)
        self._reach(self.iteration + iterations)

    def play(self) -> Frames:
        """Go on, iteration by iteration, until every state has settled or kept its answer for long."""
        quiet = self._quiet()
        last = self.iteration + (AFTER_SETTLING if quiet else PLAYED)
        while self.iteration < last and not self._ended() and (quiet or not self._quiet()):
            yield from self._go_on()

    def push(self, fraction: float) -> Frames:
        """Push every state on the board by a fraction of its norm, and watch whether it comes back.

        Raises:
            LoopscopeError: the fraction is not above 0.
        """
        check_positive(fraction=fraction)
        at, seed = self.iteration, self._draw()
        twins = [lane.push(min(at, lane.end), fraction, seed) for lane in self.lanes]
        yield from self._watch_return(twins, at)

    def start_at_random(self) -> Frames:
        """Start from a random state, and watch whether the orbit finds the same answer."""
        yield from self._warm_up()
        at, seed = self.iteration, self._draw()
        twins = [lane.start_at_random(min(at, lane.end), seed) for lane in self.lanes]
        self.iteration = 0
        yield from self._watch_return(twins, at)

    def change(self, text: str) -> Frames:
        """Give the states on the board another problem, and watch whether the answer follows.

        Raises:
            LoopscopeError: the text is not a problem, is the present one, or is one of another size.
        """
        questions = [lane.exhibit.read(text) for lane in self.lanes]
        if questions[0].text == self.lanes[0].at(self.iteration).question.text:
            raise LoopscopeError("the other problem is the one that is shown: give another")
        references = [lane.another(question) for lane, question in zip(self.lanes, questions, strict=True)]
        yield from self._warm_up()
        at = self.iteration
        twins = [lane.change(min(at, lane.end), other) for lane, other in zip(self.lanes, references, strict=True)]
        yield from self._watch(at)
        self.found["change"] = [
            findings.of_change(lane, twin, at) for lane, twin in zip(self.lanes, twins, strict=True)
        ]

    def run_on(self, iterations: int, with_leaps: bool = False) -> Frames:
        """Forecast the loop's own orbit to an iteration, and run it there.

        Raises:
            LoopscopeError: there are too many iterations, or leaps are asked for of a loop that depends on time.
        """
        check_count(iterations=iterations)
        if iterations > LONGEST:
            raise LoopscopeError(f"{iterations:,} iterations were asked for, expected at most {LONGEST:,}")
        for lane in self.lanes:
            lane.shown = lane.own
        foretold = [self._forecast(lane, iterations) for lane in self.lanes]
        self.found["run"] = [findings.of_forecast(one) for one in foretold]
        yield
        if with_leaps:
            for lane in self.lanes:
                lane.leap()
        began = time.perf_counter()
        for iteration in range(self.iteration + 1, iterations + 1):
            self._reach(iteration)
            if time.perf_counter() - began >= FRAME:
                yield
                began = time.perf_counter()
        ends = [findings.of_run(lane, one) for lane, one in zip(self.lanes, foretold, strict=True)]
        self.found["run"] = [f"{said} {end}".strip() for said, end in zip(self.found["run"], ends, strict=True)]

    def _forecast(self, lane: Lane, horizon: int) -> Forecast | str:
        """Return the forecast of a lane's own orbit, or why there is none, as for a loop that depends on time."""
        exhibit, inputs = lane.exhibit, lane.own.question.inputs
        trained, answers = exhibit.trained_iterations, exhibit.answers
        try:
            return forecast(exhibit.loop, inputs, None, trained, lane.seed, answers, horizon=horizon)
        except LoopscopeError as error:
            return str(error)

    def _open(self, exhibits: Sequence[Exhibit], text: str) -> None:
        # Read by all of them before anything changes: a refused text leaves the session as it is.
        questions = [one.read(text) for one in exhibits]
        self.lanes = [Lane(one, question) for one, question in zip(exhibits, questions, strict=True)]
        self.iteration, self.found = 0, {}

    def _edited(self, text: str | None) -> bool:
        if text is None:
            return False
        self.ask(text)
        return True

    def _draw(self) -> int:
        self._draws += 1
        return self._draws

    def _reach(self, iteration: int) -> None:
        for lane in self.lanes:
            lane.run_to(iteration)
        self.iteration = min(iteration, self.end)

    def _quiet(self) -> bool:
        return all(lane.settled(self.iteration) or lane.steady(self.iteration) >= STEADY for lane in self.lanes)

    def _ended(self) -> bool:
        return self.iteration >= self.end and all(lane.shown.orbit.broken for lane in self.lanes)

    def _warm_up(self) -> Frames:
        """Run an orbit that has not been run yet, so that there is something to disturb."""
        if self.iteration == 0:
            while self.iteration < BEFORE_CHANGE and not self._ended():
                yield from self._go_on()

    def _go_on(self) -> Frames:
        """Take one iteration, with a picture of it unless the stride leaves it out."""
        self.step()
        if self.iteration % self.stride == 0:
            yield

    def _watch_return(self, twins: Sequence[Track], at: int) -> Frames:
        """Watch whether orbits come back to where their lanes were at an iteration, and note it."""
        pairs = list(zip(self.lanes, twins, strict=True))
        apart = [lane.apart(twin, lane.undisturbed(twin), at) for lane, twin in pairs]
        yield from self._watch(at)
        self.found["push"] = [findings.of_push(lane, twin, far) for (lane, twin), far in zip(pairs, apart, strict=True)]

    def _watch(self, least: int) -> Frames:
        """Show the orbits of an experiment until they have settled, well beyond the iteration that they are compared with."""
        yield
        least = max(least, self.iteration) + WATCHED
        last = least - WATCHED + RETURNING
        while self.iteration < last and not self._ended() and not (self.iteration >= least and self._quiet()):
            yield from self._go_on()


class Sessions:
    """The sessions of all visitors, by their keys; the ones that were used longest ago are dropped.

    Args:
        exhibits: the exhibits.
        most: number of sessions that are kept.

    Raises:
        LoopscopeError: two exhibits have one name.
    """

    def __init__(self, exhibits: Sequence[Exhibit], most: int = 8) -> None:
        names = [one.name for one in exhibits]
        if twice := [name for name in names if names.count(name) > 1]:
            raise LoopscopeError(f"{twice[0]} is shown twice: name each once, or give exhibits names of their own")
        self.exhibits, self.most = exhibits, most
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def names(self) -> list[str]:
        """The names of the exhibits."""
        return [one.name for one in self.exhibits]

    def of(self, key: str) -> Session:
        """Return a visitor's session, a new one if there is none."""
        with self._lock:
            session = self._sessions.pop(key, None)
            if session is None:
                session = Session(self.exhibits)
            self._sessions[key] = session
            while len(self._sessions) > self.most:
                self._sessions.popitem(last=False)
            return session

    def drop(self, key: str) -> None:
        """Forget a visitor who has left."""
        with self._lock:
            self._sessions.pop(key, None)
