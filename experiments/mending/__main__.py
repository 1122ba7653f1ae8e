"""The commands of the experiment: python -m experiments.mending run|watch|tables, from the root of the repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from experiments.mending.runs import LEDGER, Run, read_runs
from experiments.mending.stages import STAGES, fill
from experiments.mending.watched import LEDGER as WATCHED
from experiments.mending.watched import fill_watched
from loopscope.errors import LoopscopeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.mending", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="fill the ledger of the comparison")
    run.add_argument("--ledger", type=Path, default=LEDGER, help="file of JSON lines")
    run.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES), help="stages to run, in order")
    watch = commands.add_parser("watch", help="fill the ledger of watched runs; needs the screening")
    watch.add_argument("--ledger", type=Path, default=LEDGER, help="file of JSON lines with the screening")
    watch.add_argument("--watched", type=Path, default=WATCHED, help="file of JSON lines to which rows are appended")
    options = parser.parse_args(arguments)
    said = Console(stderr=True, markup=False, emoji=False)
    torch.set_num_threads(1)
    try:
        if options.command == "run":
            for run_row in fill(options.ledger, options.stages):
                said.print(_said(run_row), soft_wrap=True)
        elif options.command == "watch":
            for row in fill_watched(read_runs(options.ledger), options.watched):
                said.print(f"{row.cell}: easy {row.easy:.2f}, left {row.left:.2f}, {row.seconds:.0f} s", soft_wrap=True)
    except LoopscopeError as error:
        said.print(f"experiments.mending: {error}", soft_wrap=True)
        return 2
    return 0


def _said(row: Run) -> str:
    strength = "" if row.strength is None else f" {row.strength:g}"
    return (
        f"{row.stage}: {row.cell}, {row.option}{strength}, seed {row.seed}: easy {row.easy:.2f}, left {row.left:.2f}, "
        f"{row.seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
