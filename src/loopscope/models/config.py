"""The configuration of a looped transformer: one dataclass lists every option."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, SupportsIndex, get_args

from loopscope.errors import LoopscopeError, check_choice, check_fraction, check_positive, nearest

Architecture = Literal["looped", "fixed-depth"]
RecallName = Literal["none", "external", "internal"]
NormName = Literal["pre", "peri", "outer", "sandwich", "gru"]
AttentionName = Literal["full", "causal", "local", "banded"]

LOCAL = ("local", "banded")
"""Attentions on a line that need a kernel size."""

ON_A_LINE = ("causal", *LOCAL)
"""Attentions that are defined on a line only."""

SIZES = ("width", "heads", "mlp_ratio", "blocks", "inputs", "outputs", "kernel_size")
"""Options that count something: whole numbers from 1 to ``LARGEST_SIZE``."""

LARGEST_SIZE = 1_000_000
"""Largest size that is accepted. Products of two sizes stay far below the 64-bit limit of tensor shapes."""

MOST_WEIGHTS = 10**11
"""Largest model that is accepted, in weights of its linear maps. Larger sizes are surely typing errors."""

TASK_DECIDES = ("inputs", "outputs", "grid", "attention", "kernel_size")
"""Options that a task fills in if they are empty."""

STEP_OPTIONS = ("damping", "residual_scale")
"""Options that change the step where they are given."""


@dataclass(frozen=True)
class LoopedTransformerConfig:
    """The architecture of a looped transformer or of the fixed-depth baseline.

    The defaults are the sizes of the paper (arXiv 2604.15259, architecture). A task fills in ``inputs``, ``outputs``,
    ``grid``, ``attention`` and ``kernel_size`` if they are None.

    Args:
        architecture: "looped" applies its blocks in every iteration. "fixed-depth" is the baseline: distinct blocks,
            one pass.
        recall: how the input re-enters the loop. "none": only through the first state. "external": mixed into the
            state once per iteration. "internal": mixed into the argument of each sub-layer.
        norm: how an update joins the residual stream: "pre", "peri", "outer", "sandwich" or "gru".
        width: features per token of the state.
        heads: attention heads. They must divide the width.
        mlp_ratio: hidden width of the MLP, as a multiple of the width.
        blocks: distinct blocks per iteration, or the depth of the fixed-depth baseline.
        inputs: features per input token.
        outputs: logits per output token.
        grid: lengths of the axes of the token grid, such as (9, 9). (0,) stands for a line of any length.
        attention: "full", or, on a line, "causal" or "local". Under causal attention, every token sees itself and the tokens
            before it, as in a language model. Local attention is neighbourhood attention, whose windows are shifted inward
            at the ends of the line. "banded" cuts the windows off there instead, as models from before ``kernel_size`` do.
        kernel_size: positions that a token sees under local attention, including its own: an odd number, at least 3.
        rope_base: base of the wavelengths of the rotary embedding.
        damping: part of the way that a step goes from a state to the next one, above 0 and at most 1; by default all of it.
        residual_scale: initial value of learned factors on the updates of the sub-layers, one for each feature; by default
            there are none.

    Raises:
        LoopscopeError: an option has the wrong type, lies outside its range, or contradicts another.

    Example:
        >>> from loopscope import LoopedTransformerConfig
        >>> config = LoopedTransformerConfig(recall="internal", norm="outer", width=64, heads=4)
        >>> config.inputs is None  # left to the task
        True
        >>> LoopedTransformerConfig(norm="outr")
        Traceback (most recent call last):
            ...
        loopscope.errors.LoopscopeError: norm is 'outr', expected one of pre, peri, outer, sandwich, gru (did you mean outer?)
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
    kernel_size: int | None = None
    rope_base: float = 10000.0
    damping: float | None = None
    residual_scale: float | None = None

    def __post_init__(self) -> None:
        check_choice("architecture", self.architecture, get_args(Architecture))
        check_choice("recall", self.recall, get_args(RecallName))
        check_choice("norm", self.norm, get_args(NormName))
        if self.attention is not None:
            check_choice("attention", self.attention, get_args(AttentionName))
        for name in SIZES:
            if (value := getattr(self, name)) is not None or name not in TASK_DECIDES:
                object.__setattr__(self, name, _checked_size(name, value))
        _check_rope_base(self.rope_base)
        self._check_step()
        self._check_weights()
        if self.width % self.heads:
            raise LoopscopeError(
                f"width {self.width} cannot be split into {self.heads} heads: choose heads that divide it"
            )
        if self.architecture == "fixed-depth" and self.recall != "none":
            raise LoopscopeError(
                f"recall is {self.recall!r} in a fixed-depth model, whose blocks run once and have nothing to recall: "
                "set recall to none"
            )
        if self.kernel_size is not None:
            self._check_kernel(self.kernel_size)
        if self.grid is not None:
            object.__setattr__(self, "grid", _checked_grid(self.grid))
            self._check_fit(self.grid)

    def _check_step(self) -> None:
        """Refuse a damped step or scales that are out of range."""
        if self.damping is not None:
            check_fraction(damping=self.damping)
            if self.architecture == "fixed-depth":
                raise LoopscopeError(
                    f"damping {self.damping} was given for a fixed-depth model, which has no steps: leave it out"
                )
        if self.residual_scale is not None:
            check_positive(residual_scale=self.residual_scale)

    def _check_kernel(self, kernel_size: int) -> None:
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise LoopscopeError(f"kernel_size is {kernel_size}, expected an odd number of at least 3, such as 5")
        if self.attention in ("full", "causal"):
            raise LoopscopeError(
                f"kernel_size {kernel_size} was given with {self.attention} attention: set attention to local, or leave it out"
            )

    def _check_weights(self) -> None:
        """Refuse sizes that together make a model too large for any machine."""
        ends = (self.inputs or 0) + (self.outputs or 0)
        weights = self.width * (self.blocks * (4 + 2 * self.mlp_ratio) * self.width + ends)
        if weights > MOST_WEIGHTS:
            raise LoopscopeError(
                f"width {self.width}, mlp_ratio {self.mlp_ratio} and blocks {self.blocks} make a model of {weights:.1e} "
                f"weights, expected at most {MOST_WEIGHTS:.0e}: choose smaller sizes"
            )

    def _check_fit(self, grid: tuple[int, ...]) -> None:
        """Refuse a grid that local attention or the rotary embedding cannot serve."""
        if len(grid) > 1 and (self.attention in ON_A_LINE or self.kernel_size is not None):
            kind = "causal" if self.attention == "causal" else "local"
            raise LoopscopeError(f"{kind} attention was asked for on the grid {grid}: it is defined on a line only")
        if (self.width // self.heads) % (2 * len(grid)):
            raise LoopscopeError(
                f"heads of width {self.width // self.heads} cannot carry a rotary embedding over {len(grid)} axes: "
                f"width / heads must be a multiple of {2 * len(grid)}"
            )

    def require_complete(self) -> LoopedTransformerConfig:
        """Return this config if a model can be built from it.

        Raises:
            LoopscopeError: an option that a task would fill in is still empty.
        """
        needed = [name for name in TASK_DECIDES if name != "kernel_size" or self.attention in LOCAL]
        empty = [name for name in needed if getattr(self, name) is None]
        if empty:
            raise LoopscopeError(
                f"the model's config leaves {', '.join(empty)} empty: give them, or complete the config with a task"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that ``from_dict`` reads back.

        Options that change the step and were not given are left out, as in files older than these options.
        """
        return {name: value for name, value in asdict(self).items() if value is not None or name not in STEP_OPTIONS}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LoopedTransformerConfig:
        """Build a config from plain JSON values, including those of older versions (see ``current_options``).

        Args:
            values: options by name. Options that are absent take their defaults.

        Raises:
            LoopscopeError: a key is unknown, or a value is refused.

        Example:
            >>> LoopedTransformerConfig.from_dict({"width": 64, "grid": [9, 9]}).grid
            (9, 9)
        """
        values = current_options(values)
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise LoopscopeError(f"unknown model option {key!r}{nearest(key, known)}")
        grid = values.get("grid")
        return cls(**{**values, "grid": tuple(grid) if isinstance(grid, list) else grid})


def current_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the model options of older versions, which load with their old meaning.

    The option ``window`` was a distance: a token saw ``2 * window + 1`` positions, fewer near the ends of the line.
    That is banded attention with this kernel size.

    Args:
        values: options by name.

    Raises:
        LoopscopeError: the window contradicts another option, or is not a valid size.

    Example:
        >>> current_options({"attention": "local", "window": 5})
        {'attention': 'banded', 'kernel_size': 11}
    """
    current = dict(values)
    window = current.pop("window", None)
    if window is None:
        return current
    if current.get("kernel_size") is not None or current.get("attention") not in (None, "local"):
        raise LoopscopeError(
            f"window is {_shown(window)} beside kernel_size {_shown(current.get('kernel_size'))} and attention "
            f"{_shown(current.get('attention'))}: window is an older option of local attention; use kernel_size instead"
        )
    return {**current, "attention": "banded", "kernel_size": 2 * _checked_size("window", window) + 1}


def _shown(value: object) -> str:
    """Return a value as an error message shows it, cut after 40 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out whole numbers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _checked_size(name: str, value: object) -> int:
    """Return a size as a plain int; refuse what is not a whole number in range. True is not the number 1."""
    size = value.__index__() if isinstance(value, SupportsIndex) and not isinstance(value, bool) else 0
    if not 1 <= size <= LARGEST_SIZE:
        raise LoopscopeError(f"{name} is {_shown(value)}, expected a whole number from 1 to {LARGEST_SIZE:,}")
    return size


def _check_rope_base(value: object) -> None:
    """Refuse a base that is not a number, or under which angles are not finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        valid = is_number and 1 <= float(value) < math.inf  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond the largest float
        valid = False
    if not valid:
        raise LoopscopeError(
            f"rope_base is {_shown(value)}, expected a finite number of at least 1, such as the default 10000"
        )


def _checked_grid(grid: object) -> tuple[int, ...]:
    """Return the lengths of a grid as plain ints."""
    lengths = list(grid) if isinstance(grid, Iterable) and not isinstance(grid, str) else []
    any_length = lengths == [0] and not isinstance(lengths[0], bool)
    if not lengths or not (any_length or all(_is_length(length) for length in lengths)):
        raise LoopscopeError(
            f"grid is {_shown(grid)}, expected positive lengths such as (9, 9), or (0,) for a line of any length"
        )
    return tuple(int(length) for length in lengths)


def _is_length(value: object) -> bool:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool) and 1 <= value.__index__() <= LARGEST_SIZE
