"""The looped transformer and the fixed-depth baseline (arXiv 2604.15259, architecture). Both are loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loopscope.errors import LoopscopeError
from loopscope.loop import iterate
from loopscope.models.attention import additive, causal_mask, local_mask
from loopscope.models.block import Block
from loopscope.models.config import LoopedTransformerConfig
from loopscope.models.damping import part_of_the_way
from loopscope.models.normalization import RMSNorm
from loopscope.models.pretrained import Pretrained, local_folder, read_config
from loopscope.models.recall import FoldedLinear, FoldedRecall, InternalRecall, make_recall
from loopscope.models.rotary import rotary_table
from loopscope.trees import tree_map

MOST_COMPILATIONS = 100
"""Largest number of times that Dynamo may compile one iteration in a process. Each shape of a model needs two or four."""

Positions = tuple[Float[Tensor, "2 tokens half"], Float[Tensor, "strips queries keys"] | None]
"""The rotary table and the additive mask of causal or local attention, which is None under full attention."""


class _Transformer(Pretrained):
    """Embedding, positions and readout, which both architectures share."""

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
        """Return the embedding e = P x.

        Raises:
            LoopscopeError: the inputs do not have the shape that the config asks for.
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
        """Return the rotary table and the mask for this number of tokens. They are computed once and kept."""
        tokens = state.shape[1]
        key = (tokens, state.device)
        if key not in self._positions:
            # Tensors made in inference mode cannot be used in training.
            with torch.inference_mode(False):
                self._positions[key] = self._make_positions(tokens, state.device)
        return self._positions[key]

    def _make_positions(self, tokens: int, device: torch.device) -> Positions:
        config = self.config
        assert config.grid is not None
        grid = config.grid if math.prod(config.grid) else (tokens,)
        rotary = rotary_table(grid, config.width // config.heads, config.rope_base).to(device)
        if config.attention == "causal":
            return rotary, additive(causal_mask(tokens, device))
        if config.kernel_size is None:
            return rotary, None
        assert config.attention is not None
        return rotary, additive(local_mask(config.attention, tokens, config.kernel_size, device))

    def read(self, state: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens outputs"]:
        """Return the logits: RMSNorm, Linear, GELU, Linear."""
        return self.readout(state)


class LoopedTransformer(_Transformer):
    """A transformer that applies its blocks again and again (arXiv 2604.15259, architecture).

    It is a loop: ``encode``, ``start``, ``step`` and ``read``. The recalled input is a dict of ``embedding``, the e
    that becomes z_0, and, with external or internal recall, ``injection``, which is W_input e + bias.

    Args:
        config: a complete config whose architecture is "looped".

    Raises:
        LoopscopeError: the config is incomplete, or asks for the other architecture.

    Example:
        >>> import torch
        >>> from loopscope import LoopedTransformer, LoopedTransformerConfig
        >>> config = LoopedTransformerConfig(width=32, heads=4, inputs=10, outputs=10, grid=(9, 9), attention="full")
        >>> model = LoopedTransformer(config)
        >>> puzzles = torch.zeros(2, 81, 10)
        >>> model(puzzles, free_iterations=3, gradient_iterations=2).shape
        torch.Size([2, 81, 10])

        The same five iterations, one by one:

        >>> recalled = model.encode(puzzles)
        >>> state = model.start(recalled)
        >>> for _ in range(5):
        ...     state = model.step(state, recalled)
        >>> model.read(state).shape
        torch.Size([2, 81, 10])
    """

    architecture = "looped"

    def __init__(self, config: LoopedTransformerConfig) -> None:
        super().__init__(config)
        self.recall = make_recall(config.recall, config.width)
        self._run_iteration: Callable[..., Tensor] = self._iteration

    def encode(self, inputs: Float[Tensor, "batch tokens inputs"]) -> dict[str, Tensor]:
        """Return the recalled input, computed once per problem: the embedding and what recall adds in every iteration."""
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
        before, state = state, self.recall.enter(state, injected)
        for block in self.blocks:
            state = block(state, lambda linear, tokens: self.recall.first(linear, tokens, injected), rotary, mask)
        damping = self.config.damping
        return state if damping is None else part_of_the_way(before, state, damping)

    @property
    def outer_gain(self) -> Float[Tensor, "width"] | None:
        """The gain of the normalization that ends each iteration, or None where no normalization ends it."""
        if self.config.damping not in (None, 1.0):
            return None
        norm = getattr(self.blocks[-1].residual, "norm_out", None)
        return None if norm is None else norm.weight

    def fold(self) -> LoopedTransformer:
        """Return a copy for inference in which internal recall is folded into the linear maps that follow it.

        Results differ by rounding only, and an iteration takes a seventh fewer multiplications. The copy can be
        neither trained nor saved. A model with external recall, whose residual needs R(z, e) itself, or without recall
        is copied unchanged. Fold before ``compile_step``.

        Raises:
            LoopscopeError: the step is compiled, or the model is already folded.
        """
        if self._run_iteration != self._iteration or isinstance(self.recall, FoldedRecall):
            raise LoopscopeError("the model is already compiled or folded: fold it once, before compile_step")
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
        """Write model.safetensors and config.json into ``folder`` (see ``Pretrained``).

        Raises:
            LoopscopeError: the model is folded, or the folder cannot be written.
        """
        if isinstance(self.recall, FoldedRecall):
            raise LoopscopeError(
                "a folded model cannot be saved, since it is for inference only: save the model that it was folded from"
            )
        return super().save_pretrained(folder)

    def compile_step(self) -> LoopedTransformer:
        """Compile one iteration and return self.

        One iteration is compiled instead of the whole loop, so the same code serves any number of iterations and any batch
        size. It is compiled at most twice, with and without gradient. On a line of any length, the same code serves
        every length above one token, except that lines of several strips (``local_mask``) are compiled separately
        from shorter ones. Copies of the model are not compiled.
        """
        # Dynamo stops recompiling after 8 shapes by default and only logs it.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_COMPILATIONS)
        assert self.config.grid is not None
        any_length = math.prod(self.config.grid) == 0
        self._run_iteration = partial(_run_compiled, torch.compile(self._iteration), any_length)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes of a copy, without the compiled iteration, which is bound to the weights of this model."""
        return {**self.__dict__, "_run_iteration": self._iteration}

    def forward(
        self,
        inputs: Float[Tensor, "batch tokens inputs"],
        free_iterations: int,
        gradient_iterations: int,
        checkpoint_every: int | None = None,
    ) -> Float[Tensor, "batch tokens outputs"]:
        """Return the logits after ``free_iterations`` without gradient and ``gradient_iterations`` with it.

        After free iterations the gradient reaches the input through recall only, as in the progressive loss of the
        paper (arXiv 2604.15259, training).

        Args:
            inputs: features of the input tokens.
            free_iterations: iterations without gradient, which need no memory for a backward pass.
            gradient_iterations: iterations with gradient. Memory grows in proportion to them.
            checkpoint_every: number of iterations between the states that are kept for the backward pass, which
                recomputes the activations between them. None keeps all activations.
        """
        recalled = self.encode(inputs)
        state = self.start(recalled)
        if free_iterations:
            with torch.no_grad():
                state = iterate(self, state, recalled, free_iterations)
            # Under autocast, older PyTorch would reuse the weights that were cast here and pass no gradient.
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
    """Run a compiled iteration on tensors prepared so that it is compiled at most twice, with and without gradient."""
    from torch._dynamo import maybe_mark_dynamic  # takes a second to load, and is needed by compiled code alone

    # Under autocast the first state is in half precision; all later ones have the precision of the norms, float32.
    state = state.to(torch.promote_types(state.dtype, torch.float32))
    if not torch.is_grad_enabled():
        state, injected = tree_map(Tensor.detach, (state, injected))
    elif not state.requires_grad:
        state = state.detach().requires_grad_()
    single = state.shape[0] == 1
    if single:  # the compiler treats a size of one as a constant
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
    """Return the state after ``iterations`` steps, which the backward pass recomputes ``every`` at a time."""
    for done in range(0, iterations, every):
        count = min(every, iterations - done)
        # No step draws random numbers, so the state of the generator need not be kept.
        state = checkpoint(iterate, model, state, recalled, count, use_reentrant=False, preserve_rng_state=False)
    return state


class FixedDepthTransformer(_Transformer):
    """The baseline: distinct blocks, one pass, no recall (arXiv 2604.15259, architecture).

    As a loop, its only iteration is the whole pass.

    Args:
        config: a complete config whose architecture is "fixed-depth".

    Raises:
        LoopscopeError: the config is incomplete, or asks for the other architecture.

    Example:
        >>> import torch
        >>> from loopscope import FixedDepthTransformer, LoopedTransformerConfig
        >>> config = LoopedTransformerConfig(
        ...     architecture="fixed-depth", recall="none", blocks=3, width=32, heads=4,
        ...     inputs=12, outputs=2, grid=(8, 8), attention="full",
        ... )
        >>> model = FixedDepthTransformer(config)
        >>> model(torch.zeros(5, 64, 12), free_iterations=0, gradient_iterations=1).shape
        torch.Size([5, 64, 2])
    """

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
        """Compile each block and return self."""
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
        """Return the logits after one pass. The counts of iterations and ``checkpoint_every`` are ignored."""
        recalled = self.encode(inputs)
        return self.read(self.step(self.start(recalled), recalled))


ARCHITECTURES: dict[str, type[_Transformer]] = {
    model.architecture: model for model in (LoopedTransformer, FixedDepthTransformer)
}
"""Model classes by the architecture that a config names."""


def build_model(config: LoopedTransformerConfig) -> LoopedTransformer | FixedDepthTransformer:
    """Return a new model of the architecture that the config names.

    Weights are drawn from PyTorch's global generator, with PyTorch's default initialization except for the GRU cell
    (see ``Gru`` in loopscope.models.residual).

    Args:
        config: a complete config.

    Raises:
        LoopscopeError: an option that a task would fill in is empty.

    Example:
        >>> import torch
        >>> from loopscope import LoopedTransformerConfig, build_model
        >>> _ = torch.manual_seed(0)
        >>> config = LoopedTransformerConfig(width=32, heads=4, inputs=10, outputs=9, grid=(9, 9), attention="full")
        >>> model = build_model(config)
        >>> type(model).__name__
        'LoopedTransformer'
    """
    return ARCHITECTURES[config.architecture](config)  # type: ignore[return-value]


def load_model(source: str | Path) -> LoopedTransformer | FixedDepthTransformer:
    """Load a looped or a fixed-depth model, in evaluation mode.

    Args:
        source: a folder with config.json and model.safetensors, the folder of a run, or the name of a repository on
            the Hugging Face hub, such as "someone/sudoku".

    Raises:
        LoopscopeError: there is no model, its config is refused, or its weights are damaged or do not fit the config.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from loopscope import LoopedTransformerConfig, build_model, load_model
        >>> config = LoopedTransformerConfig(width=32, heads=4, inputs=10, outputs=10, grid=(9, 9), attention="full")
        >>> with TemporaryDirectory() as folder:
        ...     path = build_model(config).save_pretrained(folder)
        ...     model = load_model(path)
        >>> model.config == config
        True
    """
    folder = local_folder(source)
    return ARCHITECTURES[read_config(folder).architecture].from_pretrained(folder)  # type: ignore[return-value]
