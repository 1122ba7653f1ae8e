"""The commands of the experiment: python -m experiments.prediction COMMAND, from the repository's root."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from experiments.prediction.population import LEDGER, collect, read_population
from loopscope.errors import RESUMABLE, LoopscopeError
from loopscope.evidence import EVIDENCE
from loopscope.files import write_json
from loopscope.reports.kit.sheet import Sheet, in_markdown, in_terminal
from loopscope.studies import StudyFolder, StudyOutcome, StudyPlan, read_plan, run_study
from loopscope.studies.processes import Machines

HERE = Path(__file__).parent
RESULTS = HERE / "results"
# Text may contain brackets and colons of its own (paths, errors), which are not markup.
console = Console(stderr=True, markup=False, emoji=False)


def say(text: str) -> None:
    """Print a line beside the results of a command."""
    console.print(text, soft_wrap=True)


def show(sheets: Sequence[Sheet]) -> None:
    """Print tables on standard output."""
    for sheet in sheets:
        Console(markup=False, emoji=False).print(in_terminal(sheet))


@contextmanager
def _machines(address: str | None, plan: StudyPlan, folder: StudyFolder) -> Iterator[Machines | None]:
    """Yield the machines of a Ray cluster, or None if no address is given."""
    if address is None:
        yield None
        return
    from loopscope.studies.cluster import join_cluster

    with join_cluster(address, folder.path, max(run.settings.training.threads for run in plan.runs)) as cluster:
        yield cluster


def _status(outcome: StudyOutcome, otherwise: int) -> int:
    """Return the exit status of a study; say how to continue one that was stopped."""
    if outcome.unfinished:
        stopped = outcome.stopped or "a signal to its runs"
        say(f"stopped by {stopped}, {len(outcome.unfinished)} runs left: the same command continues")
        return RESUMABLE
    return otherwise


def run_command(options: argparse.Namespace) -> int:
    """Train, evaluate and measure every model of a study."""
    from experiments.prediction.worker import MODULE
    from loopscope.cli.arguments import parse_duration
    from loopscope.reports.terminal import StudyDisplay

    plan = read_plan(Path(options.config))
    if plan.examination is not None and plan.examination.prediction:
        raise LoopscopeError(
            f"{plan.source}: every model is examined both in prediction mode and over all iterations: leave prediction out "
            "of examination"
        )
    folder = StudyFolder(Path(options.out or Path("studies") / plan.name))
    limit = None if options.time_limit is None else parse_duration(options.time_limit)
    with _machines(options.ray, plan, folder) as machines, StudyDisplay(console, plan) as display:
        outcome = run_study(
            plan, folder, options.workers, limit, options.retry_failed, display.show, machines, worker=MODULE
        )
    failed = any(record.status == "failed" for record in outcome.records.values())
    return _status(outcome, 1 if failed else 0)


def collect_command(options: argparse.Namespace) -> int:
    """Write the runs of a study as rows of a population's ledger."""
    folder, into = StudyFolder(Path(options.folder)), Path(options.into)
    records = folder.ledger.records()
    if not records:
        raise LoopscopeError(f"{folder.ledger.path} holds no run that ended: give the folder of a study")
    members = collect(folder, into)
    say(f"{len(records)} runs collected; {into} holds {len(members)}")
    return 0


def analyse_command(options: argparse.Namespace) -> int:
    """Compare forecasts of a population's models with what they did."""
    from experiments.prediction.analysis import analyse
    from experiments.prediction.report.page import write_analysis
    from experiments.prediction.report.tables import analysis_tables, summary
    from loopscope.schema import to_plain

    folder = Path(options.folder)
    members = read_population(folder / LEDGER)
    analysis = analyse(members)
    show(analysis_tables(analysis))
    print(summary(analysis))
    write_json(folder / "analysis.json", to_plain(asdict(analysis)))
    written = [folder / "analysis.json", *write_analysis(folder, analysis, members)]
    say(f"written: {', '.join(map(str, written))}")
    return 0


def choices_command(options: argparse.Namespace) -> int:
    """Print which design choices retained their accuracy, as Markdown."""
    from experiments.prediction.analysis.recommendations import recommendations
    from experiments.prediction.report.tables import recommendation_table

    found = recommendations(read_population(Path(options.folder) / LEDGER))
    print("\n".join(in_markdown(recommendation_table(one)) for one in found))
    return 0


def evidence_command(options: argparse.Namespace) -> int:
    """Write what the package quotes about trained models."""
    from experiments.prediction.evidence import evidence_of, write_evidence

    evidence = evidence_of(read_population(Path(options.folder) / LEDGER))
    write_evidence(Path(options.into), evidence)
    say(f"written: {options.into}")
    return 0


