"""OpenMythos: a recurrent block that is told the index of the loop (so none can be captured), and a readout of all states."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from loopscope.adapters.families.family import Family, last_token, tokens
from loopscope.adapters.positions import Chosen, Positions
from loopscope.adapters.proof import Proof, prove
from loopscope.adapters.replay import first_arguments
from loopscope.adapters.running import call
from loopscope.kinds import Remembering
from loopscope.trees import Context, Tree


class OpenMythosLoop(nn.Module):
    """An OpenMythos as a time-dependent loop; the sum of its states that the readout takes is carried as history."""

    answers_per, in_half_precision = "token", False
    proof: Proof | None = None

    def __init__(self, model: Any, positions: Positions) -> None:
        super().__init__()
        self.model, self.positions = model, positions
        self.with_index: Any = getattr(inspect.getmodule(type(model.recurrent)), "loop_index_embedding")  # noqa: B009
        self.part_radii = {"A": float(model.recurrent.injection.get_A().detach().abs().max())}

    def encode(self, inputs: Tree) -> Tree:
        """Return what the prelude hands to the recurrent block: its output, positions and a mask."""
        given = first_arguments(self.model.recurrent, lambda: call(self.model, inputs))
        return {"e": given["e"], "kept": Context((given["freqs_cis"], given.get("mask")), batched=False)}

    def start(self, recalled: Tree) -> Remembering:
        """Return the first state, what the prelude made, with an empty sum."""
        e = recalled["e"]
        return Remembering(e, Context((torch.zeros_like(e), torch.zeros_like(e[..., 0])), batched=True))

    def step(self, state: Remembering, recalled: Tree, iteration: int) -> Remembering:
        """Return the next state and the sum with it."""
        part, e, (freqs, mask) = self.model.recurrent, recalled["e"], recalled["kept"].values
        (total, spent), most = state.history.values, self.model.cfg.act_threshold
        out = part.norm(self.with_index(state.state, iteration, part.loop_dim) + e)
        out = part.block(out, freqs, mask, None, f"recurrent_loop_{iteration}")
        h = part.injection(state.state, e, out + part.lora(out, iteration))
        p = part.act(h) * (spent < most)
        weight = torch.where((spent + p >= most) & (spent < most), (1 - spent).clamp(min=0), p)
        return Remembering(h, Context((total + weight[..., None] * h, spent + p), batched=True))

    def read(self, state: Remembering, recalled: Tree) -> Tensor:
        """Return the logits of the weighted sum."""
        x, (freqs, mask) = state.history.values[0], recalled["kept"].values
        for number, layer in enumerate(self.model.coda):
            x = layer(x, freqs, mask, None, f"coda_{number}")
        return self.model.head(self.model.norm(x if self.positions == "all" else Chosen(self.positions)(x)))

    def gate(self, state: Remembering, recalled: Tree) -> Tensor:
        """Return the probability of stopping that the halting head gives to each token that is read."""
        said = self.model.recurrent.act(state.state)
        return said if self.positions == "all" else Chosen(self.positions)(said)

    def prove(self, inputs: Tree) -> Proof:
        """Return a proof that this loop is the model (see `loopscope.prove`)."""
        return prove(OpenMythosLoop(self.model, "all"), lambda given, n: FAMILY.run(self.model, given, n), inputs)


FAMILY = Family(
    name="OpenMythos",
    classes=("OpenMythos",),
    run=lambda model, inputs, iterations: call(model, inputs, n_loops=iterations),
    example=lambda model: tokens(model.cfg.vocab_size),
    positions=last_token,
    by_hand=OpenMythosLoop,
)
