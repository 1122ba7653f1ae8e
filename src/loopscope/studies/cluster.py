"""The machines of a Ray cluster. An actor starts the worker process of each run, on the machine that Ray picks.

Ray decides where a run goes and reports when a machine is lost. Training, files and resuming work as on one machine. All
machines must see the study's folder under the same path, because the files of a run are read and written where it runs.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from loopscope.errors import LoopscopeError
from loopscope.extras import check_installed
from loopscope.files import explain_write, make_folder
from loopscope.studies import processes
from loopscope.studies.processes import Job, News, WorkerProcess

FORMS = "expected HOST:PORT, as `ray start --head` prints it, or auto for the cluster that this machine is part of"
PORT_PATIENCE = 3.0
"""Seconds within which the port of a cluster must answer."""
CLUSTER_PATIENCE = 20.0
"""Seconds within which a cluster must accept this machine. Ray itself would try for two minutes."""
MACHINE_PATIENCE = 60.0
"""Seconds within which every machine must report what it sees."""
SAME = ("loopscope", "torch")
"""Packages whose versions must be the same on every machine."""
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
_TRY = f"""
import ray, sys
try:
    ray.init(sys.argv[1], **{QUIET!r})
except Exception as error:
    sys.exit(" ".join(str(error).split()))
"""


@dataclass(frozen=True)
class _Expected:
    """What a machine must have before it may do a run.

    Args:
        mark: a file in the study's folder with a new name, so that no cache of a file system answers for it.
        versions: versions of the packages in ``SAME``; None for a package that is not installed.
    """

    mark: str
    versions: Mapping[str, str | None]


def _versions(names: tuple[str, ...]) -> dict[str, str | None]:
    """Return the versions of packages, without the part after + that names the platform of a build."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _objection(expected: _Expected) -> str | None:
    """Return why the machine that executes this may not do a run, or None."""
    machine = socket.gethostname()
    folder = os.path.dirname(expected.mark)
    if not os.path.exists(expected.mark):
        return (
            f"the machine {machine} of the Ray cluster does not see {folder}: "
            "put the study on a file system that all machines share (--out), under the same path"
        )
    for name, theirs in _versions(tuple(expected.versions)).items():
        if theirs != (ours := expected.versions[name]):
            return (
                f"the machine {machine} of the Ray cluster has {name} {theirs or 'not installed'}, this one "
                f"{ours or 'not installed'}: install the same version on every machine, for the Python that runs Ray"
            )
    return None


class _WorkerActor:
    """An actor on some machine of the cluster, which starts a worker process there and reports on it."""

    def __init__(self) -> None:
        self.process: WorkerProcess | None = None

    def start(self, job: Job, expected: _Expected) -> str | None:
        """Start the process; return why it cannot be started, or None."""
        if (objection := _objection(expected)) is not None:
            return objection
        try:
            self.process = WorkerProcess(job)
        except OSError as error:
            return f"the machine {socket.gethostname()} of the Ray cluster cannot start a run: {error}"
        return None

    def poll(self) -> tuple[Any, ...]:
        """Return the parts of its news as plain values, because the class was sent by value and differs on the other side."""
        assert self.process is not None
        news = self.process.poll()
        return (news.state, news.status, news.progress, news.error)

    def ask_to_stop(self) -> None:
        """Ask the process to stop."""
        assert self.process is not None
        self.process.ask_to_stop()


class _RemoteProcess:
    """A worker process on another machine, as the study sees it."""

    def __init__(self, ray: Any, seat: Any, job: Job, expected: _Expected) -> None:
        self._ray = ray
        self._seat = seat
        self._answer = seat.start.remote(job, expected)
        self._news = News("waiting")

    def poll(self) -> News:
        """Return what is known so far, without waiting.

        Raises:
            LoopscopeError: the machine may not do runs.
        """
        if self._news.state in ("ended", "lost") or not self._ray.wait([self._answer], timeout=0)[0]:
            return self._news
        self._news = self._latest()
        if self._news.state == "ended":
            self.kill()  # its place is free for another run
        elif self._news.state != "lost":
            self._answer = self._seat.poll.remote()
        return self._news

    def _latest(self) -> News:
        try:
            answer = self._ray.get(self._answer)
        except self._ray.exceptions.ActorUnavailableError:
            return self._news  # Ray is not sure yet: the actor may answer again or be found dead
        except self._ray.exceptions.RayActorError:
            return News("lost")
        if self._news.state != "waiting":
            return News(*answer)
        if answer is not None:
            raise LoopscopeError(answer)
        return News("running")

    def ask_to_stop(self) -> None:
        """Ask the process to save a checkpoint and end. A process that has not started will not start."""
        if self._news.state == "waiting":
            self.kill()
            self._news = News("ended", -signal.SIGTERM)
        else:
            self._seat.ask_to_stop.remote()

    def kill(self) -> None:
        """End the process at once. It ends with its actor, at the latest when it finds that nobody reads its output."""
        self._ray.kill(self._seat)


