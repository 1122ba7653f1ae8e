"""One run of a study in a process of its own: a list of stages, each of which is skipped if its result exists.

The stages of this module train, evaluate and examine a model. A module that measures more of every model passes its own
list to ``work_through``, and its name to ``run_study``. The parent process reads progress as JSON lines from standard
output. The process stops cleanly, with a checkpoint, on SIGTERM, on SIGINT, and when the parent is gone.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from loopscope.errors import RESUMABLE, LoopscopeError
from loopscope.evaluation import batches, evaluate_split, to_json
from loopscope.files import read_json_if_any, write_json
from loopscope.stability import ExaminationConfig
from loopscope.studies.machine import note_machine
from loopscope.subjects import (
    Subject,
    evaluation_of,
    evaluation_splits,
    examine_subject,
    from_run,
    trained_for_evaluation,
)
from loopscope.training.checkpoints import steps_done
from loopscope.training.run_folder import RunFolder
from loopscope.training.trainer import train

REPORT_EVERY = 0.5
"""Seconds between two reports of progress."""
ORPHAN_PATIENCE = 120.0
"""Seconds to wait for the worker of a killed study to notice that nobody reads its output any more."""


class StopRequested(Exception):
    """The run was asked to stop."""


@dataclass
class Reporter:
    """Reports progress to the parent at a limited rate, and notices when to stop."""

    stage: str = "start"
    _asked: str | None = None
    _last: float = 0.0

    def ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal."""
        self._asked = signal.Signals(number).name

    def reason(self) -> str | None:
        """Return why to stop, or None."""
        return self._asked

    def send(self, done: int, total: int, **details: Any) -> None:
        """Report that ``done`` of ``total`` parts of the stage are done."""
        if time.monotonic() - self._last < REPORT_EVERY and done < total:
            return
        self._last = time.monotonic()
        try:
            print(json.dumps({"stage": self.stage, "done": done, "total": total, **details}), flush=True)
        except BrokenPipeError:
            # Nobody reads any more: the study was killed.
            self._asked = "the study's end"

    def step(self, done: int, total: int) -> None:
        """Report progress in a stage that cannot be resumed half-way, and stop there if asked to.

        Raises:
            StopRequested: the run was asked to stop.
        """
        self.send(done, total)
        if self._asked:
            raise StopRequested(self._asked)


@dataclass(frozen=True)
class Stage:
    """A part of the work on a run.

    Args:
        name: shown with the progress, and the key of its time in the run's ``seconds``.
        needed: whether the stage still has to be done. It is asked just before, after the earlier stages.
        work: does the stage. It reports through the reporter and may raise ``StopRequested``.
    """

    name: str
    needed: Callable[[], bool]
    work: Callable[[Reporter], None]


def is_looped(run: RunFolder) -> bool:
    """Return whether the model of a run has iterations, unlike a model of fixed depth."""
    return run.settings().model.architecture == "looped"


def train_stage(run: RunFolder) -> Stage:
    """Return the stage that trains a run's model."""

    def work(reporter: Reporter) -> None:
        note_machine(run)
        settings = run.settings()
        total = settings.training.steps
        reporter.send(steps_done(run.state), total)
        outcome = train(settings, run, lambda done, loss: reporter.send(done, total, loss=loss), reporter.reason)
        if outcome.stopped:
            raise StopRequested(outcome.stopped)

    return Stage("train", lambda: not run.finished(), work)


def evaluate_stage(run: RunFolder) -> Stage:
    """Return the stage that evaluates a run's model on every split of its task."""
    settings = run.settings()
    splits = evaluation_splits(settings)

    def work(reporter: Reporter) -> None:
        # Each split is saved when it is done, so that a stop costs one split at most.
        _, model = trained_for_evaluation(run)
        curves = run.curves()
        config = evaluation_of(settings)
        per_split = [config.iterations * len(batches(split, config)) for split in splits.values()]
        total, done = sum(per_split), 0

        def tick() -> None:
            nonlocal done
            done += 1
            reporter.step(done, total)

        for (name, split), ticks in zip(splits.items(), per_split, strict=True):
            if name in curves:
                done += ticks
                continue
            curves.update(to_json({name: evaluate_split(model, settings.data, split, config, tick)}))
            write_json(run.evaluation, {"settings": settings.to_dict(), "splits": curves})

    return Stage("evaluate", lambda: splits.keys() != run.curves().keys(), work)


def examine_stage(
    run: RunFolder,
    config: ExaminationConfig,
    into: Path | None = None,
    subject: Callable[[], Subject] | None = None,
    name: str = "examine",
) -> Stage:
    """Return the stage that examines a run's model.

    Args:
        run: the run.
        config: the options of the examination.
        into: file for the examination; the run's own if None.
        subject: makes the loop and the inputs to examine; the model and its easy problems if None.
        name: name of the stage.
    """
    file = run.examination if into is None else into

    def work(reporter: Reporter) -> None:
        examined = from_run(run.path) if subject is None else subject()
        reporter.step(0, 1)
        examination = examine_subject(examined, config, lambda part: reporter.step(0, 1))
        write_json(file, examination.to_dict())
        reporter.send(1, 1)

    return Stage(name, lambda: is_looped(run) and not file.exists(), work)


def usual_stages(run: RunFolder, config: ExaminationConfig | None) -> list[Stage]:
    """Return the stages of a run: train, evaluate and, if the study examines its models, examine.

    Args:
        run: folder of the run, with its settings.
        config: options of the examination; None if models are not examined.
    """
    stages = [train_stage(run), evaluate_stage(run)]
    return stages if config is None else [*stages, examine_stage(run, config)]


def do_stages(run: RunFolder, stages: Sequence[Stage], reporter: Reporter) -> None:
    """Do the stages of a run that still have to be done, and note the time that each takes.

    Raises:
        StopRequested: the run was asked to stop; a later call continues.
        LoopscopeError: a stage cannot be done.
    """
    torch.set_num_threads(run.settings().training.threads)
    seconds: dict[str, float] = read_json_if_any(run.seconds, dict[str, float], absent={})
    for stage in stages:
        if not stage.needed():
            continue
        reporter.stage = stage.name
        began = time.monotonic()
        try:
            stage.work(reporter)
        finally:
            seconds[stage.name] = round(seconds.get(stage.name, 0.0) + time.monotonic() - began, 2)
            write_json(run.seconds, seconds)


def work_through(
    arguments: Sequence[str], stages: Callable[[RunFolder, ExaminationConfig | None], list[Stage]] = usual_stages
) -> int:
    """Do the work of a worker process; return its exit status.

    Args:
        arguments: folder of the run, and the options of the measurements as JSON, as ``run_study`` passes them.
        stages: returns the stages of a run.
    """
    # The parent shows what matters. Warnings of libraries go to the run's log through standard error.
    warnings.simplefilter("default")
    run = RunFolder(Path(arguments[0]))
    options = json.loads(arguments[1])["examination"]
    reporter = Reporter()
    signal.signal(signal.SIGTERM, reporter.ask_to_stop)
    signal.signal(signal.SIGINT, reporter.ask_to_stop)
    try:
        with run.lock(patience=ORPHAN_PATIENCE):
            do_stages(run, stages(run, None if options is None else ExaminationConfig(**options)), reporter)
    except StopRequested:
        return RESUMABLE
    except LoopscopeError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}), flush=True)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(work_through(sys.argv[1:]))
