"""Terminal output of the commands: progress with time left, and tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loopscope.evaluation import AccuracyCurve
from loopscope.progress import QUIET_INTERVAL, Lines, bar, duration
from loopscope.reports.kit.formats import DASH, percent
from loopscope.reports.study.table import RADIUS_NOTE, study_table
from loopscope.studies import Record, RunStatus, StudyPlan
from loopscope.tasks.data.report import DataReport

LEFT_TO_THE_PAGE = ("best %", "best at iteration", "training s")
"""Columns that are left out in a terminal of eighty characters."""
SHOWN_ITERATIONS = (1, 8, 16, 30, 60, 120, 250, 500, 1000)


@contextmanager
def train_progress(console: Console, steps: int, shown: bool = True) -> Iterator[Callable[[int, float], None]]:
    """Show training steps, loss and time left. Yield the callback for ``train``."""
    if not shown:
        yield lambda done, loss: None
        return
    with bar("train", steps, console=console) as update:
        yield lambda done, loss: update(completed=done, note=f"loss {loss:.3f}")


@contextmanager
def iteration_progress(console: Console, label: str, total: int) -> Iterator[Callable[[], None]]:
    """Show iterations and time left. Yield the callback for ``evaluate``."""
    with bar(label, total, console=console) as update:
        yield lambda: update(advance=1)


@contextmanager
def part_progress(console: Console, label: str) -> Iterator[Callable[[str], None]]:
    """Show the current part of an examination. Yield the callback for ``examine``."""
    if not console.is_terminal:
        yield Lines(console, label, None).part
        return
    with console.status(label) as status:
        yield lambda part: status.update(f"{label}: {part}")


def curves_table(title: str, curves: Mapping[str, AccuracyCurve], trained_iterations: int) -> Table:
    """Return a table of accuracy at some iterations, best accuracy and solved-then-broken of each split, in percent."""
    longest = max(len(curve.answer_accuracy) for curve in curves.values())
    shown = [i for i in SHOWN_ITERATIONS if i < longest] + [longest]
    # Narrow gaps let the name of a split and ten numbers fit into eighty columns.
    table = Table(
        title=title,
        caption=f"% of answers right after each number of iterations; trained with at most {trained_iterations}. best: the highest "
        "accuracy; at: the first iteration with it; broken: right at some iteration and wrong at the last.",
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("split", no_wrap=True)
    for i in shown:
        table.add_column(str(i), justify="right")
    for name in ("best", "at", "broken"):
        table.add_column(name, justify="right", style="bold" if name == "best" else "")
    for name, curve in curves.items():
        accuracies = [percent(curve.answer_accuracy[i - 1]) for i in shown if i <= len(curve.answer_accuracy)]
        padding = [DASH] * (len(shown) - len(accuracies))
        summary = [
            percent(curve.best),
            str(curve.best_iteration) if curve.best else DASH,
            percent(curve.solved_then_broken),
        ]
        table.add_row(name, *accuracies, *padding, *summary)
    return table


def answers_table(curves: Mapping[str, AccuracyCurve]) -> Table:
    """Return a table of how many examples of each split settled, how many of these are right, and when answers were final."""
    settled = [curve.settled for curve in curves.values()]
    tolerance = next((one.tolerance for one in settled if one is not None), None)
    table = Table(
        caption="settled: "
        + (
            "not measured"
            if tolerance is None
            else f"a relative residual of at most {tolerance:g} at the last iteration"
        )
        + "; final: the iteration by which 50, 90 and 100% of the answers never change again",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("split", no_wrap=True)
    for heading in ("settled", "of these right", "final 50%", "90%", "100%"):
        table.add_column(heading, justify="right")
    for name, curve in curves.items():
        found, final = curve.settled, curve.final
        shown = [DASH] * 2
        if found is not None:
            share = f" ({percent(found.right / found.examples)}%)" if found.examples else ""
            shown = [f"{found.examples} of {curve.examples}", f"{found.right}{share}"]
        times = (None, None, None) if final is None else (final.half, final.nine_tenths, final.all)
        table.add_row(name, *shown, *(DASH if at is None else f"{at:.0f}" for at in times))
    return table


def records_table(plan: StudyPlan, records: Mapping[str, Record]) -> Table:
    """Return a table with one row per run of a study, including failed runs."""
    # Narrow gaps let the table fit into eighty columns without truncated numbers.
    table = Table(
        title=plan.title,
        caption=f"% of answers right at the last iteration. {RADIUS_NOTE}.",
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    columns, rows = study_table(records[run.name] for run in plan.runs if run.name in records)
    shown = [place for place, column in enumerate(columns) if column not in LEFT_TO_THE_PAGE]
    for place in shown:
        column = columns[place]
        words = column in ("run", "verdict")
        heading = column if column == "arrived %" else column.removesuffix(" %")  # the caption says % of the splits
        table.add_column(heading, justify="left" if words else "right", no_wrap=column == "run")
    for row in rows:
        # The reason for a failure was printed when it happened, and is too long for a cell.
        table.add_row(*("failed" if row[place].startswith("failed: ") else row[place] for place in shown))
    return table


class StudyDisplay:
    """The live view of a study, with one line per run: its stage, progress and time left.

    If the output is not a terminal, a line is printed every half minute and for each run that ends.
    """

    def __init__(self, console: Console, plan: StudyPlan) -> None:
        self.console = console
        self.plan = plan
        self.began = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._told: dict[str, str] = {}
        self._last = 0.0

    def __enter__(self) -> StudyDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, statuses: list[RunStatus]) -> None:
        """Show the status of every run."""
        if self._live is not None:
            self._live.update(self._view(statuses))
        for status in statuses:
            ended = status.state not in ("waiting", "running")
            if ended and self._told.get(status.name) != status.state:
                self._told[status.name] = status.state
                self.console.print(f"{status.name}: {status.state}{f': {status.error}' if status.error else ''}")
            elif not ended and self._told.get(status.name, "0") != str(status.losses):
                self._told[status.name] = str(status.losses)
                self.console.print(f"{status.name}: lost with its machine, continues from its checkpoint on another")
        if self._live is None and time.monotonic() - self._last > QUIET_INTERVAL:
            self._last = time.monotonic()
            running = ", ".join(_in_words(status) for status in statuses if status.state == "running")
            if running:
                self.console.print(f"[{duration(time.monotonic() - self.began)}] {running}", markup=False)

    def _view(self, statuses: list[RunStatus]) -> Group:
        over = sum(status.state in ("finished", "failed", "done before") for status in statuses)
        head = f"{self.plan.title}: {over} of {len(statuses)} runs done, {duration(time.monotonic() - self.began)}"
        table = Table.grid(padding=(0, 1))
        for status in statuses:
            if status.state == "running":
                left = status.seconds_left()
                table.add_row(
                    status.name,
                    status.stage or "starts",
                    ProgressBar(total=max(1, status.total), completed=status.done, width=24),
                    f"{status.done}/{status.total}" if status.total else "",
                    f"{duration(left)} left" if left is not None else "",
                    f"loss {status.details['loss']:.3f}" if "loss" in status.details else "",
                )
        return Group(Text(head, style="bold"), table)


def _in_words(status: RunStatus) -> str:
    left = status.seconds_left()
    loss = f" loss {status.details['loss']:.3f}" if "loss" in status.details else ""
    remaining = f", {duration(left)} left" if left is not None else ""
    return f"{status.name}: {status.stage or 'starts'} {status.done}/{status.total}{loss}{remaining}"


def data_tables(report: DataReport) -> list[Table]:
    """Return tables of a data set: its splits by difficulty, its sources, and its faults."""
    splits = Table(title=report.origin, caption="examples of each split, and how many of each difficulty")
    for name in ("split", "examples", "difficulty", "of it"):
        splits.add_column(name, justify="left" if name == "split" else "right")
    for name, count in report.splits.items():
        ranges = [(within, str(number)) for within, number in report.difficulty[name].items() if number]
        # One line per range, because the ranges side by side do not fit into eighty columns.
        for place, cells in enumerate(ranges):
            splits.add_row(
                *((name, str(count)) if place == 0 else ("", "")), *cells, end_section=place == len(ranges) - 1
            )
    sources = _counts_table("where the problems are from", report.sources)
    faults = {f"left out: {reason}": count for reason, count in report.rejects.items()} | {
        "the same problem or a copy in two splits": report.shared,
        "the same problem or a copy again in its split": report.repeated,
    }
    if report.failed is not None:
        faults |= {f"proof: {reason}": count for reason, count in report.failed.items()}
        faults |= {"proof failed": sum(report.failed.values())}
    tables = [splits, sources, _counts_table("what was left out, and what is wrong", faults)]
    return [table for table in tables if table.row_count]


def _counts_table(title: str, counts: Mapping[str, int]) -> Table:
    table = Table(title=title, show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for name, count in counts.items():
        table.add_row(name, str(count))
    return table
