"""One run of a study in a process of its own: train, evaluate, examine, each stage skipped where it is done.

A study of prediction has two more stages: it examines in prediction mode too, and measures the rival signals. The parent
reads progress as JSON lines on standard output. The process stops cleanly, with a checkpoint, on SIGTERM, and when the
parent is gone.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from loopscope.errors import RESUMABLE, LoopscopeError
from loopscope.evaluation import batches, evaluate_split, to_json
from loopscope.files import read_json_if_any, write_json
from loopscope.stability import ExaminationConfig
from loopscope.studies.machine import note_machine
from loopscope.studies.signals import forecast_split, measure_further, measure_signals
from loopscope.subjects import (
    evaluation_of,
    evaluation_splits,
    examine_subject,
    from_run,
    on_split,
    trained,
    trained_for_evaluation,
)
from loopscope.tasks import Split
from loopscope.training.run_folder import RunFolder
from loopscope.training.settings import RunSettings
from loopscope.training.trainer import train

REPORT_EVERY = 0.5
ORPHAN_PATIENCE = 120.0
"""Seconds to wait for the worker of a killed study to notice that nobody reads from it any more."""


class StopRequested(Exception):
    """The run was asked to stop."""


@dataclass
class Reporter:
    """Sends progress to the parent, not too often, and notices when to stop."""

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
        """Report a part of a stage that cannot be resumed inside; stop there when asked."""
        self.send(done, total)
        if self._asked:
            raise StopRequested(self._asked)


def _evaluate(run: RunFolder, settings: RunSettings, splits: dict[str, Split], reporter: Reporter) -> None:
    """Evaluate split after split, saving each, so that a stop loses at most one."""
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


def _examine(run: RunFolder, config: ExaminationConfig, signals: bool, into: Path, reporter: Reporter) -> None:
    """Examine the model on the first inputs of the easy split; in a study of prediction, on those of forecasts."""
    subject = from_run(run.path)
    if signals:
        settings = run.settings()
        subject = on_split(subject.loop, settings, forecast_split(settings, config.examples))
    reporter.step(0, 1)
    examination = examine_subject(subject, config, lambda name: reporter.step(0, 1))
    write_json(into, examination.to_dict())
    reporter.send(1, 1)


def _measure(run: RunFolder, config: ExaminationConfig, reporter: Reporter) -> None:
    """Measure the rival signals on the inputs that the examination had."""
    settings, model = trained(run)
    reporter.step(0, 1)
    split = forecast_split(settings, config.examples)
    found = measure_signals(
        model, settings.data, split, settings.training.max_iterations, settings.evaluation.iterations, config.seed
    )
    found |= measure_further(model, settings.data, split, settings.training.max_iterations, config.seed)
    write_json(run.signals, {name: asdict(signal) for name, signal in found.items()})
    reporter.send(1, 1)


def run_stages(run: RunFolder, config: ExaminationConfig | None, signals: bool, reporter: Reporter) -> None:
    """Do what is left of a run.

    Args:
        run: the run's folder, with its settings.
        config: how the model is examined; None if it is not.
        signals: whether the study is one of prediction (see ``StudyPlan``).
        reporter: tells the parent, and when to stop.

    Raises:
        StopRequested: it was asked to stop; a later call goes on.
        LoopscopeError: it cannot be done; the message says why.
    """
    settings = run.settings()
    torch.set_num_threads(settings.training.threads)
    seconds: dict[str, float] = read_json_if_any(run.seconds, dict[str, float], absent={})

    def timed(stage: str, needed: bool, work: Callable[[], None]) -> None:
        if not needed:
            return
        reporter.stage = stage
        began = time.monotonic()
        try:
            work()
        finally:
            seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - began, 2)
            write_json(run.seconds, seconds)

    def do_train() -> None:
        note_machine(run)
        total = settings.training.steps
        reporter.send(0, total)
        outcome = train(settings, run, lambda done, loss: reporter.send(done, total, loss=loss), reporter.reason)
        if outcome.stopped:
            raise StopRequested(outcome.stopped)

    splits = evaluation_splits(settings)
    evaluated = splits.keys() == run.curves().keys()
    looped = settings.model.architecture == "looped"
    if config is not None and signals and looped and not run.finished():
        forecast_split(settings, config.examples)  # too few problems are refused here, not after hours of training
    timed("train", not run.finished(), do_train)
    timed("evaluate", not evaluated, lambda: _evaluate(run, settings, splits, reporter))
    if config is None:
        return
    timed(
        "examine",
        looped and not run.examination.exists(),
        lambda: _examine(run, config, signals, run.examination, reporter),
    )
    ahead = replace(config, prediction=True)
    timed(
        "forecast",
        looped and signals and not run.forecast.exists(),
        lambda: _examine(run, ahead, signals, run.forecast, reporter),
    )
    timed("signals", looped and signals and not run.signals.exists(), lambda: _measure(run, config, reporter))


def main(arguments: list[str]) -> int:
    """Run the stages of the run in a folder; the second argument says what is measured, as JSON."""
    # The parent shows what matters; library warnings go to the run's log through standard error.
    warnings.simplefilter("default")
    run = RunFolder(Path(arguments[0]))
    measured = json.loads(arguments[1])
    config = None if measured["examination"] is None else ExaminationConfig(**measured["examination"])
    reporter = Reporter()
    signal.signal(signal.SIGTERM, reporter.ask_to_stop)
    signal.signal(signal.SIGINT, reporter.ask_to_stop)
    try:
        with run.lock(patience=ORPHAN_PATIENCE):
            run_stages(run, config, measured["signals"], reporter)
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
    sys.exit(main(sys.argv[1:]))
