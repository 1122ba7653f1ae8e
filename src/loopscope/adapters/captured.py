"""A captured model as a loop: parts of its own forward, run from a state that is put in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import NoReturn

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.autograd import forward_ad

from loopscope.adapters.calls import Watch, callee
from loopscope.adapters.flow import Spot
from loopscope.adapters.gradients import WholeGradients
from loopscope.adapters.padding import padding_mask
from loopscope.adapters.paths import (
    Blank,
    leaves_by_path,
    tensors_by_path,
    with_leaves,
)
from loopscope.adapters.plan import Plan
from loopscope.adapters.proof import PROVEN_ITERATIONS, Proof, prove
from loopscope.adapters.recall import Sorted, in_single_precision
from loopscope.adapters.replay import Act, Player, Stopped
from loopscope.adapters.running import Run
from loopscope.adapters.tape import Place
from loopscope.contexts import random_state_kept
from loopscope.errors import LoopscopeError
from loopscope.trees import Context, Tree, batch_size, device_of


class CapturedLoop(nn.Module, ABC):
    """A model of somebody else's as a loop; `loopscope.capture` makes it.

    What is recalled has three parts. ``recalled`` holds the numbers that the step depends on: embeddings, injected
    inputs. ``aside`` follows the examples too, but has no derivative: token ids, masks, what only the readout needs.
    ``kept`` has no batch: rotary tables, and placeholders for what is not computed again.

    Args:
        model: the model; it stays as it is.
        plan: how it is run in parts.
        run: calls it.

    Example:
        >>> import torch
        >>> import loopscope as ls
        >>> class Looped(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.core, self.head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)
        ...
        ...     def forward(self, x):
        ...         h = torch.zeros_like(x)
        ...         for _ in range(4):
        ...             h = torch.tanh(self.core(h) + x)
        ...         return self.head(h)
        >>> inputs = torch.eye(3)
        >>> loop = ls.capture(Looped().eval(), "core", inputs)
        >>> isinstance(loop, ls.CapturedLoop), loop.iterations_before
        (True, 1)
        >>> ls.solve(loop, inputs).output.shape
        torch.Size([3, 2])
    """

    def __init__(self, model: nn.Module, plan: Plan, run: Run) -> None:
        super().__init__()
        self.model, self.plan, self.run = model, plan, run
        self.training = model.training

    @property
    def iterations_before(self) -> int:
        """Iterations of the model that lie before the first state.

        It is 0; or 1 where the model treats its first iteration unlike the others, so that the first state is the one
        that it ends with.
        """
        return self.plan.stretch

    @property
    def in_half_precision(self) -> bool:
        """Whether the model keeps its state in half precision; the loop shows it in float32."""
        return self.plan.half

    def encode(self, inputs: Tree) -> Tree:
        """Return what stays the same over iterations: what the calls before the loop made of the inputs."""
        plan, batch = self.plan, batch_size(inputs)
        script = {place: Act(keep=True) for place in (*plan.before, *plan.looped)}
        for part in plan.state:
            script.setdefault(plan.ends_at(part).place, Act()).note_made.append(plan.ends_at(part).path)
        player = self._play(inputs, script, wanted=len(plan.before) + len(plan.looped) + len(plan.state))
        if tuple(player.names[-len(plan.course) :]) != plan.course:
            self._refuse_another_course()
        sorted_out = Sorted(plan, batch)
        arguments = sorted_out.arguments(player.kept[plan.end][0]) if plan.direct else None
        sorted_out.count_what_the_step_takes({place: returned for place, (_, returned) in player.kept.items()})
        calls = {place: sorted_out.returned(place, returned) for place, (_, returned) in player.kept.items()}
        made = [player.made[plan.ends_at(part)] for part in plan.state]
        forms = [
            Blank.of(tensor.movedim(at, 0), (True, *[False] * (tensor.ndim - 1)), batch)
            for tensor, at in zip(made, plan.batch_at, strict=True)
        ]
        return {
            "recalled": sorted_out.numbers,
            "aside": Context({"inputs": inputs, "tensors": sorted_out.aside}, batched=True),
            "kept": Context({"calls": calls, "arguments": arguments, "state": forms}, batched=False),
        }

    def start(self, recalled: Tree, generator: torch.Generator | None = None) -> Tree:
        """Return the model's own first state; a random one is drawn with ``generator``, else with PyTorch's own."""
        plan, inputs = self.plan, _inputs(recalled)
        script = self._given(recalled, plan.for_start) if plan.aligned else {}
        for part in plan.state:
            spot = plan.starts(part)
            act = script.setdefault(spot.place, Act())
            (act.note_used if plan.aligned else act.note_made).append(spot.path)
        with _drawn_with(generator if plan.random else None, device_of(inputs)):
            player = self._play(inputs, script, wanted=len(plan.state), draw=True)
        noted = player.used if plan.aligned else player.made
        firsts = [noted[plan.starts(part)] for part in plan.state]
        batch, forms = batch_size(inputs), recalled["kept"].values["state"]
        # A first state without a batch, such as a learned vector, is broadcast by the model's own first iteration.
        values = [
            first.to(form.like.dtype).expand(form.filled(batch).movedim(0, at).shape)
            for first, form, at in zip(firsts, forms, plan.batch_at, strict=True)
        ]
        return self.state_of(values)

    @abstractmethod
    def step(self, state: Tree, recalled: Tree) -> Tree:
        """Return the state one iteration of the model later."""

    def read(self, state: Tree, recalled: Tree) -> Tensor:
        """Return what the model's own forward makes of a state."""
        plan, calls = self.plan, recalled["kept"].values["calls"]
        script = self._given(recalled, plan.for_read)
        for stretch in range(plan.stretch, plan.shortest):
            for place, steady in plan.looped.items():
                now = place if stretch == plan.stretch else steady._replace(stretch=stretch)
                script.setdefault(now, Act(answer=calls[place], answers=True))
        for part, value in zip(plan.state, self.values_of(state, recalled), strict=True):
            spot = part.made_in(plan.shortest - 1)
            script.setdefault(spot.place, Act()).give[spot.path] = value
        player = self._play(_inputs(recalled), script)
        if player.places.stretch != plan.shortest:
            raise LoopscopeError(
                f"{plan.ends.name} is called another number of times when its values change: the number of iterations depends on the "
                "data; give run=lambda model, inputs: ... that runs a fixed number"
            )
        return in_single_precision(player.output)

    def prove(self, inputs: Tree) -> Proof:
        """Return a proof that this loop is the model, on other inputs or once more.

        Args:
            inputs: as ``encode`` takes them; with an ``attention_mask``, padding is tried too.

        Raises:
            LoopscopeError: it is not; the message says in which way, by how much, and what to do.
        """
        plan = self.plan
        counts = PROVEN_ITERATIONS if plan.told else (plan.recorded,)
        return prove(self, lambda inputs, iterations: self.run(self.model, inputs, iterations), inputs, counts)

    def mask(self, recalled: Tree) -> Bool[Tensor, "batch tokens"] | None:
        """Return which tokens are real, as the mask among the inputs says; None where there is none."""
        mask = padding_mask(_inputs(recalled))
        if mask is None or any(form.sizes[1:2] == mask.shape[1:] for form in recalled["kept"].values["state"]):
            return mask
        if bool(mask.all()):
            return None
        raise LoopscopeError(
            f"the mask of the inputs has {mask.shape[1]} tokens and no tensor of the state has as many, so that padding "
            "cannot be left out: give inputs without padding"
        )

    def state_of(self, values: list[Tensor]) -> Tree:
        """Return the model's own tensors as a state: batch first, half precision as float32."""
        moved = [
            in_single_precision(value.movedim(at, 0)) for value, at in zip(values, self.plan.batch_at, strict=True)
        ]
        if len(moved) == 1:
            return moved[0]
        return dict(zip((part.name for part in self.plan.state), moved, strict=True))

    def values_of(self, state: Tree, recalled: Tree) -> list[Tensor]:
        """Return a state as the model's own tensors."""
        parts = [state[part.name] for part in self.plan.state] if isinstance(state, Mapping) else [state]
        forms = recalled["kept"].values["state"]
        return [
            part.to(form.like.dtype).movedim(0, at)
            for part, form, at in zip(parts, forms, self.plan.batch_at, strict=True)
        ]

    def _given(self, recalled: Tree, needed: frozenset[Spot]) -> dict[Place, Act]:
        """Return acts that answer the calls before the loop from what is recalled."""
        known = _by_name(recalled)
        calls, script = recalled["kept"].values["calls"], {}
        for place in self.plan.before:
            blanks = dict(leaves_by_path(calls[place]))
            given = {
                spot.path: blanks[spot.path].restored(known[str(spot)])
                for spot in needed
                if spot.place == place and str(spot) in known
            }
            script[place] = Act(answer=with_leaves(calls[place], given), answers=True)
        return script

    def _hides(self) -> bool:
        """Return whether derivatives are being taken that the step would hide."""
        return self.plan.hidden and (torch.is_grad_enabled() or forward_ad._current_level >= 0)

    def _play(
        self, inputs: Tree, script: Mapping[Place, Act], wanted: int | None = None, *, draw: bool = False
    ) -> Player:
        """Run the model along a script; only a first state that is drawn changes PyTorch's own random state."""
        player = Player(self.plan.ends, script, batch_size(inputs), wanted)
        callees = {name: callee(self.model, name) for name in self.plan.watched}
        kept = random_state_kept(device_of(inputs)) if self.plan.random and not draw else nullcontext()
        with kept, Watch(callees, player, whole=self._hides()).running():
            try:
                player.output = self.run(self.model, inputs, self.plan.shortest)
            except Stopped:
                return player
        if wanted is not None:
            self._refuse_another_course()
        return player

    def _refuse_another_course(self) -> NoReturn:
        raise LoopscopeError(
            f"the model took another course than on the inputs it was captured on, and did not call {self.plan.ends.name} as it did "
            "there: capture it on inputs of this kind"
        )