def retrain_command(options: argparse.Namespace) -> int:
    """Train some models of a population again and compare them with their rows."""
    from experiments.prediction.report.retraining_tables import retraining_sheets, retraining_summary
    from experiments.prediction.retraining import claim, compare_all, pick, retraining_plan
    from loopscope.reports.terminal import StudyDisplay

    if not 0 <= options.tolerance < math.inf:
        raise LoopscopeError(f"--tolerance is {options.tolerance:g}, expected points of accuracy, 0 or more")
    ledger, folder = Path(options.folder) / LEDGER, StudyFolder(Path(options.out))
    picked = pick(read_population(ledger), options.runs, options.seed)
    plan = retraining_plan(picked, ledger)
    claim(folder.path, plan)
    with StudyDisplay(console, plan) as display:
        outcome = run_study(plan, folder, options.workers, retry_failed=options.retry_failed, show=display.show)
    retraining = compare_all(picked, outcome.records, ledger, options.tolerance)
    show(retraining_sheets(retraining))
    print(retraining_summary(retraining))
    out = folder.path / "retrained.json"
    write_json(out, retraining.to_dict())
    say(f"written: {out}")
    return _status(outcome, 0 if retraining.within == len(retraining.runs) else 1)


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are LoopscopeErrors."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise LoopscopeError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m experiments.prediction", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, function: Callable[[argparse.Namespace], int], description: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, description=description, help=function.__doc__, allow_abbrev=False)
        added.set_defaults(function=function)
        return added

    def population(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "folder",
            nargs="?",
            default=str(RESULTS),
            help=f"folder of a population with its {LEDGER}; {RESULTS} by default",
        )

    run = command(
        "run",
        run_command,
        "Train, evaluate and measure every model of a study. A study that was stopped continues with the same command. Ctrl-C "
        "stops its runs after they have saved their state; a second Ctrl-C ends them at once. The exit status is 1 if a run "
        "failed and 75 if runs are left.",
    )
    run.add_argument("config", help="YAML file of the study, such as experiments/prediction/configs/prefix-sums.yaml")
    run.add_argument("--out", help="folder of the study; studies/NAME by default")
    run.add_argument("--workers", type=int, help="number of runs at once; the config's by default")
    run.add_argument("--ray", metavar="ADDRESS", help="do the runs on a Ray cluster: HOST:PORT, or auto")
    run.add_argument("--time-limit", help="stop cleanly before this much time has passed, such as 9m or 1h30m")
    run.add_argument("--retry-failed", action="store_true", help="repeat runs that failed before")

    collecting = command(
        "collect",
        collect_command,
        "Write the runs of a study as compact rows of a population's ledger, in place of the rows of the same runs.",
    )
    collecting.add_argument("folder", help="folder of the study, such as studies/prediction-prefix-sums")
    collecting.add_argument("--into", default=str(RESULTS / LEDGER), help="file to write; all other rows stay")

    population(
        command(
            "analyse",
            analyse_command,
            "Compare what was forecast of a population's models with what they did, and with the forecasts of rivals. Prints "
            "every table, and writes tables.md, report.html, analysis.json and the figures into the folder.",
        )
    )
    population(
        command(
            "choices",
            choices_command,
            "Print, for each task, which recall, normalization and learning rate retained their accuracy, with the number of "
            "models behind each choice, as Markdown.",
        )
    )
    evidence = command(
        "evidence",
        evidence_command,
        "Write the thresholds that a population sets and how often forecasts came true, where the package reads them.",
    )
    population(evidence)
    evidence.add_argument("--into", default=str(EVIDENCE), help="file to write; the package's by default")

    retrain = command(
        "retrain",
        retrain_command,
        "Train some models of a population again, picked at random, by the settings of their rows, and compare accuracies. A "
        "retraining that was stopped continues with the same command. On the machine, with the torch and with the code that "
        "made the ledger, models come out exactly the same; elsewhere they may not. The exit status is 1 if a model differs "
        "by more than the tolerance or ends in another way.",
    )
    population(retrain)
    retrain.add_argument("--runs", type=int, default=10, help="number of models to train again")
    retrain.add_argument("--seed", type=int, default=0, help="decides which models")
    retrain.add_argument("--out", required=True, help="folder for the runs and retrained.json")
    retrain.add_argument("--workers", type=int, default=1, help="number of models at once")
    retrain.add_argument(
        "--tolerance", type=float, default=5.0, help="points of accuracy that do not count as a difference"
    )
    retrain.add_argument("--retry-failed", action="store_true", help="repeat trainings that failed here")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0 done, 1 failed, 2 bad input, 75 stopped and resumable, 130 interrupted."""
    try:
        options = _parser().parse_args(arguments)
        status: int = options.function(options)
        return status
    except LoopscopeError as error:
        print(f"experiments.prediction: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("experiments.prediction: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
