"""Run a study in worker processes, with live progress and a ledger. Any interruption can be resumed."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from loopscope.errors import RESUMABLE, LoopscopeError, check_positive
from loopscope.files import check_path, explain_write, make_folder, read_json_as, read_json_if_any, write_json
from loopscope.parsing import dotted
from loopscope.progress import seconds_left
from loopscope.stability import Examination, ExaminationConfig
from loopscope.studies.ledger import Ledger, Record
from loopscope.studies.plan import PlannedRun, StudyPlan
from loopscope.studies.processes import Job, Machines, News, Process, ThisMachine
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.settings import RunSettings, settings_from, with_precision

WORKER = "loopscope.studies.worker"
"""Default module of the worker processes."""
POLL = 0.2
"""Seconds between two polls of the worker processes."""
GRACE = 20.0
"""Seconds before a time limit at which runs are asked to stop: enough for a step and a checkpoint."""
REPORT = 4.0
"""Seconds before a time limit at which runs that have not stopped are ended: enough to write the report."""
AGAIN = 1.0
"""Seconds after which another signal counts as a second request, since shells and `timeout` may send a signal twice."""
LOSSES = 3
"""Machines that a run may lose in one call. The last loss counts as the run's own fault, such as exhausted memory."""


@dataclass(frozen=True)
class StudyFolder:
    """The files of a study.

    Args:
        path: the study's folder.
    """

    path: Path

    def __post_init__(self) -> None:
        check_path(self.path)

    @property
    def ledger(self) -> Ledger:
        """The record of runs that ended."""
        return Ledger(self.path / "ledger.jsonl")

    @property
    def measured(self) -> Path:
        """The options by which the study's models are examined."""
        return self.path / "measured.json"

    @property
    def report(self) -> Path:
        """The study's page."""
        return self.path / "report.html"

    def run(self, name: str) -> RunFolder:
        """Return the folder of a run."""
        return RunFolder(self.path / "runs" / name)


@dataclass
class RunStatus:
    """Status of a run, for a display.

    Args:
        name: the run's name.
        state: waiting, running, or how the run ended.
        stage: the stage under way, such as train, evaluate or examine.
        done: parts of the stage that are done.
        total: parts of the stage.
        details: further figures, such as the loss.
        began: when the stage began, on the monotonic clock, and how many parts were done then.
        error: why the run failed.
        losses: how often the run's machine was lost.
    """

    name: str
    state: Literal["waiting", "running", "finished", "failed", "stopped", "done before"] = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    began: tuple[float, int] = (0.0, 0)
    error: str | None = None
    losses: int = 0

    def hear(self, news: News) -> None:
        """Update the status with the latest news of the worker."""
        if news.state == "running":
            self.state = "running"
        elif news.state == "lost":
            self.state, self.stage, self.losses = "waiting", "", self.losses + 1
        if news.progress is not None:
            self._update(news.progress)

    def _update(self, message: dict[str, Any]) -> None:
        if message["stage"] != self.stage:
            self.began = (time.monotonic(), message["done"])
        self.stage, self.done, self.total = message["stage"], message["done"], message["total"]
        self.details = {key: value for key, value in message.items() if key not in ("stage", "done", "total")}

    def seconds_left(self) -> float | None:
        """Return the time that the stage still needs at its pace so far, or None before a part is done."""
        began, done_then = self.began
        return seconds_left(time.monotonic() - began, self.done - done_then, self.total - done_then)


@dataclass(frozen=True)
class _Worker:
    """A run under way: its worker process and its status."""

    planned: PlannedRun
    process: Process
    status: RunStatus


@dataclass(frozen=True)
class _Call:
    """The arguments of a call to ``run_study``."""

    plan: StudyPlan
    folder: StudyFolder
    workers: int | None
    time_limit: float | None
    show: Callable[[list[RunStatus]], None] | None
    machines: Machines
    worker: str

    def limit(self, threads: int) -> int:
        """Return how many runs of ``threads`` threads may be under way at once."""
        return self.workers or self.machines.room(threads) or self.plan.workers


