"""The commands of the experiment: python -m experiments.mending run|watch|tables|evidence, from the repository's root."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from experiments.mending.evidence import mending_of, write_mending
from experiments.mending.figures import figure
from experiments.mending.runs import LEDGER, Run, read_runs
from experiments.mending.stages import STAGES, fill
from experiments.mending.tables import all_tables
from experiments.mending.watched import LEDGER as WATCHED
from experiments.mending.watched import fill_watched, read_watched
from loopscope.errors import LoopscopeError
from loopscope.evidence import MENDING
from loopscope.files import write_bytes
from loopscope.reports.kit.sheet import in_markdown

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "mending.png"


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
    tables = commands.add_parser("tables", help="print the tables as Markdown and draw the figure")
    tables.add_argument("--ledger", type=Path, default=LEDGER, help="file of JSON lines of the comparison")
    tables.add_argument("--watched", type=Path, default=WATCHED, help="file of JSON lines of the watched runs")
    tables.add_argument("--picture", type=Path, default=PICTURE, help="the PNG file")
    evidence = commands.add_parser("evidence", help="write the counts that the package quotes")
    evidence.add_argument("--ledger", type=Path, default=LEDGER, help="file of JSON lines of the comparison")
    evidence.add_argument("--out", type=Path, default=MENDING, help="the JSON file")
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
        elif options.command == "tables":
            runs, watched = read_runs(options.ledger), read_watched(options.watched)
            print("\n".join(map(in_markdown, all_tables(runs, watched))), end="")
            write_bytes(options.picture, figure(runs, watched))
            said.print(f"written: {options.picture}", soft_wrap=True)
        else:
            write_mending(options.out, mending_of(read_runs(options.ledger)))
            said.print(f"written: {options.out}", soft_wrap=True)
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
