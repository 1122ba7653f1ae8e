"""The rounding error of a step, measured on the loop itself.

An orbit cannot come closer to its fixed point than the rounding of its step allows. The dtype of the state does not determine
this rounding, because models compute norms, softmax or whole blocks in a lower precision than that of their state. It is
therefore measured.

The step is evaluated at seven equally spaced states, h apart in a random direction, and the sixth differences of its values
are taken. Smooth parts cancel as h^6, whereas rounding errors, which differ from one value to the next, remain (Hamming's
difference table; More and Wild, "Estimating computational noise", 2011). h is reduced from a tenth of the state's size until
the differences stop falling. Two other kinds of non-smooth behaviour are told apart from rounding:

- a kink (ReLU): its differences fall with h, although more slowly than those of a smooth function;
- a jump (a hard choice such as argmax): it affects few of the numbers, whereas rounding affects most of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.contexts import check_time
from loopscope.loop import Loop, mask_of
from loopscope.trees import (
    Tree,
    device_of,
    flatten,
    floating_leaves,
    masked,
    real_numbers,
    select,
    tree_map,
    unflatten,
)

ORDER = 6
"""Order of the differences."""
SPACINGS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Distances between neighbouring states, relative to the size of the state."""
STILL_FALLING = 10.0
"""If differences fall by this factor when the spacing falls tenfold, they are not noise yet. Those of kinks fall by 30."""
COMMON = 0.1
"""If the upper quartile of the differences is at least this fraction of their root mean square, most numbers are affected."""
LARGEST_NOISE = 0.05
"""Differences above this fraction of the value are not rounding, even in eight bits: the function varies faster than h."""
EXAMPLES = 4
"""Number of examples measured."""
SAMPLES = 256
"""Smallest count of numbers measured. Small states are measured in several directions to reach it."""
NUMBERS_AT_ONCE = 2**22
"""Largest count of numbers that go through the step at once."""
RESIDUAL_PER_NOISE = 8.0
"""Residuals level off at up to this many times the error of one step. Measured: 1 to 5 on random loops of spectral radius up
to 0.7, and up to 9 at 0.9."""
ROUNDING = {
    "float64": 0.42 * 2.0**-53,
    "float32": 0.42 * 2.0**-24,
    "float16": 0.42 * 2.0**-11,
    "bfloat16": 0.42 * 2.0**-8,
}
"""Root mean square relative error of rounding to a floating type: 0.42 of its unit roundoff, for numbers of all sizes."""
COARSER = 1000.0
"""A step computes in a lower precision than its state has if its error is this many times that of rounding the state."""


@dataclass(frozen=True)
class NoiseFloor:
    """How precisely a step computes.

    Attributes:
        noise: root mean square rounding error of one evaluation of the step, relative to its value.
        state: the dtype of the state, the coarsest of its floating tensors.
    """

    noise: float
    state: str

    @property
    def residual(self) -> float:
        """The relative residual at which orbits may level off: those below it are rounding."""
        return RESIDUAL_PER_NOISE * self.noise

    @property
    def precision(self) -> str:
        """The floating type whose rounding is nearest to the step's. It is the state's own unless the step is far coarser."""
        if self.noise < COARSER * ROUNDING[self.state]:
            return self.state
        return min(ROUNDING, key=lambda name: abs(math.log(ROUNDING[name] / self.noise)))

    @property
    def is_coarser(self) -> bool:
        """Whether the step computes in a lower precision than its state has."""
        return self.precision != self.state


def measure_noise_floor(loop: Loop, state: Tree, recalled: Tree, *, seed: int = 0) -> NoiseFloor:
    """Measure the rounding error of a loop's step around some states.

    Each spacing that is tried costs 28 evaluations of the step with one example. Usually three are tried. A state with fewer
    than 64 numbers costs more.

    Args:
        loop: the loop, already in the right mode (usually eval mode).
        state: where to measure, batch first. The first four examples are used.
        recalled: what ``loop.encode`` returned for the same examples.
        seed: seed of the directions in which states are moved.

    Example:
        >>> import loopscope as ls
        >>> def step(z, x):
        ...     return (0.5 * z + x).bfloat16().float()
        >>> loop = ls.FunctionLoop(encode=lambda x: x, start=torch.zeros_like, step=step, read=lambda z: z)
        >>> inputs = torch.linspace(-1, 1, 200).view(2, 100)
        >>> floor = measure_noise_floor(loop, inputs, inputs)
        >>> floor.precision, f"{floor.noise:.0e}"
        ('bfloat16', '2e-03')
    """
    kept = slice(0, EXAMPLES)
    state, recalled = select(state, kept), select(recalled, kept)
    coarsest = max((leaf.dtype for leaf in floating_leaves(state)), key=lambda dtype: torch.finfo(dtype).eps)
    name = str(coarsest).removeprefix("torch.")
    with torch.no_grad(), torch.autocast(device_of(state).type, enabled=False):
        found = _noise(_Differences(loop, state, recalled, seed))
    return NoiseFloor(max(found, ROUNDING[name]), name)


