"""Make the pictures of the documentation: python docs/pictures.py"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8a94a6"
HERE = Path(__file__).parent / "pictures"


def orbit(step, start: np.ndarray, iterations: int) -> np.ndarray:
    states = [start]
    for _ in range(iterations):
        states.append(step(states[-1]))
    return np.array(states)


def loop_picture() -> None:
    """Draw a loop with recall, one without, and one that drifts, each from three starts and for two inputs."""
    turn = 0.8 * np.array([[np.cos(0.9), -np.sin(0.9)], [np.sin(0.9), np.cos(0.9)]])
    inputs = {"input x": (np.array([0.9, 0.2]), BLUE), "input x'": (np.array([-0.7, -0.6]), ORANGE)}
    panels = {
        "with recall: each input has its own fixed point": lambda e: lambda z: np.tanh(turn @ z + e),
        "without recall: one fixed point for all": lambda e: lambda z: np.tanh(turn @ z),
        "no outer normalization: the norm drifts": lambda e: lambda z: z + 0.25 * np.tanh(turn @ z / 3 + e),
    }
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (title, make) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for label, (recalled, colour) in inputs.items():
            for k, start in enumerate(([0.9, 0.9], [-0.9, 0.6], [0.1, -0.9])):
                path = orbit(make(recalled), np.array(start), 40)
                axes.plot(*path.T, "-o", c=colour, ms=2.5, lw=0.8, label=label if k == 0 else None)
                axes.plot(*path[0], "s", c=colour, ms=6)
        axes.set_title(title, fontsize=11)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(HERE / "orbits.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    loop_picture()
