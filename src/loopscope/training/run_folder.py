"""The folder of a run: config.yaml, metrics.jsonl, model/, state/, pages, and measurements as JSON."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from loopscope import strict_yaml
from loopscope.errors import LoopscopeError
from loopscope.evaluation import AccuracyCurve
from loopscope.files import (
    check_path,
    drop_leftovers,
    make_folder,
    open_lock,
    read_json_as,
    read_yaml_mapping,
    vacant,
    write_text,
)
from loopscope.models.pretrained import CONFIG, WEIGHTS
from loopscope.parsing import dotted
from loopscope.training.precision import precision_here
from loopscope.training.settings import RunSettings, settings_from, with_precision

LOCK_POLL = 0.2


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Args:
        path: the folder.
    """

    path: Path

    def __post_init__(self) -> None:
        check_path(self.path)

    def parts(self) -> tuple[Path, ...]:
        """Return the files and folders that make up a run. No other result may overwrite them."""
        return (
            self.config,
            self.metrics,
            self.watch,
            self.model,
            self.state,
            self.evaluation,
            self.trust,
            self.examination,
            self.seconds,
            self.machines,
            self.log,
            self.locked,
        )

    @property
    def config(self) -> Path:
        """All settings of the run, resolved."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON line per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def watch(self) -> Path:
        """One JSON line per measurement of the watch."""
        return self.path / "watch.jsonl"

    @property
    def model(self) -> Path:
        """The trained model: config.json and model.safetensors."""
        return self.path / "model"

    @property
    def state(self) -> Path:
        """The newest checkpoint, from which a run resumes."""
        return self.path / "state"

    @property
    def evaluation(self) -> Path:
        """Accuracy against iterations."""
        return self.path / "evaluation.json"

    @property
    def trust(self) -> Path:
        """Evidence per example on how well signals separate right answers from wrong ones."""
        return self.path / "trust.json"

    @property
    def examination(self) -> Path:
        """The three axes of stability."""
        return self.path / "examination.json"

    @property
    def seconds(self) -> Path:
        """Time of each stage in a study, in seconds."""
        return self.path / "seconds.json"

    @property
    def machines(self) -> Path:
        """The machines on which a study trained the run."""
        return self.path / "machines.json"

    @property
    def log(self) -> Path:
        """Standard error of the run's process in a study."""
        return self.path / "log.txt"

    @property
    def locked(self) -> Path:
        """The lock file of the process that works on the run."""
        return self.path / ".lock"

    @property
    def report(self) -> Path:
        """The page of the run. It can be made again from the measurements, so it is not one of ``parts``."""
        return self.path / "report.html"

    @property
    def training_page(self) -> Path:
        """The page of the training. It can be made again from ``metrics`` and ``watch``, so it is not one of ``parts``."""
        return self.path / "training.html"

    def settings(self) -> RunSettings:
        """Read the run's settings.

        Raises:
            LoopscopeError: the folder holds no run, or its config is damaged.
        """
        if not self.config.is_file():
            raise LoopscopeError(
                f"{self.path} holds no run: expected {self.config.name} there; loopscope train makes a run"
            )
        return settings_from(read_yaml_mapping(self.config))

    def curves(self) -> dict[str, Any]:
        """Return the accuracy curves by split; empty if the run was not evaluated.

        Raises:
            LoopscopeError: the evaluation is damaged.
        """
        if not self.evaluation.exists():
            return {}
        found: dict[str, Any] = read_json_as(self.evaluation, _Evaluation, "remove it and evaluate again")["splits"]
        return found

    def finished(self) -> bool:
        """Return whether training has finished and the model is complete: its config and its weights."""
        return all((self.model / name).is_file() for name in (CONFIG, WEIGHTS))

    @contextmanager
    def lock(self, patience: float = 0.0) -> Iterator[None]:
        """Lock the folder for this process. The system releases the lock when the process ends for any reason.

        Args:
            patience: seconds to wait for another process to release the lock.

        Raises:
            LoopscopeError: another process still holds the lock.
        """
        file = open_lock(self.locked)
        try:
            deadline = time.monotonic() + patience
            while not _try_lock(file):
                if time.monotonic() >= deadline:
                    raise LoopscopeError(f"{self.path} is in use by another process: wait for it or stop it")
                time.sleep(LOCK_POLL)
            yield
        finally:
            file.close()


@dataclass(frozen=True)
class _Evaluation:
    """The content of evaluation.json."""

    settings: dict[str, Any]
    splits: dict[str, AccuracyCurve]


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_run(path: Path, settings: RunSettings, resume: bool) -> RunFolder:
    """Make the folder of a run, or open it again to resume.

    The precision "auto" is resolved here once. A run that resumes on another machine keeps the resolved precision.

    Raises:
        LoopscopeError: the folder holds a run and ``resume`` is false, or a run with other settings.
    """
    run = RunFolder(path)
    if run.config.is_file():
        if not resume:
            raise LoopscopeError(f"{path} already holds a run: add --resume to continue it, or choose another folder")
        stored = run.settings()
        if (asked := with_precision(settings, stored.training.precision)) != stored:
            now, then = dotted(asked.to_dict()), dotted(stored.to_dict())
            names = [name for name in {**then, **now} if now.get(name) != then.get(name)]
            differing = ", ".join(f"{name} {then.get(name)}, not {now.get(name)}" for name in names)
            raise LoopscopeError(f"{path} holds a run with other settings ({differing}): resume with the same ones")
        return run
    if not vacant(run.config):
        raise LoopscopeError(f"{path} is not empty and holds no run: choose another folder")
    make_folder(path)
    drop_leftovers(run.config)
    decided = with_precision(settings, precision_here("auto"))
    write_text(run.config, strict_yaml.dump(decided.to_dict()))
    return run
