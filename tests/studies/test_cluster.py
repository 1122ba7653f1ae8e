"""Studies on several machines: a real Ray cluster on this one, whose nodes and drivers are killed; and its refusals."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest
from commands import refusal
from small_studies import TINY, Here, outcomes, written

from loopscope.errors import LoopscopeError
from loopscope.studies import StudyFolder, cluster, read_plan, run_study
from loopscope.studies.processes import News

PLAN = {
    "training": {**TINY["training"], "steps": 60},
    "grid": {"model.norm": ["outer", "pre"], "training.learning_rate": [1e-3]},
    "also": [],
}
FIRST = "outer-learning-rate0.001"
PATIENCE = 120.0


def until(found, patience=PATIENCE):
    """Return what ``found`` finds, as soon as that is something."""
    deadline = time.monotonic() + patience
    while not (value := found()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.2)
    return value


def processes():
    """Return the parent and the command of every process, by id."""
    command = ["ps", "-ww", "-eo", "pid,ppid,args"]  # -ww: long commands are not cut
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()[1:]]
    return {int(pid): (int(parent), command) for pid, parent, command in rows}


def worker_of(run):
    """Return the id of the process that does a run, or None."""
    found = [pid for pid, (_, command) in processes().items() if "studies.worker" in command and str(run) in command]
    return found[0] if found else None


def ancestors(pid):
    listed = processes()
    while pid in listed:
        yield pid
        pid = listed[pid][0]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What the study finds without Ray."""
    folder = tmp_path_factory.mktemp("reference")
    plan = read_plan(written(folder / "tiny.yaml", **PLAN))
    run_study(plan, StudyFolder(folder / "out"), machines=Here())
    return outcomes(folder / "out")


@pytest.fixture(scope="module")
def nodes():
    """A head that does no runs, and two workers with one CPU each, of which a test may kill one."""
    pytest.importorskip("ray", reason='needs pip install "loopscope[cluster]"')
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray._private.utils import get_ray_address_file
    from ray.cluster_utils import Cluster

    # A short path: Ray's sockets are in it, and the names of sockets may have a hundred letters.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    # Wherever a cluster lives, Ray writes its address there, and does not make the folder on a machine that never ran it.
    Path(get_ray_address_file(None)).parent.mkdir(exist_ok=True)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": folder})
    made.add_node(num_cpus=1)
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def started(plan, out, address):
    """Start a study on a cluster, which ends with the test at the latest."""
    command = [sys.executable, "-m", "loopscope.cli", "study", str(plan), "--out", str(out), "--ray", address]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with subprocess.Popen(command, env=environment, stdout=PIPE, stderr=subprocess.STDOUT, text=True) as study:
        try:
            yield study
        finally:
            study.kill()


def under_way(out):
    """Return a run that has a checkpoint and the id of its worker, or None."""
    for checkpoint in out.glob("runs/*/state/step-*"):
        run = checkpoint.parent.parent
        if (worker := worker_of(run)) is not None:
            return run, worker
    return None


@pytest.mark.timeout(300)
def test_a_study_that_loses_a_machine_finds_what_one_machine_finds(nodes, reference, tmp_path):
    out = tmp_path / "out"
    with started(written(tmp_path / "tiny.yaml", **PLAN), out, nodes.address) as study:
        run, worker = until(lambda: under_way(out))
        above = set(ancestors(worker))
        (node,) = [node for node in nodes.worker_nodes if node.all_processes["raylet"][0].process.pid in above]
        nodes.remove_node(node, allow_graceful=False)  # kill -9
        said, _ = study.communicate(timeout=PATIENCE)
    assert study.returncode == 0, said
    assert f"{run.name}: lost with its machine" in said
    assert "raylet" not in said
    assert outcomes(out) == reference
    assert len(StudyFolder(out).ledger.path.read_text().splitlines()) == len(reference)
    assert not list(out.glob(".seen-*"))


@pytest.mark.timeout(300)
def test_a_killed_study_leaves_no_worker_and_goes_on(nodes, reference, tmp_path):
    out = tmp_path / "out"
    plan = written(tmp_path / "tiny.yaml", **{**PLAN, "grid": {**PLAN["grid"], "model.norm": ["outer"]}})
    with started(plan, out, nodes.address) as study:
        until(lambda: under_way(out))
        study.send_signal(signal.SIGKILL)
    until(lambda: worker_of(out) is None)
    assert outcomes(out) == {}
    with started(plan, out, nodes.address) as study:
        said, _ = study.communicate(timeout=PATIENCE)
    assert study.returncode == 0, said
    assert outcomes(out) == {FIRST: reference[FIRST]}