def _noise(differences: _Differences) -> float:
    """Return the noise at the first spacing where most numbers differ and differences have stopped falling, else 0."""
    found = differences.at(SPACINGS[0])
    for spacing in SPACINGS[1:]:
        closer = differences.at(spacing)
        if found.are_noise and found.size < STILL_FALLING * closer.size:
            # At the smaller spacing less of the smooth part is left, but a coarse type may not tell the states apart.
            return closer.size if closer.are_noise else found.size
        found = closer
    return 0.0


@dataclass(frozen=True)
class _Found:
    """Root mean square and upper quartile of the differences at one spacing, as standard deviations of noise."""

    size: float
    upper: float

    @property
    def are_noise(self) -> bool:
        """Whether the differences have the size of rounding and affect most numbers."""
        return 0 < self.size <= LARGEST_NOISE and self.upper >= COMMON * self.size


class _Differences:
    """Sixth differences of a step around given states, relative to its value."""

    def __init__(self, loop: Loop, state: Tree, recalled: Tree, seed: int) -> None:
        self.loop, self.state, self.recalled = loop, state, recalled
        mask = mask_of(loop, recalled)
        self.real = real_numbers(state, mask) > 0
        value = loop.step(state, recalled)
        self.point = flatten(state).double()
        self.sizes = flatten(tree_map(lambda before, after: _larger_size(before, after, mask), state, value))
        norm = _root_mean_square(flatten(value, mask).double())
        self.scale = torch.where(norm > 0, norm, 1).unsqueeze(1)
        batch, numbers = self.point.shape
        directions = max(1, math.ceil(SAMPLES / (batch * numbers)))
        generator = torch.Generator().manual_seed(seed)
        self.examples = torch.arange(batch).repeat(directions)
        drawn = torch.randn(len(self.examples), numbers, generator=generator, dtype=torch.float64)
        self.directions = drawn.to(self.point.device)

    def at(self, spacing: float) -> _Found:
        """Return the differences between states that are ``spacing`` apart."""
        found = torch.cat(list(self._parts(spacing)))
        if not bool(found.isfinite().all()) or not len(found):
            return _Found(math.inf, 0.0)
        # torch.quantile refuses more than 16 million numbers.
        upper = found.kthvalue(1 + int(0.75 * (len(found) - 1))).values
        return _Found(float(found.square().mean().sqrt()), float(upper))

    def _parts(self, spacing: float) -> Iterator[Float[Tensor, "numbers"]]:
        offsets = torch.arange(ORDER + 1, dtype=torch.float64, device=self.point.device) - ORDER / 2
        weights = torch.tensor([(-1.0) ** k * math.comb(ORDER, k) for k in range(ORDER + 1)], dtype=torch.float64)
        weights = weights.to(self.point.device) / math.sqrt(math.comb(2 * ORDER, ORDER))
        together = max(1, NUMBERS_AT_ONCE // ((ORDER + 1) * self.point.shape[1]))
        for begin in range(0, len(self.examples), together):
            check_time()
            part = slice(begin, begin + together)
            rows = self.examples[part].to(self.point.device)
            moves = self.directions[part] * self.sizes[rows] * spacing
            points = self.point[rows, None] + offsets[:, None] * torch.where(self.real[rows], moves, 0)[:, None]
            every = rows.repeat_interleave(ORDER + 1)
            moved = unflatten(points.flatten(0, 1), select(self.state, every))
            value = flatten(self.loop.step(moved, select(self.recalled, every))).double()
            differences = torch.einsum("k,bkn->bn", weights, value.view(len(rows), ORDER + 1, -1))
            yield (differences / self.scale[rows]).abs()[self.real[rows]]


def _larger_size(before: Tensor, after: Tensor, mask: Tensor | None) -> Tensor:
    """Return the larger root mean square of a state's tensor before and after the step, per example, in its shape."""
    if not before.is_floating_point():
        return before
    sizes = [_root_mean_square(masked(leaf, mask).reshape(len(leaf), -1).double()) for leaf in (before, after)]
    return torch.maximum(*sizes).view(-1, *[1] * (before.ndim - 1)).expand_as(before)


def _root_mean_square(flat: Float[Tensor, "batch n"]) -> Float[Tensor, "batch"]:
    return flat.square().mean(1).sqrt()
