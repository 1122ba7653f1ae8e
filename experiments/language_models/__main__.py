"""The commands of the experiment, from the root of the repository: python -m experiments.language_models train|forecast|table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console

from experiments.language_models.population import forecast_all, read_forecasts, read_rows, train_all
from experiments.language_models.tables import tables
from loopscope.errors import LoopscopeError
from loopscope.reports.kit.sheet import in_markdown

COMMANDS = {
    "train": "train the models that are missing",
    "forecast": "forecast all trained models anew",
    "table": "print the tables as Markdown",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.language_models", description=__doc__)
    about = "; ".join(f"{name}: {what}" for name, what in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS, help=about)
    options = parser.parse_args(arguments)
    said = Console(stderr=True, markup=False, emoji=False)
    try:
        for line in _lines(options.command):
            said.print(line, soft_wrap=True)
        if options.command == "table":
            print("\n".join(map(in_markdown, tables(read_rows(), read_forecasts()))), end="")
    except LoopscopeError as error:
        said.print(f"experiments.language_models: {error}", soft_wrap=True)
        return 2
    return 0


def _lines(command: str) -> Iterator[str]:
    """Yield a line of progress for every model that is trained or forecast."""
    if command == "train":
        for row in train_all():
            yield f"{row.training.name}: {100 * row.accuracy[row.training.loops - 1]:.0f}% right after {row.training.loops} loops"
    if command == "forecast":
        for made in forecast_all():
            yield f"{made.training.name}, {made.horizon} loops: {made.outlook}"


if __name__ == "__main__":
    sys.exit(main())
