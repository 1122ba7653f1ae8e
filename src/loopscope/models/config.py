"""The options of a looped transformer: this dataclass is their only list."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from loopscope.errors import LoopscopeError, check_choice, check_positive, nearest

Architecture = Literal["looped", "fixed-depth"]
RecallName = Literal["none", "external", "internal"]
NormName = Literal["pre", "peri", "outer", "sandwich", "gru"]
AttentionName = Literal["full", "local"]

TASK_DECIDES = ("inputs", "outputs", "grid", "attention", "window")


@dataclass(frozen=True)
class LoopedTransformerConfig:
    """How a looped transformer, or the fixed-depth baseline, is built.

    The defaults are the paper's size. ``inputs``, ``outputs``, ``grid``, ``attention`` and ``window`` are filled in
    by the task where they are left empty.

    Args:
        architecture: looped, or fixed-depth: the baseline of distinct blocks applied once each.
        recall: how the input re-enters the loop. none: it only makes the first state; external: mixed into the state
            once per iteration; internal: mixed into the argument of each sub-layer.
        norm: how an update joins the residual stream: pre, peri, outer, sandwich or gru.
        width: numbers per token in the state.
        heads: attention heads; must divide the width.
        mlp_ratio: hidden width of the MLP over the width.
        blocks: distinct blocks in one iteration (looped), or the depth of the baseline (fixed-depth).
        inputs: numbers per input token.
        outputs: logits per output token.
        grid: lengths of the token grid's axes, such as (9, 9); (0,) is a line of any length.
        attention: full, or local within a window on a line.
        window: how far a token attends to either side under local attention: 5 is eleven positions with its own.
        rope_base: base of the rotary embedding's wavelengths.
    """

    architecture: Architecture = "looped"
    recall: RecallName = "internal"
    norm: NormName = "outer"
    width: int = 256
    heads: int = 8
    mlp_ratio: int = 4
    blocks: int = 1
    inputs: int | None = None
    outputs: int | None = None
    grid: tuple[int, ...] | None = None
    attention: AttentionName | None = None
    window: int | None = None
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        check_choice("architecture", self.architecture, get_args(Architecture))
        check_choice("recall", self.recall, get_args(RecallName))
        check_choice("norm", self.norm, get_args(NormName))
        check_positive(
            width=self.width, heads=self.heads, mlp_ratio=self.mlp_ratio, blocks=self.blocks, rope_base=self.rope_base
        )
        given = {"inputs": self.inputs, "outputs": self.outputs}
        check_positive(**{name: size for name, size in given.items() if size is not None})
        if self.attention is not None:
            check_choice("attention", self.attention, get_args(AttentionName))
        if self.width % self.heads:
            raise LoopscopeError(
                f"width {self.width} cannot be split into {self.heads} heads: choose heads that divide it"
            )
        if self.architecture == "fixed-depth" and self.recall != "none":
            raise LoopscopeError(
                f"a fixed-depth model with recall {self.recall} was asked for: its blocks run once, so there is "
                "nothing to recall; set recall to none"
            )
        if self.window is not None:
            self._check_window(self.window)
        if self.grid is not None:
            self._check_grid(self.grid)

    def _check_grid(self, grid: tuple[int, ...]) -> None:
        if not grid or any(length < 0 for length in grid) or (len(grid) > 1 and 0 in grid):
            raise LoopscopeError(
                f"grid is {grid}, expected positive lengths such as (9, 9), or (0,) for a line of any length"
            )
        if len(grid) > 1 and (self.attention == "local" or self.window is not None):
            raise LoopscopeError(f"local attention was asked for on the grid {grid}: it is defined on a line only")
        if (self.width // self.heads) % (2 * len(grid)):
            raise LoopscopeError(
                f"heads of width {self.width // self.heads} cannot carry a rotary embedding over {len(grid)} axes: "
                f"width / heads must be a multiple of {2 * len(grid)}"
            )

    def _check_window(self, window: int) -> None:
        if self.attention == "full":
            raise LoopscopeError(
                f"window {window} was given with full attention: set attention to local, or leave window out"
            )
        if window < 1:
            raise LoopscopeError(f"window is {window}, expected a distance of at least 1, such as 5")

    def require_complete(self) -> LoopedTransformerConfig:
        """Return this config if a model can be built from it.

        Raises:
            LoopscopeError: a field that a task would fill in is still empty.
        """
        needed = [name for name in TASK_DECIDES if name != "window" or self.attention == "local"]
        empty = [name for name in needed if getattr(self, name) is None]
        if empty:
            raise LoopscopeError(
                f"the model's config leaves {', '.join(empty)} empty: give them, or complete the config with a task"
            )
        return self

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LoopedTransformerConfig:
        """Build a config from plain JSON values.

        Raises:
            LoopscopeError: an unknown key, or a value that is refused.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise LoopscopeError(f"unknown model option {key!r}{nearest(key, known)}")
        grid = values.get("grid")
        return cls(**{**values, "grid": None if grid is None else tuple(grid)})
