"""Print the tables of docs/evidence/precision.md: python -m experiments.precision (about 40 seconds of one core)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

import loopscope as ls
from experiments.precision.models import SUBJECTS
from loopscope.reports.kit.formats import DASH
from loopscope.reports.kit.sheet import Sheet, in_markdown

FACTOR = 2.0
"""A prediction is right if it is within this factor of what was measured."""


def sheets(found: dict[str, ls.PrecisionComparison]) -> list[Sheet]:
    """Return the table of what each precision does to each model, and that of the predictions."""
    lows = [(name, comparison, result) for name, comparison in found.items() for result in comparison.results[1:]]
    effects = [
        [
            f"{name}, {result.name}",
            f"{result.difference[1][-1]:.1e}",
            DASH if result.growth is None else f"{result.growth:.4f}",
            DASH if result.floor is None else f"{result.floor:.1e}",
            f"{100 * sum(one is not None for one in result.differ_from) / comparison.inputs:.0f}%",
            DASH if result.first_differs is None else str(result.first_differs),
        ]
        for name, comparison, result in lows
    ]
    predictions = [
        [
            f"{name}, {result.name}",
            DASH if comparison.exponent is None else f"{comparison.exponent:.3f}",
            f"{result.predicted:.1e}",
            f"{result.measured:.1e}",
            f"{result.predicted / result.measured:.2f}",
        ]
        for name, comparison, result in lows
        if result.predicted is not None and result.measured
    ]
    right = sum(1 / FACTOR <= float(row[-1]) <= FACTOR for row in predictions)
    some = next(iter(found.values()))
    return [
        Sheet(
            f"Against float64 after {some.iterations} iterations",
            [
                "model, precision",
                "difference",
                "growth per iteration",
                "residual floor",
                "answers differ",
                "from iteration",
            ],
            effects,
            f"{some.inputs} inputs each. Differences are relative to the norm of the state; medians over the inputs.",
        ),
        Sheet(
            f"Differences predicted from {some.known} iterations",
            ["model, precision", "exponent", "predicted", "measured", "ratio"],
            predictions,
            f"{right} of {len(predictions)} within a factor of {FACTOR:g}.",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the precisions on all models, print the tables, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.precision", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS), help="models to compare")
    parser.add_argument("--inputs", type=int, default=4, help="inputs of each model")
    parser.add_argument("--iterations", type=int, default=240, help="iterations to run")
    options = parser.parse_args(arguments)
    said, found = Console(stderr=True, markup=False, emoji=False), {}
    for name in options.models:
        subject = SUBJECTS[name](options.inputs)
        found[name] = ls.precision(
            subject.loop, subject.inputs, subject.targets, options.iterations, answers=subject.answers
        )
        said.print(f"{name}: {found[name].seconds:.0f} s", soft_wrap=True)
    print("\n".join(map(in_markdown, sheets(found))), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
