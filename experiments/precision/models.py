"""The five models: two that ship with the package, a transformer that drifts, a cell that settles and one that never does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

import loopscope as ls
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.shipped import MODELS
from loopscope.subjects import Subject, on_split, trained, with_data
from loopscope.training.run_folder import RunFolder

WIDTH = 32
"""Width of the models with random weights."""
CHAOTIC = 3.0
"""Standard deviation of the weights of the chaotic cell, times the root of its width: chaos begins above 1."""


def drifting_transformer(examples: int) -> Subject:
    """Return a pre-norm transformer with random weights, whose states grow without bound, on random inputs."""
    config = LoopedTransformerConfig(
        width=WIDTH, heads=4, norm="pre", inputs=10, outputs=10, grid=(4, 4), attention="full"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LoopedTransformer(config)
        return Subject(model, torch.randn(examples, 16, 10))


def gru_cell(examples: int) -> Subject:
    """Return a GRU cell with random weights on a constant random input."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cell, readout = nn.GRUCell(8, WIDTH), nn.Linear(WIDTH, 4)
        loop = ls.FunctionLoop(
            encode=lambda inputs: inputs,
            start=lambda recalled: recalled.new_zeros(len(recalled), WIDTH),
            step=lambda state, recalled: cell(recalled, state),
            read=readout,
            module=nn.ModuleList([cell, readout]),
        )
        return Subject(loop, torch.randn(examples, 8))


def chaotic_cell(examples: int) -> Subject:
    """Return z <- tanh(W z + x) with random weights so large that it never settles, on random inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, readout = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 4)
        with torch.no_grad():
            layer.weight.copy_(CHAOTIC * torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
        loop = ls.FunctionLoop(
            encode=lambda inputs: inputs,
            start=torch.zeros_like,
            step=lambda state, recalled: torch.tanh(layer(state) + recalled),
            read=readout,
            module=nn.ModuleList([layer, readout]),
        )
        return Subject(loop, 0.1 * torch.randn(examples, WIDTH))


def shipped(name: str, examples: int, **data: str) -> Subject:
    """Return a model that ships with the package, on problems of its easy split.

    Args:
        name: its name.
        examples: number of problems.
        data: options of its data to replace.
    """
    settings, model = trained(RunFolder(MODELS / name))
    settings = with_data(settings, data)
    return on_split(model, settings, next(iter(settings.data.evaluation_splits().values())).first(examples))


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "prefix sums": partial(shipped, "prefix-sums"),
    "sudoku": partial(shipped, "sudoku", source="shipped"),
    "pre-norm, drifting": drifting_transformer,
    "GRU cell": gru_cell,
    "chaotic cell": chaotic_cell,
}
"""The models by name. Each maps a number of inputs to a subject."""
