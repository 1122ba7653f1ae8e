"""Maps over the spectral regime that show where each axis of the framework holds, for untrained blocks.

A small untrained block is scaled over a grid of two gains: the spectral radius of W_state, and a factor on the output of
both sub-layers. At each point of the grid, the three axes are judged from the quantities and by the thresholds of an
examination. The maps and the areas in which axes hold are the numerical counterpart of the theorems in docs/concepts/theory.md.
Without recall there is no W_state, and the first gain multiplies the argument of each sub-layer, as W_state does in internal
recall.

All points of a grid, with several inputs each, form one batch. The recalled input of an example contains the index of its
point, so no derivative is taken with respect to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from loopscope.errors import LoopscopeError, check_choice, check_positive
from loopscope.jacobian import Jacobian, input_jacobian, step_jacobian
from loopscope.loop import Loop
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.models.config import NormName, RecallName
from loopscope.stability.dependence.swap_test import Swap, swap_test
from loopscope.stability.geometry import gradient_norms
from loopscope.stability.orbits.arrival import Ends, follow
from loopscope.stability.results import middle
from loopscope.stability.verdict import Axis, Status, judge
from loopscope.trees import Tree, norms, select

RECALLS: tuple[RecallName, ...] = get_args(RecallName)
NORMS: tuple[NormName, ...] = get_args(NormName)
AXES = ("reachability", "input-dependence", "geometry")
"""The axes, in the order of the last dimension of `SpectralMap.holds`."""
TRAINED_ITERATIONS = 30
"""Number of iterations through which gradients are propagated: the most that the paper trains with."""


@dataclass(frozen=True)
class Grid:
    """The gains of a map, evenly spaced on a log scale, and the block that they scale.

    Args:
        state_gains: lowest and highest spectral radius of W_state.
        sublayer_gains: lowest and highest factor on the output of attention and MLP, where 1 is PyTorch's initialization.
        points: number of gains along each side.
        width: numbers per token.
        tokens: tokens per input, on a line, with full attention.
        inputs: number of Gaussian inputs at every point of the grid.
        iterations: budget of every orbit.
        tolerance: relative residual at which a state may count as arrived.
    """

    state_gains: tuple[float, float] = (0.1, 10.0)
    sublayer_gains: tuple[float, float] = (0.1, 100.0)
    points: int = 11
    width: int = 16
    tokens: int = 4
    inputs: int = 8
    iterations: int = 300
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(width=self.width, tokens=self.tokens, iterations=self.iterations)
        if self.points < 2 or self.inputs < 2:
            raise LoopscopeError(
                f"expected at least 2 points along a side and 2 inputs, got {self.points} and {self.inputs}"
            )
        for name in ("state_gains", "sublayer_gains"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise LoopscopeError(f"{name} is {low, high}, expected a positive range, lowest first")

    @property
    def sides(self) -> tuple[list[float], list[float]]:
        """The gains of W_state and of the sub-layers along the two sides."""
        state, sublayer = (
            np.geomspace(*ends, self.points).tolist() for ends in (self.state_gains, self.sublayer_gains)
        )
        return state, sublayer


@dataclass(frozen=True)
class SpectralMap:
    """Where each axis holds for one recall and normalization.

    Attributes:
        recall: none, external or internal.
        norm: pre, peri, outer, sandwich or gru.
        state_gains: along the first dimension of the grid.
        sublayer_gains: along the second.
        axes: the three axes at each point, row by row.
    """

    recall: str
    norm: str
    state_gains: list[float]
    sublayer_gains: list[float]
    axes: list[tuple[Axis, Axis, Axis]]

    @property
    def holds(self) -> Bool[np.ndarray, "state_gains sublayer_gains 3"]:
        """Whether reachability, input-dependence and geometry hold at each point."""
        flags = [[axis.status is Status.HOLDS for axis in point] for point in self.axes]
        return np.array(flags).reshape(len(self.state_gains), len(self.sublayer_gains), 3)

    @property
    def areas(self) -> dict[str, float]:
        """The fraction of the grid's points at which each axis holds, and at which all three do."""
        holds = self.holds
        return {
            **{name: float(holds[..., k].mean()) for k, name in enumerate(AXES)},
            "all": float(holds.all(-1).mean()),
        }


