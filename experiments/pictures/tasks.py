"""Draw a run's accuracy against iterations and difficulty, and the boards of one sudoku while it is solved:

python -m experiments.pictures.tasks chess src/loopscope/shipped/models/chess
python -m experiments.pictures.tasks sudoku src/loopscope/shipped/models/sudoku
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from loopscope.answers.answerer import frames, open_answerer
from loopscope.files import read_json
from loopscope.training.run_folder import RunFolder

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4a5568")
DIFFICULTY = {"chess": "rating", "sudoku": "guesses that a solver needs"}
BOARDS = (1, 8, 16, 30)
EXAMPLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
"""The puzzle in the documentation, which can be solved by singles."""


def curves(axes: Axes, splits: dict[str, Any], trained: int) -> None:
    """Draw accuracy at every iteration, one line per split, with the iterations of training shaded."""
    axes.axvspan(1, trained, color="#4a5568", alpha=0.12, lw=0)
    for colour, (name, curve) in zip(COLOURS, splits.items(), strict=False):
        values = 100 * np.array(curve["answer_accuracy"])
        axes.plot(np.arange(1, len(values) + 1), values, c=colour, lw=1.8, label=name)
    axes.set(
        xscale="log",
        xlabel=f"iterations (at most {trained} in training)",
        ylabel="% of whole answers right",
        ylim=(0, 101),
    )
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


def by_difficulty(axes: Axes, splits: dict[str, Any], label: str) -> None:
    """Draw accuracy after some iterations against difficulty, over all splits together."""
    bins = [part for curve in splits.values() for part in curve["by_difficulty"]]
    bins.sort(key=lambda part: (part["lowest"] + part["highest"]) / 2)
    places = [(part["lowest"] + part["highest"]) / 2 for part in bins]
    shown = [i for i in (8, 16, 64, 500) if all(i in part["iterations"] for part in bins)]
    for colour, iterations in zip(COLOURS, shown, strict=False):
        values = [100 * part["answer_accuracy"][part["iterations"].index(iterations)] for part in bins]
        axes.plot(places, values, "-o", c=colour, ms=4, lw=1.2, label=f"{iterations} iterations")
    axes.set(xlabel=label, ylim=(0, 101))
    if label.startswith("guesses"):
        axes.set_xscale("symlog")
        axes.set_xlim(left=-0.5)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


def accuracy(task: str, run: RunFolder) -> Figure:
    """Draw a run's evaluation."""
    splits = read_json(run.evaluation)["splits"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves(left, splits, run.settings().training.max_iterations)
    by_difficulty(right, splits, DIFFICULTY[task])
    return figure


def board(axes: Axes, given: np.ndarray, digits: np.ndarray, since: np.ndarray, title: str) -> None:
    """Draw a sudoku board: givens in black, digits that changed since the last board in orange, other digits in blue."""
    for line in range(10):
        width = 1.6 if line % 3 == 0 else 0.5
        axes.plot([0, 9], [line, line], c="black", lw=width)
        axes.plot([line, line], [0, 9], c="black", lw=width)
    for cell in range(81):
        colour = "black" if given[cell] else (COLOURS[1] if since[cell] else COLOURS[0])
        weight = "bold" if given[cell] else "normal"
        place = (cell % 9 + 0.5, 8.5 - cell // 9)
        axes.text(*place, str(digits[cell]), ha="center", va="center", color=colour, weight=weight, fontsize=10)
    axes.set_title(title, fontsize=11)
    axes.set_aspect("equal")
    axes.axis("off")


def strip(run: RunFolder, puzzle: str) -> Figure:
    """Draw the board of a sudoku after some iterations and when it has settled."""
    answerer = open_answerer(str(run.path))
    problem = answerer.text.read(puzzle)
    seen = list(frames(answerer, problem, 1e-4, 500))
    shown = [frame for frame in seen if frame.iteration in BOARDS or frame is seen[-1]]
    figure = Figure(figsize=(3 * len(shown), 3.3), layout="constrained")
    before = 0
    for axes, frame in zip(figure.subplots(1, len(shown)), shown, strict=True):
        since = (frame.since > before).int()
        right = answerer.text.right(problem, frame.logits)
        digits = (frame.logits.argmax(-1) + 1).numpy()
        board(
            axes,
            problem.tokens.numpy(),
            digits,
            since.numpy(),
            f"iteration {frame.iteration}{': solved' if right else ''}",
        )
        before = frame.iteration
    return figure


def main() -> None:
    """Draw the pictures of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(DIFFICULTY))
    parser.add_argument("run", type=Path)
    parser.add_argument("--puzzle", default=EXAMPLE, help="the sudoku to draw")
    options = parser.parse_args()
    run = RunFolder(options.run)
    accuracy(options.task, run).savefig(PICTURES / f"{options.task}-accuracy.png", dpi=110)
    if options.task == "sudoku":
        with torch.no_grad():
            strip(run, options.puzzle).savefig(PICTURES / "sudoku-strip.png", dpi=110)


if __name__ == "__main__":
    main()
