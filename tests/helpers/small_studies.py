"""A small study, machines that do it in this process, and what it found."""

import io
import json
import signal
import warnings
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from types import SimpleNamespace
from unittest import mock

import yaml

from loopscope.studies import StudyFolder
from loopscope.studies.processes import News
from loopscope.studies.worker import usual_stages, work_through

TINY = {
    "name": "tiny",
    "task": "prefix-sums",
    "data": {"train_bits": 8, "test_bits": [8, 16], "strings": 60, "test_strings": 20},
    "model": {"width": 16, "heads": 2},
    "training": {"steps": 12, "batch_size": 8, "max_iterations": 4, "compile": False, "checkpoint_interval": 3},
    "evaluation": {"iterations": 12, "examples": 10},
    "examination": {"effort": "quick", "examples": 6, "iterations": 40},
    "grid": {"model.norm": ["outer"], "training.learning_rate": [1e-3, 1e30]},
    "also": [{"model.architecture": "fixed-depth", "model.recall": "none", "model.blocks": 2}],
    "workers": 1,
}


def written(path, **changes):
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    return path


def outcomes(folder):
    """Return what a study found, apart from the time it took."""
    found = {}
    for name, record in StudyFolder(folder).ledger.records().items():
        examination = dict(record.examination or {})
        examination.pop("seconds", None)
        found[name] = (record.status, record.evaluation, examination)
    return found


class Here:
    """Machines that do a run at once, in this process: what a worker process does takes less time than its start."""

    def room(self, threads):
        return None

    def start(self, job):
        stages = getattr(import_module(job.module), "stages", usual_stages)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
            status = work_through(job.arguments, stages)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        last = json.loads(printed.getvalue().splitlines()[-1]) if printed.getvalue() else {}
        news = News("ended", status, error=last.get("error"))
        return SimpleNamespace(poll=lambda: news, ask_to_stop=lambda: None, kill=lambda: None)


@contextmanager
def runs_here():
    """Let studies on this machine do their runs in this process."""
    with mock.patch("loopscope.studies.runner.ThisMachine", Here):
        yield
