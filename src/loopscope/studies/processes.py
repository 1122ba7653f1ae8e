"""The worker process of a run: the job it gets from a study, and the machine that starts it.

This module imports nothing of the package. Ray sends ``WorkerProcess`` to other machines by value, where importing the
package, and torch with it, would take the memory of each run twice.
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
    """Everything needed to start the worker process of a run.

    Args:
        module: module that the process runs, as ``python -m`` does.
        arguments: arguments of the module. Paths in them are absolute.
        log: file to which standard error is appended.
        threads: number of threads of the process.
        folder: working directory of the process. On a machine without that folder, processes start where they do.
        environment: variables that the process needs on every machine.
    """

    module: str
    arguments: tuple[str, ...]
    log: str
    threads: int
    folder: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class News:
    """The latest state of a worker process.

    Args:
        state: waiting for a machine, running, ended, or lost with its machine.
        status: exit status of a process that ended. A negative status is the signal that ended it.
        progress: its latest message about a stage.
        error: the reason for its failure, as it reported it.
    """

    state: Literal["waiting", "running", "ended", "lost"]
    status: int = 0
    progress: dict[str, Any] | None = None
    error: str | None = None


@runtime_checkable
class Process(Protocol):
    """A worker process on any machine."""

    def poll(self) -> News:
        """Return what is known so far, without waiting."""

    def ask_to_stop(self) -> None:
        """Ask the process to save a checkpoint and end."""

    def kill(self) -> None:
        """End the process at once."""


@runtime_checkable
class Machines(Protocol):
    """Where worker processes run."""

    def room(self, threads: int) -> int | None:
        """Return how many processes of ``threads`` threads have room, or None if that is unknown."""

    def start(self, job: Job) -> Process:
        """Start a worker process.

        Raises:
            OSError: the log cannot be written.
        """


class WorkerProcess:
    """A worker process on this machine, and the thread that reads its output.

    Raises:
        OSError: the log cannot be written.
    """

    def __init__(self, job: Job) -> None:
        threads = str(job.threads)
        with open(job.log, "a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", job.module, *job.arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
                cwd=job.folder if os.path.isdir(job.folder) else None,
                env={**os.environ, **job.environment, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                # An interrupt in the terminal reaches only the study, which asks the runs to stop.
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
        """Return what is known so far, without waiting."""
        status = self._process.poll()
        if status is None:
            return News("running", progress=self._progress)
        self._reader.join()
        return News("ended", status, self._progress, self._error)

    def ask_to_stop(self) -> None:
        """Ask the process to save a checkpoint and end."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()


class ThisMachine:
    """The machine that the study runs on. It starts as many processes as it is asked to."""

    def room(self, threads: int) -> None:
        """Return None: nothing limits the number of processes."""

    def start(self, job: Job) -> WorkerProcess:
        """Start a worker process."""
        return WorkerProcess(job)
