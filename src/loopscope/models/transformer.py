"""The looped transformer, and the fixed-depth transformer it is compared with. Both are loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loopscope.errors import LoopscopeError
from loopscope.loop import iterate
from loopscope.models.attention import RMSNorm, rotary_table, window_mask
from loopscope.models.block import Block
from loopscope.models.config import LoopedTransformerConfig
from loopscope.models.pretrained import Pretrained, local_folder, read_config
from loopscope.models.recall import FoldedLinear, FoldedRecall, InternalRecall, make_recall
from loopscope.trees import tree_map

MOST_COMPILATIONS = 100
"""Of one iteration, in a process: two or four for each shape of a model."""

Positions = tuple[Float[Tensor, "2 tokens half"], Bool[Tensor, "strips queries keys"] | None]


class _Transformer(Pretrained):
    """What both architectures share: embedding, positions, readout."""

    def __init__(self, config: LoopedTransformerConfig) -> None:
        super().__init__(config.require_complete())
        assert config.inputs is not None
        assert config.outputs is not None
        width = config.width
        self.embedding = nn.Linear(config.inputs, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.readout = nn.Sequential(
            RMSNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.outputs)
        )
        self._positions: dict[tuple[int, torch.device], Positions] = {}

    def embed(self, inputs: Float[Tensor, "batch tokens inputs"]) -> Float[Tensor, "batch tokens width"]:
        """Return e = P x.

        Raises:
            LoopscopeError: the inputs do not have the shape that the config names.
        """
        grid = self.config.grid
        assert grid is not None
        tokens = math.prod(grid)
        wrong_length = tokens > 0 and inputs.ndim == 3 and inputs.shape[1] != tokens
        if inputs.ndim != 3 or inputs.shape[2] != self.config.inputs or wrong_length:
            length = tokens or "any"
            raise LoopscopeError(
                f"inputs have shape {tuple(inputs.shape)}, expected (batch, {length} tokens, {self.config.inputs})"
            )
        return self.embedding(inputs)

    def positions(self, state: Float[Tensor, "batch tokens width"]) -> Positions:
        """Return the rotary table and the window mask for this many tokens; made once and kept."""
        tokens = state.shape[1]
        key = (tokens, state.device)
        if key not in self._positions:
            # Tables made in inference mode could never be used in training again.
            with torch.inference_mode(False):
                self._positions[key] = self._make_positions(tokens, state.device)
        return self._positions[key]

    def _make_positions(self, tokens: int, device: torch.device) -> Positions:
        config = self.config
        assert config.grid is not None
        grid = config.grid if math.prod(config.grid) else (tokens,)
        rotary = rotary_table(grid, config.width // config.heads, config.rope_base).to(device)
        local = config.attention == "local" and config.window is not None
        return rotary, window_mask(tokens, config.window, device) if local else None  # type: ignore[arg-type]

    def read(self, state: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens outputs"]:
        """Return the logits: RMSNorm, Linear, GELU, Linear."""
        return self.readout(state)


class LoopedTransformer(_Transformer):
    """A transformer whose block is applied again and again (paper, architecture).

    Args:
        config: a complete config with architecture "looped".

    The recalled input is a dict: ``embedding`` (e, which makes z_0); with recall also ``injection`` (W_input e + bias).
    """

    architecture = "looped"

    def __init__(self, config: LoopedTransformerConfig) -> None:
        super().__init__(config)
        self.recall = make_recall(config.recall, config.width)
        self._run_iteration: Callable[..., Tensor] = self._iteration

    def encode(self, inputs: Float[Tensor, "batch tokens inputs"]) -> dict[str, Tensor]:
        """Return the embedding and what recall makes of it, computed once per problem."""
        embedding = self.embed(inputs)
        return {"embedding": embedding, **self.recall.inject(embedding)}

    def start(
        self, recalled: dict[str, Tensor], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Return z_0 = e."""
        return recalled["embedding"]

    def step(
        self, state: Float[Tensor, "batch tokens width"], recalled: dict[str, Tensor]
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the state after one iteration."""
        rotary, mask = self.positions(state)
        injected = {name: value for name, value in recalled.items() if name != "embedding"}
        return self._run_iteration(state, injected, rotary, mask)

    def _iteration(
        self, state: Tensor, injected: dict[str, Tensor], rotary: Tensor, mask: Tensor | None
    ) -> Float[Tensor, "batch tokens width"]:
        state = self.recall.enter(state, injected)
        for block in self.blocks:
            state = block(state, lambda linear, tokens: self.recall.first(linear, tokens, injected), rotary, mask)
        return state

    @property
    def outer_gain(self) -> Float[Tensor, "width"] | None:
        """The gain of the normalization that ends each iteration; None under rules that end with none."""
        norm = getattr(self.blocks[-1].residual, "norm_out", None)
        return None if norm is None else norm.weight

    def fold(self) -> LoopedTransformer:
        """Return a copy for inference in which internal recall is part of the linear maps behind it; the same but for rounding.

        An iteration takes a seventh fewer multiplications. It is not to be trained or saved. External recall, whose
        sum the residual needs, and none are left as they are. Fold before `compile_step`.

        Raises:
            LoopscopeError: the step is compiled, or the model is folded already.
        """
        if self._run_iteration != self._iteration or isinstance(self.recall, FoldedRecall):
            raise LoopscopeError("the model is compiled or folded already: fold it once, before compile_step")
        copied = deepcopy(self).requires_grad_(False)
        recall = copied.recall
        if isinstance(recall, InternalRecall):
            linears = []
            for place, block in enumerate(copied.blocks):
                assert isinstance(block, Block)
                for name, part, key in (
                    ("attention", block.attention, "query_key_value"),
                    ("mlp", block.mlp, "0"),
                ):
                    linears.append(FoldedLinear(f"{place}.{name}", part.get_submodule(key), recall.state))
                    part.set_submodule(key, linears[-1])
            copied.recall = FoldedRecall(recall.input, linears)
        return copied

    def save_pretrained(self, folder: str | Path) -> Path:
        """Save the model (see ``Pretrained``).

        Raises:
            LoopscopeError: it is folded, or the folder cannot be written.
        """
        if isinstance(self.recall, FoldedRecall):
            raise LoopscopeError("a folded model is for inference alone: save the one that it was folded from")
        return super().save_pretrained(folder)

    def compile_step(self) -> LoopedTransformer:
        """Compile one iteration, not the loop, so that any number of iterations runs the same code; return self.

        It is compiled at most twice, with gradient and without, for every batch size. Where the grid leaves the number
        of tokens open, that holds for every number above one; lines of several strips (``window_mask``) run other
        code than shorter ones, and are compiled apart. A copy of the model is not compiled.
        """
        # With so many shapes of models in one process the compiler gives up, telling a log alone; at eight unless told.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_COMPILATIONS)
        assert self.config.grid is not None
        any_length = math.prod(self.config.grid) == 0
        self._run_iteration = partial(_run_compiled, torch.compile(self._iteration), any_length)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: what is compiled computes with the weights of this model alone."""
        return {**self.__dict__, "_run_iteration": self._iteration}

    def forward(
        self,
        inputs: Float[Tensor, "batch tokens inputs"],
        free_iterations: int,
        gradient_iterations: int,
        checkpoint_every: int | None = None,
    ) -> Float[Tensor, "batch tokens outputs"]:
        """Return the logits after ``free_iterations`` without gradient and ``gradient_iterations`` with it.

        After free iterations the gradient reaches the input through recall only, as in the paper's progressive loss.
        Memory grows with the iterations with gradient alone; with ``checkpoint_every`` k, one state is kept for every
        k of them, and the backward pass computes the activations between them again, k iterations at a time.
        """
        recalled = self.encode(inputs)
        state = self.start(recalled)
        if free_iterations:
            with torch.no_grad():
                state = iterate(self, state, recalled, free_iterations)
            # Older PyTorch would reuse, under autocast, the weights that it cast here: they pass no gradient.
            torch.clear_autocast_cache()
        if checkpoint_every is None:
            return self.read(iterate(self, state, recalled, gradient_iterations))
        return self.read(_iterate_recomputing(self, state, recalled, gradient_iterations, checkpoint_every))


def _run_compiled(
    compiled: Callable[..., Tensor],
    any_length: bool,
    state: Tensor,
    injected: dict[str, Tensor],
    rotary: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Run a compiled iteration on tensors made alike, so that the compiler meets one kind with gradient, one without."""
    from torch._dynamo import maybe_mark_dynamic  # takes a second to load, and is needed only where code is compiled

    # Under autocast the first state is in half precision, all others in the precision of the norms: float32.
    state = state.to(torch.promote_types(state.dtype, torch.float32))
    if not torch.is_grad_enabled():
        state, injected = tree_map(Tensor.detach, (state, injected))
    elif not state.requires_grad:
        state = state.detach().requires_grad_()
    single = state.shape[0] == 1
    if single:  # the compiler would take a size of one for a constant
        state, injected = tree_map(lambda part: torch.cat([part, part]), (state, injected))
    for part in (state, *injected.values()):
        maybe_mark_dynamic(part, [0, 1] if any_length else 0)
    if any_length:
        maybe_mark_dynamic(rotary, 1)
        if mask is not None:
            maybe_mark_dynamic(mask, [1, 2] if mask.shape[0] == 1 else 0)
    after: Tensor = compiled(state, injected, rotary, mask)
    return after[:1] if single else after


def _iterate_recomputing(
    model: LoopedTransformer, state: Tensor, recalled: dict[str, Tensor], iterations: int, every: int
) -> Tensor:
    """Return the state after ``iterations`` steps, the backward pass computing them again, ``every`` at a time."""
    for done in range(0, iterations, every):
        count = min(every, iterations - done)
        # No step draws random numbers, so their state need not be kept.
        state = checkpoint(iterate, model, state, recalled, count, use_reentrant=False, preserve_rng_state=False)
    return state


class FixedDepthTransformer(_Transformer):
    """The baseline: distinct blocks, one pass, no recall. As a loop, its one iteration is the whole pass."""

    architecture = "fixed-depth"

    def encode(self, inputs: Float[Tensor, "batch tokens inputs"]) -> Float[Tensor, "batch tokens width"]:
        """Return the embedding."""
        return self.embed(inputs)

    def start(
        self, recalled: Float[Tensor, "batch tokens width"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the embedding."""
        return recalled

    def step(
        self, state: Float[Tensor, "batch tokens width"], recalled: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the state after all blocks."""
        rotary, mask = self.positions(state)
        for block in self.blocks:
            state = block(state, lambda linear, tokens: linear(tokens), rotary, mask)
        return state

    def compile_step(self) -> FixedDepthTransformer:
        """Compile each block; return self."""
        for block in self.blocks:
            block.compile()
        return self

    def forward(
        self,
        inputs: Float[Tensor, "batch tokens inputs"],
        free_iterations: int,
        gradient_iterations: int,
        checkpoint_every: int | None = None,
    ) -> Float[Tensor, "batch tokens outputs"]:
        """Return the logits after the one pass; the counts of iterations do not apply to it."""
        recalled = self.encode(inputs)
        return self.read(self.step(self.start(recalled), recalled))


ARCHITECTURES: dict[str, type[_Transformer]] = {
    model.architecture: model for model in (LoopedTransformer, FixedDepthTransformer)
}


def build_model(config: LoopedTransformerConfig) -> LoopedTransformer | FixedDepthTransformer:
    """Return a new model of the config's architecture, with PyTorch's default initialization."""
    return ARCHITECTURES[config.architecture](config)  # type: ignore[return-value]


def load_model(source: str | Path) -> LoopedTransformer | FixedDepthTransformer:
    """Load a model of either architecture from a folder, a run folder or the hub (see ``from_pretrained``)."""
    folder = local_folder(source)
    return ARCHITECTURES[read_config(folder).architecture].from_pretrained(folder)  # type: ignore[return-value]
