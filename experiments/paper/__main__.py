"""The commands of the experiment: python -m experiments.paper collect STUDY... | tables | claims, from the repository's root."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.paper.claims import claims, radius_areas
from experiments.paper.figures import accuracy_figure, radius_figure
from experiments.paper.runs import LEDGER, by_study, collect, read_runs
from experiments.paper.tables import tables
from experiments.prediction.population import LEDGER as POPULATION_FILE
from experiments.prediction.population import read_population
from loopscope.errors import LoopscopeError
from loopscope.files import write_bytes
from loopscope.reports.kit.sheet import in_markdown
from loopscope.studies import StudyFolder

POPULATION = Path(__file__).parents[1] / "prediction" / "results" / POPULATION_FILE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.paper", description=__doc__)
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="file of JSON lines")
    commands = parser.add_subparsers(dest="command", required=True)
    gather = commands.add_parser("collect", help="append the finished runs of studies to the ledger")
    gather.add_argument("studies", nargs="+", type=Path, help="folders of studies")
    commands.add_parser("tables", help="print the tables as Markdown and draw the figures beside the ledger")
    counts = commands.add_parser("claims", help="print the counts behind the paper's claims as Markdown")
    counts.add_argument("--population", type=Path, default=POPULATION, help="ledger of the prediction experiment")
    options = parser.parse_args(arguments)
    said = Console(stderr=True, markup=False, emoji=False)
    try:
        if options.command == "collect":
            for study in options.studies:
                new = collect(StudyFolder(study), options.ledger)
                said.print(f"{study}: {len(new)} runs appended to {options.ledger}", soft_wrap=True)
            return 0
        if options.command == "claims":
            members = read_population(options.population)
            print("\n".join(in_markdown(make(members)) for make in (claims, radius_areas)), end="")
            return 0
        runs = read_runs(options.ledger)
        print("\n".join(map(in_markdown, tables(runs))), end="")
        for study, own in by_study(runs).items():
            for name, draw in {"accuracy": accuracy_figure, "radius": radius_figure}.items():
                picture = options.ledger.with_name(f"{study}-{name}.png")
                write_bytes(picture, draw(own))
                said.print(f"written: {picture}", soft_wrap=True)
    except LoopscopeError as error:
        said.print(f"experiments.paper: {error}", soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
