"""``loopscope data``: prepare a task's data, check them, and describe them."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from loopscope.cli.command import Command
from loopscope.cli.console import say, show
from loopscope.cli.places import asked_place
from loopscope.parsing import add_settings, new_parser
from loopscope.tasks import TASKS
from loopscope.tasks.registry import REPORTED, reporter_of


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser("Find, download or make a task's data, check every problem, and describe the data.")
    subcommands = parser.add_subcommands(dest="task", title="tasks")
    for name, task in TASKS.items():
        made = "" if name in REPORTED else ": made when needed, nothing to prepare"
        description = f"The data of the task {name}{made}."
        sub = new_parser(description)
        sub.add_argument(
            "--verify", action="store_true", help="Re-prove every answer instead of trusting the file's own columns."
        )
        sub.add_argument("--out", type=str | None, help="File to write the whole data set to.")
        add_settings(sub, task, "data")
        subcommands.add_subcommand(name, sub, help=description)
    return parser


def run(options: Namespace) -> int:
    """Prepare, check and describe the data of a task; return the exit status."""
    from loopscope.reports.terminal import data_tables

    given = options[options.task]
    out = None if given.out is None else asked_place(given.out)
    report = reporter_of(options.task)(given.data, given.verify, out)
    for table in data_tables(report):
        show(table)
    if out is not None:
        say(f"written: {out}")
    if not report.sound:
        say("these data have faults: see the last table")
    return 0 if report.sound else 1


COMMAND = Command(make_parser, run)