@dataclass(frozen=True)
class ScaledLoop:
    """A looped transformer of one block at many pairs of gains.

    Inputs are a dict of the model's ``inputs`` and the ``point`` (index of the pair of gains) of each example.

    Args:
        model: a looped transformer whose W_state has spectral radius 1 (see ``with_unit_state``).
        gains: pairs (gain of W_state, gain of the sub-layers).
    """

    model: LoopedTransformer
    gains: Float[Tensor, "points 2"]

    def encode(self, inputs: Tree) -> Tree:
        """Return the model's recalled input together with the points."""
        return {"model": self.model.encode(inputs["inputs"]), "point": inputs["point"]}

    def start(self, recalled: Tree, generator: torch.Generator | None = None) -> Tensor:
        """Return the model's first state."""
        return self.model.start(recalled["model"], generator)

    def step(self, state: Tensor, recalled: Tree) -> Tensor:
        """Return the state after one iteration of the model with scaled gains.

        Recall is linear in the state, so W_state is scaled by scaling the argument of recall.
        """
        model = self.model
        block: Any = model.blocks[0]
        state_gain, sublayer_gain = self.gains.to(state)[recalled["point"], :, None, None].unbind(1)
        rotary, mask = model.positions(state)
        injected = {name: value for name, value in recalled["model"].items() if name != "embedding"}

        def first(linear: nn.Module, tokens: Tensor) -> Tensor:
            scaled = tokens if model.config.recall == "external" else state_gain * tokens
            return recall.first(linear, scaled, injected)

        recall: Any = model.recall
        if model.config.recall == "external":
            state = recall.enter(state_gain * state, injected)
        state = block.residual(state, lambda tokens: sublayer_gain * block.attention(tokens, first, rotary, mask))
        return block.residual(state, lambda tokens: sublayer_gain * block.feed_forward(tokens, first))

    def read(self, state: Tensor) -> Tensor:
        """Return the model's logits."""
        return self.model.read(state)


def with_unit_state(model: LoopedTransformer) -> LoopedTransformer:
    """Divide W_state by its spectral radius in place, if the model has one; return the model."""
    if model.config.recall != "none":
        with torch.no_grad():
            recall: Any = model.recall
            weight = recall.state.weight
            weight /= torch.linalg.eigvals(weight.double()).abs().max()
    return model