class Cluster:
    """The machines of a Ray cluster that this process has joined."""

    def __init__(self, ray: Any, expected: _Expected) -> None:
        self._ray = ray
        self._expected = expected
        self._seat = ray.remote(_WorkerActor)

    def machines(self) -> list[dict[str, Any]]:
        """Return what Ray reports about each machine that is alive."""
        return [node for node in self._ray.nodes() if node["Alive"]]

    def room(self, threads: int) -> int:
        """Return how many processes of ``threads`` threads the CPUs of the machines allow.

        It is at least one. If no machine is free, that process waits for one.
        """
        return max(1, sum(_cpus(node) // threads for node in self.machines()))

    def start(self, job: Job) -> _RemoteProcess:
        """Start a worker process on the machine that Ray picks."""
        seat = self._seat.options(num_cpus=job.threads, max_restarts=0, scheduling_strategy="SPREAD").remote()
        return _RemoteProcess(self._ray, seat, job, self._expected)

    def check(self, threads: int) -> None:
        """Refuse a cluster that cannot do runs of ``threads`` threads.

        Raises:
            LoopscopeError: no machine has that many CPUs, or one that does lacks the folder or the same packages.
        """
        most = max((_cpus(node) for node in self.machines()), default=0)
        if most < threads:
            raise LoopscopeError(
                f"a run of the study takes {threads} threads, and no machine of the Ray cluster has more than {most} CPUs: "
                "lower training.threads, or add a machine"
            )
        place = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        ask = self._ray.remote(_objection)
        answers = [
            ask.options(num_cpus=0, max_retries=0, scheduling_strategy=place(node["NodeID"], soft=False)).remote(
                self._expected
            )
            for node in self.machines()
            if _cpus(node) >= threads
        ]
        try:
            for objection in self._ray.get(answers, timeout=MACHINE_PATIENCE):
                if objection is not None:
                    raise LoopscopeError(objection)
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())
            raise LoopscopeError(f"a machine of the Ray cluster did not report what it sees: {reason}") from error


def _cpus(node: Mapping[str, Any]) -> int:
    return int(node["Resources"].get("CPU", 0))


def _check_address(address: str) -> None:
    """Refuse an address without a cluster, within seconds.

    Raises:
        LoopscopeError: the address has an unknown form, or no cluster answers there.
    """
    given = re.fullmatch(r"(?P<host>[A-Za-z0-9_.-]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})", address)
    if address != "auto" and given is None:
        raise LoopscopeError(f"--ray is {address!r}, {FORMS}")
    if given is not None:
        try:
            socket.create_connection((given["host"].strip("[]"), int(given["port"])), PORT_PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise LoopscopeError(f"no Ray cluster answers at {address} ({error}); {FORMS}") from error
    # In a process of its own: if nothing answers properly, Ray waits for minutes and then ends the process.
    try:
        tried = subprocess.run([sys.executable, "-c", _TRY, address], capture_output=True, timeout=CLUSTER_PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise LoopscopeError(
            f"no Ray cluster accepted this machine at {address} within {CLUSTER_PATIENCE:.0f} seconds: make it part of the "
            "cluster first (`ray start --address`)"
        ) from error
    if tried.returncode != 0:
        lines = [line for line in tried.stderr.decode(errors="replace").splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"status {tried.returncode}"
        raise LoopscopeError(f"cannot join the Ray cluster at {address}: {reason}")


@contextmanager
def join_cluster(address: str, folder: Path, threads: int) -> Iterator[Cluster]:
    """Join a Ray cluster for a study; leave it at the end.

    Args:
        address: HOST:PORT of its head, or "auto" for the cluster that this machine is part of or that RAY_ADDRESS names.
        folder: the study's folder, which all machines see under the same path.
        threads: the largest number of threads of a run.

    Raises:
        LoopscopeError: Ray is not installed, no cluster answers, or a machine may not do the study's runs.
    """
    check_installed("ray", "a study on several machines")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported
    _check_address(address)
    import ray
    import ray.util.scheduling_strategies

    # No setting keeps Ray from writing about a dead machine to the study's standard output.
    ray._private.worker.print_to_stdstream = lambda *words, **options: None
    # Sent by value, so that other machines need not import the package.
    for module in (processes, sys.modules[__name__]):
        ray.cloudpickle.register_pickle_by_value(module)
    mark = make_folder(folder.absolute()) / f".seen-{uuid.uuid4().hex}"
    ray.init(address, **QUIET)
    try:
        with explain_write(mark):
            mark.touch()
        cluster = Cluster(ray, _Expected(str(mark), _versions(SAME)))
        cluster.check(threads)
        yield cluster
    finally:
        mark.unlink(missing_ok=True)
        ray.shutdown()
