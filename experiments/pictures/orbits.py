"""Draw the orbits of docs/concepts/loop.md: python -m experiments.pictures.orbits"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#4a5568"
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
TURN = 0.8 * np.array([[np.cos(0.9), -np.sin(0.9)], [np.sin(0.9), np.cos(0.9)]])
ONE, OTHER = np.array([0.9, 0.2]), np.array([-0.7, -0.6])
STARTS = np.array([[0.9, 0.9], [-0.9, 0.6], [0.1, -0.9]])

Step = Callable[[np.ndarray, np.ndarray], np.ndarray]


def orbit(step: Step, start: np.ndarray, recalled: np.ndarray, iterations: int = 40) -> np.ndarray:
    """Return the states of an orbit, including the first one."""
    states = [start]
    for _ in range(iterations):
        states.append(step(states[-1], recalled))
    return np.array(states)


def held_then_swapped(axes: Axes, step: Step) -> None:
    """Draw orbits that settle while x is recalled, and the orbit of the settled state when x' is recalled instead."""
    for k, start in enumerate(STARTS):
        held = orbit(step, start, ONE)
        axes.plot(*held.T, "-o", c=BLUE, ms=2.5, lw=0.8, label=None if k else "x recalled")
    swapped = orbit(step, held[-1], OTHER)
    axes.plot(*swapped.T, "--o", c=ORANGE, ms=2.5, lw=1.2, label="then x' recalled")
    axes.plot(*held[-1], "*", c=BLUE, ms=15, mec="white", zorder=4)
    axes.plot(*swapped[-1], "*", c=ORANGE, ms=11, mec="white", zorder=5)


def drifting(axes: Axes, step: Step) -> None:
    """Draw orbits of both inputs that never settle."""
    for recalled, colour, label in ((ONE, BLUE, "x recalled"), (OTHER, ORANGE, "x' recalled")):
        for k, start in enumerate(STARTS):
            axes.plot(*orbit(step, start, recalled).T, "-o", c=colour, ms=2.5, lw=0.8, label=None if k else label)


def orbits() -> Figure:
    """Draw a loop with recall, a loop without, and a loop that drifts."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    held_then_swapped(left, lambda z, e: np.tanh(TURN @ z + e))
    held_then_swapped(middle, lambda z, e: np.tanh(TURN @ z))
    drifting(right, lambda z, e: z + 0.25 * np.tanh(TURN @ z / 3 + e))
    titles = ("with recall: the state moves", "without recall: it stays", "an open identity path: a drift")
    for axes, title in zip((left, middle, right), titles, strict=True):
        axes.plot(*STARTS.T, "s", c=GREY, ms=6, label="starts", zorder=3)
        axes.set_title(title, fontsize=12)
        axes.locator_params(nbins=5)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    orbits().savefig(PICTURES / "orbits.png", dpi=100, metadata={"Software": None})
