"""The commands of the experiment: python -m experiments.forecasts run|table, from the root of the repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.forecasts.population import LEDGER, fill, read_ledger
from experiments.forecasts.tables import tables
from loopscope.errors import LoopscopeError
from loopscope.reports.kit.sheet import in_markdown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.forecasts", description=__doc__)
    parser.add_argument("command", choices=["run", "table"], help="fill the ledger, or print its tables as Markdown")
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="file of JSON lines")
    options = parser.parse_args(arguments)
    said = Console(stderr=True, markup=False, emoji=False)
    try:
        if options.command == "run":
            for row in fill(options.ledger):
                damping = "" if row.damping is None else f", damped to {row.damping:g}"
                said.print(f"{row.training.family}{damping}: measured", soft_wrap=True)
        else:
            print("\n".join(map(in_markdown, tables(read_ledger(options.ledger)))), end="")
    except LoopscopeError as error:
        said.print(f"experiments.forecasts: {error}", soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