class RerunLoop(CapturedLoop):
    """A captured model whose iteration is a part of a longer forward: the state is put there, and the part run."""

    def step(self, state: Tree, recalled: Tree) -> Tree:
        """Return the state one iteration of the model later."""
        plan = self.plan
        script = self._given(recalled, plan.for_step)
        for part, value in zip(plan.state, self.values_of(state, recalled), strict=True):
            if plan.aligned:
                for spot in part.first_used or ():
                    script.setdefault(spot.place, Act()).put[spot.path] = value
            else:
                script.setdefault(part.first_made.place, Act()).give[part.first_made.path] = value
            after = plan.ends_at(part)
            script.setdefault(after.place, Act()).note_made.append(after.path)
        made = self._play(_inputs(recalled), script, wanted=len(plan.state)).made
        return self.state_of([made[plan.ends_at(part)] for part in plan.state])


class DirectLoop(CapturedLoop):
    """A captured model whose iteration is one call: the call is made on its own."""

    def step(self, state: Tree, recalled: Tree) -> Tree:
        """Return the state one iteration of the model later."""
        plan = self.plan
        values = self.values_of(state, recalled)
        put = {spot.path: value for part, value in zip(plan.state, values, strict=True) for spot in part.used}
        known, arguments = _by_name(recalled), recalled["kept"].values["arguments"]
        for path, leaf in leaves_by_path(arguments):
            if path not in put and isinstance(leaf, Blank):
                put[path] = leaf.restored(known[plan.ends.argument(path)])
        args, kwargs = with_leaves(arguments, put)
        with WholeGradients() if self._hides() else nullcontext():
            made = tensors_by_path(callee(self.model, plan.ends.name).function(*args, **kwargs))
        return self.state_of([made[part.made.path] for part in plan.state])


def _by_name(recalled: Tree) -> dict[str, Tensor]:
    """Return every tensor that follows the examples, by its name."""
    return {**recalled["recalled"], **recalled["aside"].values["tensors"]}


def _inputs(recalled: Tree) -> Tree:
    return recalled["aside"].values["inputs"]


@contextmanager
def _drawn_with(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Draw the random numbers of PyTorch's global generator from ``generator`` within this context."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with random_state_kept(device):
        torch.manual_seed(seed)
        yield
