"""The worker process of a run: what a study asks of it, and the machine that starts it.

Nothing of the package is imported here: Ray sends ``WorkerProcess`` as it stands to other machines, where importing the
package, and torch with it, would take each run's memory twice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable


@dataclass(frozen=True)
class Job:
    """What starts a run's worker process.

    Args:
        arguments: those of ``python -m loopscope.studies.worker``; paths in them are absolute.
        log: the file to which standard error is added.
        threads: threads of the process.
        folder: where relative paths begin; where the machine has no such folder, wherever its processes start.
        environment: variables that the process needs, whatever machine it is on.
    """

    arguments: tuple[str, ...]
    log: str
    threads: int
    folder: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class News:
    """What is known of a worker process.

    Args:
        state: waiting for a machine, running, ended, or lost with its machine.
        status: the exit status of one that ended; below zero, the signal that ended it.
        progress: its latest message about a stage.
        error: what it said of why it failed.
    """

    state: Literal["waiting", "running", "ended", "lost"]
    status: int = 0
    progress: dict[str, Any] | None = None
    error: str | None = None


@runtime_checkable
class Process(Protocol):
    """A worker process, wherever it is."""

    def poll(self) -> News:
        """Return what is known by now, without waiting."""

    def ask_to_stop(self) -> None:
        """Ask it to save a checkpoint and end."""

    def kill(self) -> None:
        """End it at once."""


@runtime_checkable
class Machines(Protocol):
    """Where worker processes run."""

    def room(self, threads: int) -> int | None:
        """Return how many processes of so many threads find room, or None where nothing says so."""

    def start(self, job: Job) -> Process:
        """Start a worker process.

        Raises:
            OSError: its log cannot be written.
        """


class WorkerProcess:
    """A worker process of this machine, and the thread that reads from it.

    Raises:
        OSError: the log cannot be written.
    """

    def __init__(self, job: Job) -> None:
        threads = str(job.threads)
        with open(job.log, "a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "loopscope.studies.worker", *job.arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
                cwd=job.folder if os.path.isdir(job.folder) else None,
                env={**os.environ, **job.environment, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                # An interrupt in the terminal reaches the study alone, which asks the runs to stop.
                start_new_session=True,
            )
        self._progress: dict[str, Any] | None = None
        self._error: str | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                try:
                    message = json.loads(line)
                except json.JSONDecodeError:
                    continue  # a library printed something
                if not isinstance(message, dict):
                    continue
                if "error" in message:
                    self._error = message["error"]
                elif "stage" in message:
                    self._progress = message

    def poll(self) -> News:
        """Return what is known by now, without waiting."""
        status = self._process.poll()
        if status is None:
            return News("running", progress=self._progress)
        self._reader.join()
        return News("ended", status, self._progress, self._error)

    def ask_to_stop(self) -> None:
        """Ask it to save a checkpoint and end."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


class ThisMachine:
    """The machine that the study itself is on: it starts as many processes as it is asked to."""

    def room(self, threads: int) -> None:
        """Say nothing of how many processes find room."""

    def start(self, job: Job) -> WorkerProcess:
        """Start a worker process."""
        return WorkerProcess(job)