class _Stop:
    """Decides when a study stops, and why.

    Args:
        time_limit: seconds from now, or None.
    """

    def __init__(self, time_limit: float | None) -> None:
        self._limit = math.inf if time_limit is None else time.monotonic() + time_limit
        self._signals: list[tuple[str, float]] = []

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal."""
        self._signals.append((signal.Signals(number).name, time.monotonic()))

    def reason(self) -> str | None:
        """Return why runs should stop, or None."""
        if self._signals:
            return self._signals[0][0]
        return "the time limit" if time.monotonic() > self._limit - GRACE else None

    def at_once(self) -> bool:
        """Return whether to end the runs that have not stopped yet."""
        asked_again = bool(self._signals) and self._signals[-1][1] - self._signals[0][1] > AGAIN
        return asked_again or time.monotonic() > self._limit - REPORT


@dataclass(frozen=True)
class StudyOutcome:
    """How a call to ``run_study`` ended.

    Args:
        records: the latest record of each run that ended.
        unfinished: names of the runs that are still to be done.
        stopped: why the study stopped early, or None.
    """

    records: dict[str, Record]
    unfinished: list[str]
    stopped: str | None


def _measured(plan: StudyPlan) -> dict[str, Any]:
    """Return the options by which models are examined, as plain values."""
    return {"examination": None if plan.examination is None else asdict(plan.examination)}


def _check_measured(plan: StudyPlan, folder: StudyFolder) -> None:
    """Refuse to mix models that were examined in different ways, and note how these are examined.

    Raises:
        LoopscopeError: the folder holds examinations by other options than the plan's.
    """
    asked = _measured(plan)
    if folder.measured.is_file() and any((folder.path / "runs").glob("*/examination.json")):
        # A note may be older than some options, which then had their defaults.
        before = dotted({"examination": asdict(ExaminationConfig())}) | dotted(read_json_as(folder.measured, dict))
        now = dotted(asked)
        if changed := [f"{name} {before.get(name)}" for name in now if before.get(name) != now[name]]:
            raise LoopscopeError(
                f"{folder.path} holds models that were measured with {', '.join(changed)}, but {plan.source} asks for other "
                "options: choose another --out, or, to measure these models again, remove ledger.jsonl there and the "
                "examination.json of each run"
            )
    write_json(folder.measured, asked)


def _job(plan: StudyPlan, run: RunFolder, planned: PlannedRun, worker: str) -> Job:
    path = run.path.absolute()
    return Job(
        module=worker,
        arguments=(str(path), json.dumps(_measured(plan))),
        log=str(run.log.absolute()),
        threads=planned.settings.training.threads,
        folder=os.getcwd(),
        environment={
            name: value for name, value in os.environ.items() if name == "PYTHONPATH" or name.startswith("LOOPSCOPE_")
        },
    )


def _start(call: _Call, planned: PlannedRun, status: RunStatus) -> _Worker:
    run = open_run(call.folder.run(planned.name).path, planned.settings, resume=True)
    job = _job(call.plan, run, planned, call.worker)
    with explain_write(Path(job.log)):
        process = call.machines.start(job)
    return _Worker(planned, process, status)


def _examination(path: Path) -> dict[str, Any] | None:
    """Return the examination in a file as plain values, or None if there is no such file."""
    return Examination.load(path).to_dict() if path.exists() else None


def record_of(folder: StudyFolder, planned: PlannedRun, error: str | None) -> Record:
    """Return the record of a run that ended, with what its folder holds. The run failed if there is an error.

    Raises:
        LoopscopeError: a file of the run is damaged.
    """
    run = folder.run(planned.name)
    return Record(
        run=planned.name,
        status="finished" if error is None else "failed",
        settings=run.settings().to_dict(),
        seconds=read_json_if_any(run.seconds, dict[str, float], absent={}),
        error=error,
        evaluation=run.curves() or None,
        examination=_examination(run.examination),
        machines=read_json_if_any(run.machines, list[str], absent=[]),
    )


def _failed(planned: PlannedRun, error: LoopscopeError) -> Record:
    """Return the record of a run whose folder cannot be opened or read, without anything from the folder."""
    return Record(
        planned.name, "failed", planned.settings.to_dict(), {}, error=f"{error}; --retry-failed does it again"
    )


def _held_settings(folder: StudyFolder, planned: PlannedRun, record: Record | None) -> RunSettings | None:
    """Return the settings of the run of that name that the study already holds, or None if it holds none."""
    if record is not None:
        # Parsed first: a ledger may be older than some settings, which then had their defaults.
        return settings_from(record.settings)
    try:
        return folder.run(planned.name).settings()
    except LoopscopeError:
        return None  # nothing is there, or it cannot be read, which opening it will report


def _already_done(folder: StudyFolder, plan: StudyPlan, retry_failed: bool) -> set[str]:
    """Return the names of the runs that are done.

    Raises:
        LoopscopeError: the folder holds a run of the same name with other settings.
    """
    records = folder.ledger.records()
    for run in plan.runs:
        held = _held_settings(folder, run, records.get(run.name))
        if held is not None and with_precision(run.settings, held.training.precision) != held:
            raise LoopscopeError(
                f"{folder.path} holds the run {run.name} with other settings than in {plan.source}: "
                "choose another --out, or give the study another name"
            )
    return {name for name, record in records.items() if record.status == "finished" or not retry_failed}


def run_study(
    plan: StudyPlan,
    folder: StudyFolder,
    workers: int | None = None,
    time_limit: float | None = None,
    retry_failed: bool = False,
    show: Callable[[list[RunStatus]], None] | None = None,
    machines: Machines | None = None,
    worker: str = WORKER,
) -> StudyOutcome:
    """Do all runs of a study that are not done yet.

    A run whose folder is blocked or damaged fails, and the others continue.

    Args:
        plan: the study.
        folder: folder of the study.
        workers: number of runs at once. If None, as many as the machines have room for, or the plan's number if that is
            unknown. Each run has the threads of its settings, so results do not depend on this number.
        time_limit: seconds within which to stop. Runs are asked to stop ``GRACE`` seconds before. A run that cannot stop,
            because it is in the middle of a long part of an examination, is ended and loses that part.
        retry_failed: whether to repeat runs that failed before.
        show: called several times a second with the status of every run.
        machines: where runs are done; on this machine if None. A run whose machine is lost continues on another, until
            it has lost ``LOSSES`` machines.
        worker: module that does a run, in a process of its own. Give one that calls ``worker.work_through`` with further
            stages to measure more of every model (see `loopscope.studies.worker`).

    Returns:
        The records, and why the study stopped early if it did: the time limit, or an interrupt (SIGINT or SIGTERM). A
        second interrupt ends the runs at once.

    Raises:
        LoopscopeError: the folder cannot be written, is in use, or holds runs of another study or runs that were
            examined with other options; ``workers`` is below 1; or a machine may not do runs.
    """
    if workers is not None:
        check_positive(workers=workers)
    make_folder(folder.path / "runs")
    with RunFolder(folder.path).lock():
        done = _already_done(folder, plan, retry_failed)
        _check_measured(plan, folder)
        statuses = {
            run.name: RunStatus(run.name, "done before" if run.name in done else "waiting") for run in plan.runs
        }
        call = _Call(plan, folder, workers, time_limit, show, machines or ThisMachine(), worker)
        stopped = _run_all(call, statuses)
    names = [run.name for run in plan.runs]
    records = {name: record for name, record in folder.ledger.records().items() if name in names}
    unfinished = [status.name for status in statuses.values() if status.state in ("waiting", "stopped")]
    return StudyOutcome(records, unfinished, stopped)


def _run_all(call: _Call, statuses: dict[str, RunStatus]) -> str | None:
    """Do the runs that are waiting; return why it stopped early, or None."""
    plan, folder = call.plan, call.folder
    stop = _Stop(call.time_limit)
    threads = max(run.settings.training.threads for run in plan.runs)
    previous = {number: signal.signal(number, stop.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    waiting = deque(run for run in plan.runs if statuses[run.name].state == "waiting")
    running: list[_Worker] = []
    asked: str | None = None
    try:
        while waiting or running:
            if asked is None and (asked := stop.reason()) is not None:
                for worker in running:
                    worker.process.ask_to_stop()
            while waiting and asked is None and len(running) < call.limit(threads):
                planned = waiting.popleft()
                try:
                    running.append(_start(call, planned, statuses[planned.name]))
                except LoopscopeError as error:
                    _note(folder, _failed(planned, error), statuses[planned.name])
            late = asked is not None and stop.at_once()
            for worker in list(running):
                news = worker.process.poll()
                worker.status.hear(news)
                if news.state in ("ended", "lost"):
                    running.remove(worker)
                    if _goes_on_elsewhere(worker.status, news):
                        waiting.appendleft(worker.planned)
                    else:
                        _finish(folder, worker, news)
                elif late:
                    worker.process.kill()
                    worker.status.state = "stopped"
                    running.remove(worker)
            if call.show is not None:
                call.show(list(statuses.values()))
            if running:
                time.sleep(POLL)
            elif asked is not None:
                break
    finally:
        for worker in running:
            worker.process.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return asked


def _goes_on_elsewhere(status: RunStatus, news: News) -> bool:
    return news.state == "lost" and status.losses < LOSSES


def _why_failed(worker: _Worker, news: News) -> str | None:
    """Return why a run failed, in one line that is the same on every machine, or None if it finished."""
    if news.state == "lost":
        return (
            f"its machine, or the Ray worker there, died {worker.status.losses} times while it ran; "
            "--retry-failed does it again"
        )
    if news.status == 0:
        return None
    return news.error or f"the process ended with status {news.status}"


def _finish(folder: StudyFolder, worker: _Worker, news: News) -> None:
    # -SIGTERM: the signal came while the process was still importing, before it could handle it.
    if news.state == "ended" and news.status in (RESUMABLE, -signal.SIGTERM):
        worker.status.state = "stopped"
        return
    why = _why_failed(worker, news)
    try:
        record = record_of(folder, worker.planned, why)
    except LoopscopeError as error:
        record = _failed(worker.planned, error)
    _note(folder, record, worker.status)
    if why is not None and news.error is None:
        worker.status.error = f"{record.error}; see {folder.run(worker.planned.name).log}"


def _note(folder: StudyFolder, record: Record, status: RunStatus) -> None:
    folder.ledger.append(record)
    status.state, status.error = record.status, record.error