def scaled_loop(recall: str, norm: str, grid: Grid, seed: int = 0) -> tuple[ScaledLoop, Tree]:
    """Return an untrained block at all points of the grid, and its inputs.

    Example k of point p is row k * points² + p. The same seed draws the same inputs for every recall and normalization.

    Raises:
        LoopscopeError: there is no such recall or normalization.
    """
    check_choice("recall", recall, RECALLS)
    check_choice("norm", norm, NORMS)
    config = LoopedTransformerConfig(
        recall=recall,  # type: ignore[arg-type]
        norm=norm,  # type: ignore[arg-type]
        width=grid.width,
        heads=2,
        inputs=grid.width,
        outputs=2,
        grid=(grid.tokens,),
        attention="full",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        problems = torch.randn(grid.inputs, grid.tokens, grid.width)
        model = with_unit_state(LoopedTransformer(config)).eval().requires_grad_(False)
    state, sublayer = (torch.tensor(side, dtype=torch.float64) for side in grid.sides)
    gains = torch.cartesian_prod(state, sublayer)
    inputs = {
        "inputs": problems.repeat_interleave(len(gains), 0),
        "point": torch.arange(len(gains)).repeat(grid.inputs),
    }
    return ScaledLoop(model, gains), inputs


def spectral_map(recall: str, norm: str, grid: Grid | None = None, seed: int = 0) -> SpectralMap:
    """Judge the three axes at every point of a grid of gains.

    The numbers and thresholds are those of an examination:

    - the fraction of inputs whose orbit arrives;
    - the fractions of the known swaps that moved and that share one point, which are unknown if fewer than half are known;
    - the 90% quantile of the spectral radius and the median relative Lipschitz constant over the fixed points that were
      reached, from Jacobians formed in full, and the median growth of gradients.

    Unlike in an examination, an orbit that is undecided within the budget counts as not arrived.

    Args:
        recall: none, external or internal.
        norm: pre, peri, outer, sandwich or gru.
        grid: the gains and the size of the block; ``Grid()`` by default.
        seed: seed of the weights, the inputs and the cotangents.

    Raises:
        LoopscopeError: there is no such recall or normalization.
    """
    grid = Grid() if grid is None else grid
    loop, inputs = scaled_loop(recall, norm, grid, seed)
    with torch.no_grad():
        recalled = loop.encode(inputs)
    budget = {"iterations": grid.iterations, "tolerance": grid.tolerance}
    ends = follow(loop, recalled, loop.start(recalled), **budget)  # type: ignore[arg-type]
    points = grid.points**2
    # Partners have the same point: the batch holds all points of one input before those of the next.
    swap = swap_test(loop, recalled, ends, shift=points, **budget).recall  # type: ignore[arg-type]
    growth = gradient_norms(loop, recalled, TRAINED_ITERATIONS, seed=seed).slope.exp()
    radius, lipschitz = _fixed_point_numbers(loop, inputs, recalled, ends)
    state, sublayer = grid.sides
    axes = [
        _axes_at(ends.arrived[rows], swap.take(rows), radius[rows], lipschitz[rows], growth[rows])
        for rows in (slice(point, None, points) for point in range(points))
    ]
    return SpectralMap(recall, norm, state, sublayer, axes)


def spectral_maps(grid: Grid | None = None, seed: int = 0) -> Iterator[SpectralMap]:
    """Yield the map of every recall and normalization (see ``spectral_map``)."""
    for recall in RECALLS:
        for norm in NORMS:
            yield spectral_map(recall, norm, grid, seed)


def _fixed_point_numbers(
    loop: Loop, inputs: Tree, recalled: Tree, ends: Ends
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Return the spectral radius of J and the relative Lipschitz constant at each fixed point; NaN elsewhere.

    The state, of width x tokens numbers, is small enough for J and df/dx to be formed in full.
    """
    radius, lipschitz = (torch.full((len(ends.arrived),), torch.nan, dtype=torch.float64) for _ in range(2))
    rows = torch.nonzero(ends.arrived).squeeze(1)
    if not len(rows):
        return radius, lipschitz
    state, recall, own = select(ends.state, rows), select(recalled, rows), select(inputs, rows)
    jacobian = full_matrix(step_jacobian(loop, state, recall))
    through = input_jacobian(loop, state, recall, own)
    inward = full_matrix(through)
    radius[rows] = torch.linalg.eigvals(jacobian).abs().amax(1)
    # A singular I - J counts as infinite, beyond every threshold.
    response, singular = torch.linalg.solve_ex(torch.eye(jacobian.shape[1], dtype=torch.float64) - jacobian, inward)
    gain = torch.where(singular == 0, torch.linalg.matrix_norm(response.nan_to_num(), ord=2), torch.inf)
    lipschitz[rows] = gain * (norms(through.context["x"]) / norms(state)).double()
    return radius, lipschitz


def full_matrix(jacobian: Jacobian) -> Float[Tensor, "batch m n"]:
    """Return the Jacobians of small states as matrices in float64, by one vector-Jacobian product per row."""
    rows = [
        jacobian.vjp(row.expand(jacobian.batch, -1)) for row in torch.eye(jacobian.rows, dtype=jacobian.point.dtype)
    ]
    return torch.stack(rows, dim=1).double()


def _axes_at(
    arrived: Bool[Tensor, "inputs"],
    swap: Swap,
    radius: Float[Tensor, "inputs"],
    lipschitz: Float[Tensor, "inputs"],
    growth: Float[Tensor, "inputs"],
) -> tuple[Axis, Axis, Axis]:
    """Return the three axes at one point of the grid."""
    radii = _known(radius)
    numbers = {
        "radius": float(np.quantile(radii, 0.9)) if radii else None,
        "relative Lipschitz constant": middle(_known(lipschitz)),
        "gradient growth per iteration": middle(_known(growth)),
    }
    reached = float(arrived.double().mean())
    swapped = {"fraction moved": swap.fraction_moved, "fraction shared": swap.fraction_shared}
    return (
        judge("reachability", {"fraction arrived": reached}, f"{int(arrived.sum())} of {len(arrived)} orbits arrived"),
        judge("input-dependence", swapped, "recall swapped between inputs of this point"),
        judge("geometry", numbers, "at the fixed points that were reached"),
    )


def _known(values: Float[Tensor, "inputs"]) -> list[float]:
    return values[~values.isnan()].tolist()
