"""Two looped language models that learn to sort letters, each trained when it is asked for: Dory, and a model with a gate.

loopscope exits experiments.early_exit.models:dory
loopscope exits experiments.early_exit.models:gated
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

import loopscope as ls

LETTERS, WORDS = 8, 12
"""Letters of a text, and the size of the alphabet."""
ASK = WORDS
"""The token between the letters and the same letters in order."""
LOOPS = 4
WIDTH, HEADS = 64, 4
UPDATES, BATCH, RATE = 400, 64, 0.003
HELD_OUT = 128
"""Texts that the rules are compared on."""
POSITIONS = tuple(range(LETTERS, 2 * LETTERS))
"""Tokens that predict a letter in order."""

Subject = tuple[ls.Loop, Any, Tensor, int]
Loss = Callable[[Int[Tensor, "batch tokens"]], Tensor]


def texts(count: int, seed: int) -> Int[Tensor, "batch tokens"]:
    """Return letters, the token that asks, and the letters in order.

    Example:
        >>> texts(1, seed=0).shape
        torch.Size([1, 17])
    """
    letters = torch.randint(WORDS, (count, LETTERS), generator=torch.Generator().manual_seed(seed))
    return torch.cat([letters, torch.full((count, 1), ASK), letters.sort(1).values], dim=1)


def dory(updates: int = UPDATES) -> Subject:
    """Return a Dory that was trained with four loops, as (loop, inputs, targets, trained iterations)."""
    from transformers import DoryConfig, DoryForCausalLM

    torch.manual_seed(0)
    model = DoryForCausalLM(
        DoryConfig(
            vocab_size=WORDS + 1,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            head_dim=WIDTH // HEADS,
            num_hidden_layers=3,
            n_input_layers=1,
            n_recurrent_layers=1,
            n_output_layers=1,
            n_recurrent_loops=LOOPS,
            max_position_embeddings=64,
            initializer_range=WIDTH**-0.5,
            ngpt_alpha_init=0.25,
        )
    )

    def loss(tokens: Tensor) -> Tensor:
        return _loss_of(model(input_ids=tokens, use_cache=False).logits, tokens)

    return _subject(model, loss, "input_ids", updates)


def gated(updates: int = UPDATES) -> Subject:
    """Return a looped transformer without recall whose exit gate learned when an answer is right, like `dory`."""
    from x_transformers import Decoder, TransformerWrapper

    torch.manual_seed(0)
    layers = Decoder(dim=WIDTH, depth=2, heads=HEADS, attn_dim_head=WIDTH // HEADS, pre_and_post_norm=True)
    model = TransformerWrapper(
        num_tokens=WORDS + 1, max_seq_len=64, looped=True, max_looped_steps=LOOPS, attn_layers=layers
    )

    def loss(tokens: Tensor) -> Tensor:
        _, between = model(tokens, return_intermediates=True)
        every = list(zip(between.all_pred_logits, between.exit_logits, strict=True))
        return torch.stack(
            [_loss_of(logits, tokens) + _gate_loss(gate, logits, tokens) for logits, gate in every]
        ).mean()

    return _subject(model, loss, "x", updates)


def _answers(tokens: Tensor) -> Int[Tensor, "batch letters"]:
    return tokens[:, LETTERS + 1 :]


def _loss_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the cross-entropy of the letters in order."""
    return F.cross_entropy(logits[:, LETTERS:-1].flatten(0, 1), _answers(tokens).flatten())


def _gate_loss(gate: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the cross-entropy of a gate that should open where the answer is right."""
    right = logits[:, LETTERS:-1].argmax(-1) == _answers(tokens)
    return F.binary_cross_entropy_with_logits(gate[:, LETTERS:-1].squeeze(-1), right.float())


def _subject(model: nn.Module, loss: Loss, name: str, updates: int) -> Subject:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(updates, 2))
    model.train()
    for update in range(updates):
        optimizer.zero_grad()
        loss(texts(BATCH, seed=1 + update)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval().requires_grad_(False)
    tokens = texts(HELD_OUT, seed=0)
    loop = ls.adapt(model, {name: tokens[:4]}, positions=POSITIONS)
    return loop, {name: tokens}, _answers(tokens), LOOPS
