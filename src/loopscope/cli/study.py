"""``loopscope study``: train, evaluate and examine a grid of runs, and write one report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from loopscope.cli.arguments import parse_duration
from loopscope.cli.command import Command
from loopscope.cli.console import console, say, show
from loopscope.errors import RESUMABLE
from loopscope.parsing import new_parser

if TYPE_CHECKING:
    from loopscope.studies import StudyFolder, StudyPlan
    from loopscope.studies.processes import Machines


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        "Train, evaluate and examine every run of a study's grid, then write one report. The same command continues a "
        "study that was stopped or killed. After Ctrl-C the runs save their state and stop. After a second Ctrl-C the study "
        "ends at once, and an interrupted examination is repeated later."
    )
    parser.add_argument("config", help="The study's YAML file, such as configs/quick.yaml.")
    parser.add_argument("--out", type=str | None, help="Folder for the study; by default studies/NAME.")
    parser.add_argument(
        "--workers",
        type=int | None,
        help="Number of runs at once; by default the study's own number, or with --ray what the cluster's CPUs allow.",
    )
    parser.add_argument(
        "--ray",
        type=str | None,
        metavar="ADDRESS",
        help="Distribute the runs over a Ray cluster: HOST:PORT, as `ray start --head` prints it, or auto for the cluster "
        "that this machine belongs to. All machines must see the study's folder under the same path, on a shared file "
        "system. Needs pip install 'loopscope[cluster]'.",
    )
    parser.add_argument(
        "--time-limit", type=str | None, help="Stop cleanly before this much time has passed, such as 9m or 1h30m."
    )
    parser.add_argument("--retry-failed", action="store_true", help="Repeat runs that failed before.")
    return parser


@contextmanager
def _machines(address: str | None, plan: StudyPlan, folder: StudyFolder) -> Iterator[Machines | None]:
    """Yield the machines of a Ray cluster, or None without an address."""
    if address is None:
        yield None
        return
    from loopscope.studies.cluster import join_cluster

    with join_cluster(address, folder.path, max(run.settings.training.threads for run in plan.runs)) as cluster:
        yield cluster


def run(options: Namespace) -> int:
    """Run a study, or continue it; return the exit status."""
    from loopscope.reports.study.page import write_report
    from loopscope.reports.terminal import StudyDisplay, records_table
    from loopscope.studies import StudyFolder, read_plan, run_study

    plan = read_plan(Path(options.config))
    folder = StudyFolder(Path(options.out or Path("studies") / plan.name))
    limit = None if options.time_limit is None else parse_duration(options.time_limit)
    with _machines(options.ray, plan, folder) as machines, StudyDisplay(console, plan) as display:
        outcome = run_study(plan, folder, options.workers, limit, options.retry_failed, display.show, machines)
    if outcome.records:
        show(records_table(plan, outcome.records))
        write_report(plan, folder, outcome.records)
        say(f"report: {folder.report}")
    if outcome.unfinished:
        stopped = outcome.stopped or "a signal to its runs"
        say(f"stopped by {stopped}; {len(outcome.unfinished)} runs left: give the same command again to continue")
        return RESUMABLE
    return 1 if any(record.status == "failed" for record in outcome.records.values()) else 0


COMMAND = Command(make_parser, run)
