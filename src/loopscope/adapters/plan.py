"""The plan by which a captured model is run in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from loopscope.adapters.flow import Component, Spot
from loopscope.adapters.paths import Path
from loopscope.adapters.tape import Ends, Place
from loopscope.trees import Tree

Run = Callable[[nn.Module, Tree, int], Tensor]
"""Runs a model on inputs, for the number of iterations where it can be told one, and returns its logits."""


@dataclass(frozen=True)
class Plan:
    """How a model's own forward is run in parts.

    Attributes:
        ends: which calls end an iteration.
        direct: whether that call is the whole iteration, and can be made on its own.
        aligned: whether the first state is the one before the first iteration; else it is the one after it.
        state: what an iteration hands to the next.
        batch_at: the dimension of the batch, for each tensor of the state.
        before: calls before the iteration that serves as the step.
        looped: the calls of that iteration, each with its place as of stretch 1; the last one ends it.
        for_step: what the step needs of what the calls before returned.
        for_start: what the first state needs of it.
        for_read: what the readout needs of it.
        grows: which dimensions grow with the batch, of everything that calls return.
        echoes: the arguments that calls return as they were given them.
        argument_grows: the same of the arguments of the call that ends the iteration.
        watched: the submodules and methods whose calls are taken over.
        hidden: whether the step hides a part of itself from autograd.
        random: whether the first state is random.
        recorded: iterations of the recorded run.
        told: whether ``run`` can be told how many iterations to run.
    """

    ends: Ends
    direct: bool
    aligned: bool
    state: tuple[Component, ...]
    batch_at: tuple[int, ...]
    before: tuple[Place, ...]
    looped: Mapping[Place, Place]
    for_step: frozenset[Spot]
    for_start: frozenset[Spot]
    for_read: frozenset[Spot]
    grows: Mapping[Spot, tuple[bool, ...]]
    echoes: Mapping[Spot, Path]
    argument_grows: Mapping[Path, tuple[bool, ...]]
    watched: tuple[str, ...]
    hidden: bool
    random: bool
    recorded: int
    told: bool

    @property
    def stretch(self) -> int:
        """The stretch whose iteration is the step."""
        return 0 if self.aligned else 1

    @property
    def end(self) -> Place:
        """The call that ends that iteration."""
        return next(reversed(self.looped))

    @property
    def shortest(self) -> int:
        """Iterations of the shortest run that can be told of."""
        return self.stretch + 1 if self.told else self.recorded

    def starts(self, part: Component) -> Spot:
        """Return where the first state's value of a component is seen."""
        return part.first_used[0] if self.aligned and part.first_used else part.first_made

    def ends_at(self, part: Component) -> Spot:
        """Return where the step makes the next value of a component."""
        return part.made_in(self.stretch)
