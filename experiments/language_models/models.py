"""Two small looped language models, each with the input entering every iteration or the first one only."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DoryConfig, DoryForCausalLM
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutput
from transformers.models.dory.modeling_dory import DoryModel

import loopscope as ls
from experiments.language_models.tasks import ALPHABET

WIDTH = 64
HEADS = 4


Kind = Literal["dory", "block", "block-pre", "block-peri", "block-sandwich", "block-gru"]
"""The architecture: Dory, or Loopscope's block with outer normalization or the one named."""
Input = Literal["every", "first"]
"""Whether the input enters every loop, or the first one only."""
INPUTS: tuple[Input, ...] = ("every", "first")


class Dory(DoryForCausalLM):
    """Dory: one layer before the loop, two in it, one after. Every loop begins with the norm of its state plus the input."""

    def __init__(self, config: DoryConfig) -> None:
        super().__init__(config)

    def set_loops(self, loops: int) -> None:
        """Set the number of loops of the next forward."""
        self.config.n_recurrent_loops = loops

    def loop(self, texts: Int[Tensor, "batch tokens"], positions: tuple[int, ...]) -> ls.Loop:
        """Return the model as a loop over texts, read at some positions."""
        return ls.adapt(self, {"input_ids": texts}, positions=positions)


class _StateOnly(DoryModel):
    """The decoder of Dory without re-injection: a loop begins with the norm of its state alone."""

    def forward(
        self, input_ids: Int[Tensor, "batch tokens"], attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPast:
        """Return the last hidden states."""
        hidden = self.embed_tokens(input_ids)
        places = torch.arange(hidden.shape[1]).unsqueeze(0)
        mask = create_causal_mask(self.config, hidden, attention_mask, None, position_ids=places)
        rotary = self.rotary_emb(hidden, places, "full_attention")
        first, last = self.config.n_input_layers, len(self.layers) - self.config.n_output_layers
        for layer in self.layers[:first]:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        for _ in range(self.config.n_recurrent_loops):
            hidden = self.norm(hidden)
            for layer in self.layers[first:last]:
                hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        for layer in self.layers[last:]:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden))


class DoryWithoutInput(Dory):
    """Dory whose input enters the first loop only."""

    def __init__(self, config: DoryConfig) -> None:
        super().__init__(config)
        self.model = _StateOnly(config)
        self.post_init()


class Block(nn.Module):
    """Loopscope's block under causal attention, with internal recall or none.

    Args:
        recall: "internal" or "none".
        norm: how updates join the residual stream.
    """

    def __init__(self, recall: Any, norm: Any) -> None:
        super().__init__()
        self.model = ls.LoopedTransformer(
            ls.LoopedTransformerConfig(
                recall=recall,
                norm=norm,
                width=WIDTH,
                heads=HEADS,
                inputs=len(ALPHABET),
                outputs=len(ALPHABET),
                grid=(0,),
                attention="causal",
            )
        )
        self.loops = 1

    def set_loops(self, loops: int) -> None:
        """Set the number of loops of the next forward."""
        self.loops = loops

    def forward(self, input_ids: Int[Tensor, "batch tokens"], labels: Tensor | None = None) -> CausalLMOutput:
        """Return logits, and the loss of predicting the next token where there are labels."""
        logits = self.model(one_hot(input_ids), free_iterations=0, gradient_iterations=self.loops)
        if labels is None:
            return CausalLMOutput(logits=logits)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutput(loss=loss, logits=logits)

    def loop(self, texts: Int[Tensor, "batch tokens"], positions: tuple[int, ...]) -> ls.Loop:
        """Return the model as a loop over texts, read at some positions."""
        places = list(positions)
        return ls.FunctionLoop(
            encode=lambda inputs: self.model.encode(one_hot(inputs["input_ids"])),
            start=self.model.start,
            step=self.model.step,
            read=lambda state: self.model.read(state[:, places]),
            module=self.model,
            answers_per="token",
        )


def one_hot(tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens characters"]:
    """Return tokens as the features that the block embeds."""
    return nn.functional.one_hot(tokens, len(ALPHABET)).float()


def dory_config() -> DoryConfig:
    """Return the sizes of Dory."""
    return DoryConfig(
        vocab_size=len(ALPHABET),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        num_hidden_layers=3,
        n_input_layers=1,
        n_recurrent_layers=1,
        n_output_layers=1,
        layer_types=["full_attention"] * 3,
        max_position_embeddings=64,
        initializer_range=WIDTH**-0.5,
        ngpt_alpha_init=0.25,
    )


def untrained(kind: Kind, enters: Input) -> Dory | Block:
    """Return a new model, whose weights are drawn from the global generator.

    Args:
        kind: the architecture.
        enters: whether the input enters every loop.
    """
    if kind == "dory":
        return (Dory if enters == "every" else DoryWithoutInput)(dory_config())
    return Block("internal" if enters == "every" else "none", kind.partition("-")[2] or "outer")
