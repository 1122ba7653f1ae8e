"""One model at work on one problem: its own orbit, and the orbits of experiments that left it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.contexts import eval_mode, without_autocast
from loopscope.errors import LoopscopeError
from loopscope.evaluation import SETTLED
from loopscope.forecasts.leaps import Landing, leaps
from loopscope.lab.exhibits import Exhibit
from loopscope.lab.orbit import Orbit
from loopscope.lab.views.view import Question, Snapshot
from loopscope.loop import first_state
from loopscope.stability.distances import distance
from loopscope.stability.orbits.plane import Plane
from loopscope.stability.starts import moved, random_direction, random_like
from loopscope.trees import Tree, flatten, leaves, norms

MOST_TWINS = 3
"""Orbits of experiments that are kept; the oldest one goes first."""


class Origin(StrEnum):
    """What an orbit began with."""

    OWN = "own start"
    PUSHED = "pushed"
    RANDOM = "random start"
    CHANGED = "question changed"
    REFERENCE = "the new question from its own start"


@dataclass
class Track:
    """An orbit with the question that it answers.

    Args:
        orbit: the orbit.
        question: the question.
        origin: what it began with.
        parent: the track that it left; None if it has a first state of its own.
    """

    orbit: Orbit
    question: Question
    origin: Origin
    parent: Track | None = None

    def at(self, iteration: int) -> Track:
        """Return the track that was followed at an iteration: this one, or the one that it left later."""
        return self if self.parent is None or iteration >= self.orbit.began else self.parent.at(iteration)


@dataclass
class Lane:
    """An exhibit, a question, and the orbits that are being watched.

    Args:
        exhibit: the exhibit.
        question: the question.
        seed: of a random start.

    Attributes:
        own: the loop's own orbit.
        twins: the orbits of experiments.
        shown: the track on the board.
        reference: the orbit of another question from its own start, with which a changed question is compared.
        landings: where leaps from the first iterations lead, each with its residual, if they were asked for.
        plane: the plane of the last picture, so that the next one keeps its orientation.
    """

    exhibit: Exhibit
    question: Question
    seed: int = 0
    own: Track = field(init=False)
    twins: list[Track] = field(init=False, default_factory=list)
    shown: Track = field(init=False)
    reference: Track | None = field(init=False, default=None)
    landings: Sequence[tuple[Landing, float]] = field(init=False, default=())
    plane: Plane | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.own = self.shown = self._begin(self.question, Origin.OWN)

    def _encoded(self, question: Question) -> Tree:
        loop = self.exhibit.loop
        with eval_mode(loop), torch.no_grad(), without_autocast():
            return loop.encode(question.inputs)

    def _begin(self, question: Question, origin: Origin) -> Track:
        recalled = self._encoded(question)
        with torch.no_grad(), without_autocast():
            start = first_state(self.exhibit.loop, recalled, self.seed)
        return self._track(question, recalled, start, origin)

    def _track(
        self,
        question: Question,
        recalled: Tree,
        start: Tree,
        origin: Origin,
        parent: Track | None = None,
        began: int = 0,
    ) -> Track:
        def answering(logits: Tensor) -> Int[Tensor, "parts"]:
            return self.exhibit.view.answer(question, logits)

        return Track(Orbit(self.exhibit.loop, recalled, start, answering, began), question, origin, parent)

    @property
    def end(self) -> int:
        """The last iteration of the track on the board."""
        return self.shown.orbit.end

    @property
    def tracks(self) -> list[Track]:
        """All orbits, the loop's own first."""
        return [self.own, *self.twins, *([self.reference] if self.reference else [])]

    def run_to(self, iteration: int) -> None:
        """Run the track on the board up to an iteration, and whatever it is compared with."""
        for track in (self.own, self.reference, self.shown.parent, self.shown):
            if track is not None:
                track.orbit.run_to(iteration)

    def at(self, iteration: int) -> Track:
        """Return the track that the board shows at an iteration."""
        return self.shown.at(iteration)

    def undisturbed(self, track: Track) -> Track:
        """Return the orbit that a pushed or random one is compared with: the one that it left, or its question's own."""
        if track.parent is not None:
            return track.parent
        return self.reference if self.reference and self.reference.question is track.question else self.own

    def snapshot(self, iteration: int) -> Snapshot:
        """Return what the board shows at an iteration."""
        track = self.at(iteration)
        orbit, view = track.orbit, self.exhibit.view
        logits = orbit.logits(iteration)
        earlier = self.at(max(0, iteration - 1))
        before = earlier.orbit.logits(max(0, iteration - 1))
        answer, last = view.answer(track.question, logits), view.answer(track.question, before)
        return Snapshot(iteration, logits, answer != last)

    def answer(self, track: Track, iteration: int) -> Int[Tensor, "parts"]:
        """Return a track's answer at an iteration."""
        return self.exhibit.view.answer(track.question, track.orbit.logits(iteration))

    def settled(self, iteration: int) -> bool:
        """Return whether the state on the board has settled: the last step changed it by less than 1e-4 of its size."""
        residual = self.at(iteration).orbit.residual(min(iteration, self.end))
        return residual is not None and residual <= SETTLED

    def steady(self, iteration: int) -> int:
        """Return for how many iterations the answer on the board has been the same."""
        orbit, iteration = self.at(iteration).orbit, min(iteration, self.end)
        return iteration - orbit.last_change(iteration)

    def push(self, iteration: int, fraction: float, seed: int) -> Track:
        """Push the state at an iteration in a random direction, and show the orbit from there.

        Args:
            iteration: the iteration.
            fraction: length of the push, relative to the norm of the state.
            seed: of the direction.
        """
        parent = self.at(iteration)
        orbit = parent.orbit
        state = orbit.state(iteration)
        direction = random_direction(state, torch.Generator().manual_seed(seed), orbit.mask)
        pushed = moved(state, fraction * norms(state, orbit.mask)[:, None] * direction)
        return self._add(self._track(parent.question, orbit.recalled, pushed, Origin.PUSHED, parent, iteration))

    def start_at_random(self, iteration: int, seed: int) -> Track:
        """Show the orbit from a random state whose tokens have the norms of those at an iteration."""
        track = self.at(iteration)
        drawn = random_like(track.orbit.state(iteration), torch.Generator().manual_seed(seed))
        return self._add(self._track(track.question, track.orbit.recalled, drawn, Origin.RANDOM))

    def another(self, question: Question) -> Track:
        """Return the orbit of another question from its own start, with which a changed question is compared.

        Raises:
            LoopscopeError: the state of this lane does not fit the other question.
        """
        other = self._begin(question, Origin.REFERENCE)
        here, there = ([tuple(leaf.shape[1:]) for leaf in leaves(one.orbit.last)] for one in (self.shown, other))
        if here != there:
            raise LoopscopeError(
                f"the other problem needs a state of shape {there[0]}, the present one has {here[0]}: give one of the same size"
            )
        return other

    def change(self, iteration: int, reference: Track) -> Track:
        """Go on from the state at an iteration with the question of another track, and show that orbit."""
        parent = self.at(iteration)
        state, question = parent.orbit.state(iteration), reference.question
        self.reference = reference
        return self._add(self._track(question, reference.orbit.recalled, state, Origin.CHANGED, parent, iteration))

    def leap(self) -> None:
        """Find out where leaps lead from the first 15 iterations of the loop's own orbit; states that are not finite are left out.

        Raises:
            LoopscopeError: see `loopscope.leaps`.
        """
        orbit = self.own.orbit
        with eval_mode(orbit.loop), without_autocast():
            landings = leaps(orbit.loop, orbit.recalled, self.seed)
            found = []
            for landing in landings:
                # The orbit from there, one step long, tells the residual.
                probe = Orbit(orbit.loop, orbit.recalled, landing.state, lambda logits: logits.argmax(-1))
                probe.run_to(1)
                residual = probe.residual(probe.end)
                if residual is not None and math.isfinite(residual):
                    found.append((Landing(landing.iteration, landing.state), residual))
        self.landings = found

    def points_of_leaps(self) -> Float[Tensor, "landings n"]:
        """Return where the leaps lead, as flat states."""
        return torch.cat([flatten(landing.state, self.own.orbit.mask) for landing, _ in self.landings])

    def apart(self, one: Track, other: Track, iteration: int) -> float:
        """Return the distance of two tracks at an iteration, relative to the norm of the second one's state."""
        states = [track.orbit.state(min(iteration, track.orbit.end)) for track in (one, other)]
        size = float(norms(states[1], other.orbit.mask))
        return float(distance(states[0], states[1], other.orbit.mask)) / size if size else 0.0

    def _add(self, track: Track) -> Track:
        self.twins = [*self.twins[1 - MOST_TWINS :], track]
        if self.reference is not None and not any(one.question is self.reference.question for one in self.twins):
            self.reference = None
        self.shown = track
        return track
