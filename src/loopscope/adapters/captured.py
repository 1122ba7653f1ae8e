"""A captured model as a loop: its own forward, run in parts from a given state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Shaped
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
from loopscope.adapters.positions import Chosen, Positions, checked_positions, spread
from loopscope.adapters.proof import (
    PROVEN_ITERATIONS,
    Check,
    Proof,
    prove,
    relative_gap,
    required,
    tolerance_for,
)
from loopscope.adapters.recall import Sorted, in_single_precision
from loopscope.adapters.replay import Act, Player, Stopped
from loopscope.adapters.running import Run
from loopscope.adapters.tape import Place
from loopscope.contexts import random_state_kept
from loopscope.errors import LoopscopeError
from loopscope.loop import AnswersPer
from loopscope.trees import Context, Tree, batch_size, device_of

MANY_LOGITS = 2**20
"""Logits of an example up to which a proof compares all of them."""


Gate = Callable[[Any, Tree], Tensor | None]
"""(model, state) -> the probability of stopping there, one number per example or per token; None without a gate."""


class CapturedLoop(nn.Module, ABC):
    """Someone else's model as a loop, made by `loopscope.capture`.

    The recalled input has three parts. ``recalled`` holds the numbers that the step depends on, such as embeddings and
    injected inputs. ``aside`` has one row per example too, but no derivative: token ids, masks, inputs of the readout.
    ``kept`` has no batch: rotary tables, and placeholders for values that are not computed again.

    Args:
        model: the model; it stays as it is.
        plan: how it is run in parts.
        run: calls it.
        positions: the tokens whose logits are read.
        answers_per: what one answer belongs to (see `loopscope.Loop`).
        proof: what was proven when the model was captured.
        gate_of: the probability of stopping that a learned gate of the model gives to a state; None without a gate.

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

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        run: Run,
        positions: Positions = "all",
        answers_per: AnswersPer = "example",
        proof: Proof | None = None,
        gate_of: Gate | None = None,
    ) -> None:
        super().__init__()
        self.model, self.plan, self.run = model, plan, run
        self.positions, self.answers_per = checked_positions(positions), answers_per
        self.proof, self.gate_of = proof, gate_of
        self.training = model.training

    @property
    def iterations_before(self) -> int:
        """Number of the model's iterations before the first state.

        It is 0, or 1 if the model treats its first iteration differently. Then the first state is the one after that
        iteration.
        """
        return self.plan.stretch

    @property
    def in_half_precision(self) -> bool:
        """Whether the model keeps its state in half precision; the loop returns it in float32."""
        return self.plan.half

    def encode(self, inputs: Tree) -> Tree:
        """Return the recalled input, which stays the same over iterations: the results of the calls before the loop."""
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
        """Return the model's first state; a random one is drawn with ``generator``, or else PyTorch's global one."""
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
        # The model's own first iteration broadcasts a first state without a batch, such as a learned vector.
        values = [
            first.to(form.like.dtype).expand(form.filled(batch).movedim(0, at).shape)
            for first, form, at in zip(firsts, forms, plan.batch_at, strict=True)
        ]
        return self.state_of(values)

    @abstractmethod
    def step(self, state: Tree, recalled: Tree) -> Tree:
        """Return the state after one more iteration of the model."""

    def reading(self, positions: Positions) -> CapturedLoop:
        """Return the same loop, read at other tokens.

        Args:
            positions: "last", "all", or places among the real tokens of each example.

        Raises:
            LoopscopeError: they are something else.
        """
        return type(self)(self.model, self.plan, self.run, positions, self.answers_per, self.proof, self.gate_of)

    def gated(self, gate_of: Gate) -> CapturedLoop:
        """Return the same loop with a gate.

        Args:
            gate_of: (model, state) -> the probability of stopping, one number per example or per token of the state.
        """
        return type(self)(self.model, self.plan, self.run, self.positions, self.answers_per, self.proof, gate_of)

    def gate(self, state: Tree, recalled: Tree) -> Tensor | None:
        """Return the probability of stopping that the model's learned gate gives, or None for a model without a gate.

        It has one number per example, or one for each token that is read.
        """
        said = None if self.gate_of is None else self.gate_of(self.model, self._of_model(state, recalled))
        if said is None:
            return None
        said = in_single_precision(said)
        choose = Chosen(self.positions, padding_mask(_inputs(recalled)))
        return said if said.ndim < 2 or self.positions == "all" else choose(said)

    def chosen(self, values: Shaped[Tensor, "batch tokens *rest"], inputs: Tree) -> Shaped[Tensor, "batch read *rest"]:
        """Return the values of the tokens that are read: of targets with one for each token, say.

        Args:
            values: one for each token of the inputs.
            inputs: the inputs, as ``encode`` takes them.
        """
        return values if self.positions == "all" else Chosen(self.positions, padding_mask(inputs))(values)

    def read(self, state: Tree, recalled: Tree) -> Tensor:
        """Return what the model's own forward makes of a state: logits at the positions that are read."""
        plan, calls = self.plan, recalled["kept"].values["calls"]
        script = self._given(recalled, plan.for_read)
        for stretch in range(plan.stretch, plan.shortest):
            for place, steady in plan.looped.items():
                now = place if stretch == plan.stretch else steady._replace(stretch=stretch)
                script.setdefault(now, Act(answer=calls[place], answers=True))
        for part, value in zip(plan.state, self.values_of(state, recalled), strict=True):
            spot = part.made_in(plan.shortest - 1)
            script.setdefault(spot.place, Act()).give[spot.path] = value
        choose = Chosen(self.positions, padding_mask(_inputs(recalled)))
        early = plan.head is not None and self.positions != "all"
        if plan.head is not None and early:
            script.setdefault(plan.head.place._replace(stretch=plan.shortest), Act()).change[plan.head.path] = choose
        player = self._play(_inputs(recalled), script)
        if player.places.stretch != plan.shortest:
            raise LoopscopeError(
                f"{plan.ends.name} is called another number of times when its values change: the number of iterations depends on the "
                "data; give run=lambda model, inputs: ... that runs a fixed number"
            )
        logits = player.output if early or self.positions == "all" else choose(player.output)
        return in_single_precision(logits)

    def prove(self, inputs: Tree) -> Proof:
        """Return a proof that this loop is the model, on other inputs or once more.

        Args:
            inputs: inputs in the form that ``encode`` takes; with an ``attention_mask``, padding is checked too.

        Raises:
            LoopscopeError: the loop is not the model; the message says how, by how much, and what to do.
        """
        counts = PROVEN_ITERATIONS if self.plan.told else (self.plan.recorded,)
        proven = self._read_for_proof(inputs)

        def own(inputs: Tree, iterations: int) -> Tensor:
            return proven.chosen(self.run(self.model, inputs, iterations), inputs)

        proof = prove(proven, own, inputs, counts)
        return proof if self.positions == "all" else Proof((*proof.checks, required(self.position_check(inputs))))

    def _read_for_proof(self, inputs: Tree) -> CapturedLoop:
        """Return the loop read at all tokens, or at a few of each example where the logits of all are many."""
        numbers = math.prod(self.plan.logits)
        if len(self.plan.logits) < 2 or numbers <= MANY_LOGITS:
            return self.reading("all")
        mask = padding_mask(inputs)
        tokens = self.plan.logits[0] if mask is None else int(mask.sum(1).min())
        # One token of an example may be masked out to see whether padding matters.
        return self.reading(spread(tokens - 1))

    def position_check(self, inputs: Tree) -> Check:
        """Compare what is read at the chosen positions with the whole readout."""
        with torch.no_grad():
            recalled = self.encode(inputs)
            state = self.step(self.start(recalled), recalled)
            found, wanted = self.read(state, recalled), self.chosen(self.reading("all").read(state, recalled), inputs)
        return Check(
            name="positions",
            claim="logits read at chosen positions are those of the whole readout there",
            error=relative_gap(found, wanted),
            allowed=tolerance_for([wanted]),
            remedy='read at all positions (positions="all")',
        )

    def mask(self, recalled: Tree) -> Bool[Tensor, "batch tokens"] | None:
        """Return which tokens are real according to the mask among the inputs, or None without a mask."""
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
        """Return the model's tensors as a state: batch first, with half precision as float32."""
        moved = [
            in_single_precision(value.movedim(at, 0)) for value, at in zip(values, self.plan.batch_at, strict=True)
        ]
        if len(moved) == 1:
            return moved[0]
        return dict(zip((part.name for part in self.plan.state), moved, strict=True))

    def values_of(self, state: Tree, recalled: Tree) -> list[Tensor]:
        """Return a state in the form of the model's tensors."""
        parts = [state[part.name] for part in self.plan.state] if isinstance(state, Mapping) else [state]
        forms = recalled["kept"].values["state"]
        return [
            part.to(form.like.dtype).movedim(0, at)
            for part, form, at in zip(parts, forms, self.plan.batch_at, strict=True)
        ]

    def _of_model(self, state: Tree, recalled: Tree) -> Tree:
        """Return a state in the model's own precision."""
        values = self.values_of(state, recalled)
        moved = [value.movedim(at, 0) for value, at in zip(values, self.plan.batch_at, strict=True)]
        return dict(zip(state, moved, strict=True)) if isinstance(state, Mapping) else moved[0]

    def _given(self, recalled: Tree, needed: frozenset[Spot]) -> dict[Place, Act]:
        """Return acts that answer the calls before the loop from the recalled input."""
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
        """Return whether derivatives are being taken that the step would hide from autograd."""
        return self.plan.hidden and (torch.is_grad_enabled() or forward_ad._current_level >= 0)

    def _play(
        self, inputs: Tree, script: Mapping[Place, Act], wanted: int | None = None, *, draw: bool = False
    ) -> Player:
        """Run the model with a script; PyTorch's random state changes only if a first state is drawn."""
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
    """A captured model whose iteration is part of a longer forward, which is run again with the state put in place."""

    def step(self, state: Tree, recalled: Tree) -> Tree:
        """Return the state after one more iteration of the model."""
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
    """A captured model whose iteration is a single call, made on its own."""

    def step(self, state: Tree, recalled: Tree) -> Tree:
        """Return the state after one more iteration of the model."""
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
    """Return every tensor with one row per example, by name."""
    return {**recalled["recalled"], **recalled["aside"].values["tensors"]}


def _inputs(recalled: Tree) -> Tree:
    return recalled["aside"].values["inputs"]


@contextmanager
def _drawn_with(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Let PyTorch's global random numbers come from ``generator`` within this context."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with random_state_kept(device):
        torch.manual_seed(seed)
        yield