class Losing:
    """Machines that lose the process that they run some times, and then have it fail."""

    def __init__(self, losses):
        self.losses = losses
        self.jobs = []

    def room(self, threads):
        return 1

    def start(self, job):
        self.jobs.append(job)
        lost = len(self.jobs) <= self.losses
        news = News("lost") if lost else News("ended", 1, error="as agreed")
        return SimpleNamespace(poll=lambda: news, ask_to_stop=lambda: None, kill=lambda: None)


@pytest.mark.parametrize(
    ("losses", "started", "said"), [(2, 3, "as agreed"), (5, 3, "died 3 times while it ran"), (0, 1, "as agreed")]
)
def test_a_run_may_lose_its_machine_twice(tmp_path, losses, started, said):
    plan = read_plan(written(tmp_path / "tiny.yaml", grid={"model.norm": ["outer"]}, also=[]))
    machines = Losing(losses)
    outcome = run_study(plan, StudyFolder(tmp_path / "out"), machines=machines)
    (record,) = outcome.records.values()
    assert len(machines.jobs) == started
    assert record.status == "failed"
    assert said in record.error
    assert "\n" not in record.error


def cluster_of(*cpus):
    """Return a cluster of machines with so many CPUs, the first of which is gone."""
    machines = [{"Alive": place > 0, "Resources": {"CPU": float(number)}} for place, number in enumerate(cpus)]
    return cluster.Cluster(SimpleNamespace(nodes=lambda: machines, remote=lambda what: what), cluster._Expected("", {}))


@pytest.mark.parametrize(("threads", "room"), [(1, 8), (2, 3), (3, 2), (4, 1), (9, 1)])
def test_room_is_what_the_cpus_of_living_machines_allow(threads, room):
    assert cluster_of(16, 3, 5).room(threads) == room


def test_a_run_that_no_machine_can_do_is_refused():
    with pytest.raises(LoopscopeError, match="takes 6 threads, and no machine of the Ray cluster has more than 5 CPUs"):
        cluster_of(16, 3, 5).check(6)


def test_a_machine_that_does_not_see_the_study_or_has_another_torch_is_refused(tmp_path):
    here = cluster._versions(("torch",))
    mark = tmp_path / "mark"
    assert f"does not see {tmp_path}" in cluster._objection(cluster._Expected(str(mark), here))
    mark.touch()
    assert cluster._objection(cluster._Expected(str(mark), here)) is None
    other = cluster._objection(cluster._Expected(str(mark), {"torch": "1.0"}))
    assert f"has torch {here['torch']}, this one 1.0" in other


@pytest.mark.parametrize("address", ["local", "ray://127.0.0.1:10001", "127.0.0.1", "127.0.0.1:port", ""])
def test_an_address_of_another_form_is_refused(tmp_path, capsys, address):
    plan = written(tmp_path / "tiny.yaml")
    line = refusal(capsys, ["study", plan, "--out", tmp_path / "out", f"--ray={address}"])
    assert f"--ray is {address!r}, expected HOST:PORT" in line


def test_an_address_where_nothing_answers_is_refused_in_seconds(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    plan, began = written(tmp_path / "tiny.yaml"), time.monotonic()
    line = refusal(capsys, ["study", plan, "--out", tmp_path / "out", "--ray", f"127.0.0.1:{port}"])
    assert f"no Ray cluster answers at 127.0.0.1:{port}" in line
    assert time.monotonic() - began < 10


def test_a_server_that_is_no_cluster_is_refused(tmp_path, capsys, monkeypatch):
    """It takes connections and says nothing, for which Ray waits two minutes."""
    monkeypatch.setattr(cluster, "CLUSTER_PATIENCE", 3.0)
    plan = written(tmp_path / "tiny.yaml")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        line = refusal(capsys, ["study", plan, "--out", tmp_path / "out", "--ray", address])
    assert f"no Ray cluster accepted this machine at {address} within 3 seconds" in line


def test_without_ray_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    plan = written(tmp_path / "tiny.yaml")
    line = refusal(capsys, ["study", plan, "--out", tmp_path / "out", "--ray", "auto"])
    assert 'pip install "loopscope[cluster]"' in line
