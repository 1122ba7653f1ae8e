"""Studies: plans, the ledger, workers, resuming after a kill, failed runs, time limits."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import read_lines, refusal
from small_runs import tiny
from small_studies import TINY, outcomes, runs_here, written

from loopscope.cli import main
from loopscope.errors import RESUMABLE, LoopscopeError
from loopscope.studies import Ledger, Record, StudyFolder, read_plan, run_study
from loopscope.studies.processes import News
from loopscope.studies.runner import RunStatus, record_of
from loopscope.studies.worker import Reporter, train_stage
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.trainer import train

GOOD, DEEP = "outer-learning-rate0.001", "fixed-depth-none-blocks2"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    plan = written(folder / "tiny.yaml")
    with runs_here():
        status = main(["study", str(plan), "--out", str(folder / "out"), "--workers", "2"])
    return plan, folder / "out", status


@pytest.fixture
def unreported(monkeypatch):
    """Draw no report where it is not the subject: that takes longer than the runs."""
    monkeypatch.setattr("loopscope.reports.study.page.write_report", lambda *given: None)


def test_a_failed_run_is_recorded_and_the_others_go_on(study):
    _, folder, status = study
    records = StudyFolder(folder).ledger.records()
    failed = next(record for record in records.values() if record.status == "failed")
    assert status == 1
    assert sorted(record.status for record in records.values()) == ["failed", "finished", "finished"]
    assert failed.settings["training"]["learning_rate"] == 1e30
    assert "diverged at step" in failed.error
    assert "\n" not in failed.error


def test_a_study_agrees_with_the_files_of_its_runs(study):
    _, folder, _ = study
    for name, record in StudyFolder(folder).ledger.records().items():
        run = StudyFolder(folder).run(name)
        if record.status == "finished":
            assert json.loads(run.evaluation.read_text())["splits"] == record.evaluation
            assert list(record.evaluation) == ["8 bits", "16 bits"]
            iterations = 1 if name == DEEP else 12
            assert len(record.evaluation["8 bits"]["answer_accuracy"]) == iterations
        if name == GOOD:
            assert json.loads(run.examination.read_text()) == record.examination


def test_the_report_is_one_page_without_the_network(study):
    _, folder, _ = study
    page = (folder / "report.html").read_text()
    for name in (GOOD, DEEP, "diverged at step"):
        assert name in page
    body = page[: page.index("<h2>Explore</h2>")] + page[page.index("<h2>How to make it again</h2>") :]
    assert 'src="http' not in page
    assert 'href="http' not in body
    assert {path.name for path in (folder / "figures").iterdir()} == {"accuracy.png", "residual.png", "radius.png"}
    assert (folder / "runs" / GOOD / "report.html").exists()


@pytest.mark.usefixtures("unreported")
def test_what_is_done_is_not_done_again(study, capsys, monkeypatch):
    plan, folder, _ = study
    monkeypatch.setenv("COLUMNS", "160")
    before = (folder / "ledger.jsonl").read_text()
    assert main(["study", str(plan), "--out", str(folder)]) == 1
    assert (folder / "ledger.jsonl").read_text() == before
    shown = capsys.readouterr().out.splitlines()
    for name, record in StudyFolder(folder).ledger.records().items():
        (line,) = [line for line in shown if line.split()[:1] == [name]]
        for curve in (record.evaluation or {}).values():
            assert f"{100 * curve['last']:.1f}" in line.split()


@pytest.mark.parametrize("name", [GOOD, DEEP])
def test_the_commands_find_what_the_study_found(study, tmp_path, name, capsys):
    _, folder, _ = study
    run = RunFolder(shutil.copytree(StudyFolder(folder).run(name).path, tmp_path / name))
    evaluation = run.evaluation.read_text()
    run.evaluation.unlink()
    assert main(["evaluate", str(run.path)]) == 0
    assert run.evaluation.read_text() == evaluation
    options = ["--examination.effort", "quick", "--examination.examples", "6", "--examination.iterations", "40"]
    if name == DEEP:
        assert main(["examine", str(run.path), *options]) == 2
        assert "no iterations to examine" in capsys.readouterr().err
        return
    examination = json.loads(run.examination.read_text())
    assert main(["examine", str(run.path), *options]) == 0
    again = json.loads(run.examination.read_text())
    assert {**again, "seconds": None} == {**examination, "seconds": None}


@pytest.mark.usefixtures("here", "unreported")
def test_a_cut_last_line_costs_no_more_than_its_run(study, tmp_path, capsys):
    """The run whose line was cut is recorded again, from what its folder holds; what failed before stays as it is."""
    plan, folder, _ = study
    copy = StudyFolder(shutil.copytree(folder, tmp_path / "copy"))
    lines = copy.ledger.path.read_bytes().splitlines(keepends=True)
    lines.sort(key=lambda line: json.loads(line)["status"] == "finished")
    copy.ledger.path.write_bytes(b"".join(lines)[:-20])
    assert main(["study", str(plan), "--out", str(copy.path)]) == 1
    assert copy.ledger.path.read_bytes().startswith(b"".join(lines[:-1]))
    assert copy.ledger.records() == StudyFolder(folder).ledger.records()


@pytest.mark.usefixtures("here", "unreported")
def test_what_failed_is_done_again_when_asked(study, tmp_path, capsys):
    plan, folder, _ = study
    copy = StudyFolder(shutil.copytree(folder, tmp_path / "copy"))
    before = copy.ledger.path.read_text()
    assert main(["study", str(plan), "--out", str(copy.path), "--retry-failed"]) == 1
    after = copy.ledger.path.read_text()
    assert after.startswith(before)
    (added,) = after.removeprefix(before).splitlines()
    assert json.loads(added)["status"] == "failed"


@pytest.mark.parametrize(
    ("content", "said"),
    [("no json\n{}\n", "line 1 is not JSON"), ('{"run": "a", "what": 1}\n', "line 1 is not a run's record")],
)
def test_a_damaged_ledger_is_one_line(tmp_path, capsys, content, said):
    plan, out = written(tmp_path / "tiny.yaml"), tmp_path / "out"
    out.mkdir()
    (out / "ledger.jsonl").write_text(content)
    assert said in refusal(capsys, ["study", plan, "--out", out])
    assert (out / "ledger.jsonl").read_text() == content


def test_a_study_that_cannot_run_is_one_line(tmp_path, capsys, unchecked):
    plan, out = written(tmp_path / "tiny.yaml"), tmp_path / "out"
    assert "workers is 0" in refusal(capsys, ["study", plan, "--out", out, "--workers", "0"])
    assert "cannot write" in refusal(capsys, ["study", plan, "--out", plan / "out"])
    out.mkdir()
    with RunFolder(out).lock():
        assert "is in use by another process" in refusal(capsys, ["study", plan, "--out", out])


def test_a_run_that_is_stopped_while_it_starts_has_not_failed(tmp_path):
    """The signal reaches the worker before Python can take note of it there."""
    plan = read_plan(written(tmp_path / "tiny.yaml"))
    folder = StudyFolder(tmp_path / "out")

    def stop(statuses):
        if statuses[0].state == "running":
            os.kill(os.getpid(), signal.SIGTERM)

    outcome = run_study(plan, folder, show=stop)
    assert outcome.stopped == "SIGTERM"
    assert outcome.unfinished == [run.name for run in plan.runs]
    assert not folder.ledger.path.exists()


def test_the_time_left_of_a_resumed_run_is_of_its_present_pace(tmp_path, monkeypatch):
    """Steps of an earlier session took no time in this one."""
    run = open_run(tmp_path / "run", tiny(steps=40), resume=False)
    train(run.settings(), run, should_stop=lambda: "a test" if run.metrics.exists() else None)
    sent = []

    class Listener(Reporter):
        def send(self, done, total, **details):
            sent.append({"stage": "train", "done": done, "total": total})

    train_stage(run).work(Listener())
    first, second = sent[0]["done"], sent[1]["done"]
    assert 0 < first == second - 1 < 40
    status, clock = RunStatus("run"), iter((100.0, 110.0))
    monkeypatch.setattr("loopscope.studies.runner.time.monotonic", lambda: next(clock))
    for message in sent[:2]:
        status.hear(News("running", progress=message))
    assert status.seconds_left() == 10.0 * (40 - second)


BLOCKED = {
    "outer": ("", "", "cannot write"),
    "pre": ("thesis.tex", "", "is not empty and holds no run"),
    "peri": ("config.yaml", "task: [", "config.yaml is not valid YAML"),
}
"""For each run: the file that blocks its folder, the content of that file, and the error."""


@pytest.mark.usefixtures("here")
def test_blocked_folders_fail_their_runs_and_the_others_go_on(tmp_path, capsys):
    plan, folder = written(tmp_path / "tiny.yaml", grid={"model.norm": [*BLOCKED]}), StudyFolder(tmp_path / "out")
    blocked = {name: folder.path / "runs" / name / place for name, (place, _, _) in BLOCKED.items()}
    for name, (_, content, _) in BLOCKED.items():
        blocked[name].parent.mkdir(parents=True, exist_ok=True)
        blocked[name].write_text(content)
    assert main(["study", str(plan), "--out", str(folder.path)]) == 1
    records, report = folder.ledger.records(), folder.report.read_text()
    assert records[DEEP].status == "finished"
    for name, (_, content, said) in BLOCKED.items():
        assert said in records[name].error
        assert records[name].evaluation is None
        assert blocked[name].read_text() == content
        assert name in report


@pytest.mark.parametrize(
    ("name", "content"),
    [("evaluation.json", "no json"), ("evaluation.json", "{}"), ("evaluation.json", "[]"), ("seconds.json", "[1]")],
)
@pytest.mark.usefixtures("here", "unreported")
def test_a_damaged_file_fails_its_run_until_it_is_removed(study, tmp_path, capsys, name, content):
    _, folder, _ = study
    grid = {"model.norm": ["outer"], "training.learning_rate": [1e-3]}
    plan, copy = written(tmp_path / "tiny.yaml", grid=grid, also=[]), StudyFolder(tmp_path / "copy")
    shutil.copytree(StudyFolder(folder).run(GOOD).path, copy.run(GOOD).path)
    damaged = copy.run(GOOD).path / name
    damaged.write_text(content)
    assert main(["study", str(plan), "--out", str(copy.path)]) == 1
    records = copy.ledger.records()
    assert f"{damaged}" in records[GOOD].error
    assert "again; --retry-failed does it again" in records[GOOD].error
    damaged.unlink()
    assert main(["study", str(plan), "--out", str(copy.path), "--retry-failed"]) == 0
    assert outcomes(copy.path)[GOOD] == outcomes(folder)[GOOD]


def test_a_study_of_other_settings_is_refused_though_no_run_has_ended(tmp_path, capsys):
    """As after a kill: refused before any run is begun, not after the hours of those before it."""
    plan, out = read_plan(written(tmp_path / "tiny.yaml")), tmp_path / "out"
    open_run(StudyFolder(out).run(plan.runs[-1].name).path, plan.runs[-1].settings, resume=False)
    other = written(tmp_path / "other.yaml", training={**TINY["training"], "steps": 13})
    assert f"holds the run {DEEP} with other settings" in refusal(capsys, ["study", other, "--out", out])
    assert [path.name for path in (out / "runs").iterdir()] == [DEEP]


def test_a_study_of_other_settings_is_refused(study, tmp_path, capsys):
    _, folder, _ = study
    other = written(tmp_path / "tiny.yaml", evaluation={"iterations": 13, "examples": 10})
    assert main(["study", str(other), "--out", str(folder)]) == 2
    assert "with other settings" in capsys.readouterr().err


@pytest.mark.usefixtures("here", "unreported")
def test_a_study_that_examines_otherwise_is_refused(study, tmp_path, capsys):
    """What has been examined would stay as it is, and stand beside what is examined otherwise."""
    _, folder, _ = study
    out, quick = shutil.copytree(folder, tmp_path / "out"), TINY["examination"]
    held = (out / "ledger.jsonl").read_text()

    def refused(**changes):
        return refusal(capsys, ["study", written(tmp_path / "other.yaml", **changes), "--out", out])

    assert "measured with examination.time_limit None, " in refused(examination={**quick, "time_limit": 60})
    assert "measured with examination.examples 6, " in refused(examination={**quick, "examples": 7})
    assert (out / "ledger.jsonl").read_text() == held
    (out / "ledger.jsonl").unlink()
    StudyFolder(out).run(GOOD).examination.unlink()
    assert main(["study", str(tmp_path / "other.yaml"), "--out", str(out)]) == 1
    assert StudyFolder(out).ledger.records()[GOOD].examination["settings"]["inputs"] == 7


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluation.json", '{"settings": {}, "splits": {"8 bits": {}}}'),
        ("examination.json", "[1]"),
        ("examination.json", '{"schema": 1}'),
        ("machines.json", "{}"),
        ("seconds.json", "no json"),
        ("seconds.json", '{"train": "long"}'),
    ],
)
def test_a_damaged_file_of_a_run_is_named_with_what_to_do(tmp_path, name, content):
    plan, folder = read_plan(written(tmp_path / "tiny.yaml")), StudyFolder(tmp_path / "out")
    run = open_run(folder.run(GOOD).path, plan.runs[0].settings, resume=False)
    assert record_of(folder, plan.runs[0], error=None).status == "finished"
    (run.path / name).write_text(content)
    with pytest.raises(LoopscopeError, match=rf"{run.path / name}\b.*\bagain$"):
        record_of(folder, plan.runs[0], error=None)


def test_a_damaged_note_of_what_was_measured_is_one_line(study, tmp_path, capsys):
    plan, folder, _ = study
    copy = StudyFolder(shutil.copytree(folder, tmp_path / "copy"))
    copy.measured.write_text("[1]")
    line = refusal(capsys, ["study", plan, "--out", copy.path])
    assert f"{copy.measured} is damaged (it is [1], expected a mapping): remove it and run again" in line


@pytest.mark.usefixtures("here", "unreported")
def test_options_may_change_as_long_as_no_model_was_examined(tmp_path):
    diverging = {"grid": {"training.learning_rate": [1e30]}, "also": []}
    plan = written(tmp_path / "tiny.yaml", **diverging)
    other = written(tmp_path / "other.yaml", **diverging, examination={"effort": "quick", "examples": 3})
    assert main(["study", str(plan), "--out", str(tmp_path / "out")]) == 1
    assert main(["study", str(other), "--out", str(tmp_path / "out"), "--retry-failed"]) == 1


@pytest.mark.usefixtures("unreported")
def test_a_killed_study_goes_on_and_finds_the_same(study, tmp_path):
    """SIGKILL in the middle of training; the number of workers differs too, and they are processes of their own."""
    plan, folder, _ = study
    out = tmp_path / "out"
    command = [sys.executable, "-m", "loopscope.cli", "study", str(plan), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/*/state/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "ledger.jsonl").exists()
    assert main(["study", str(plan), "--out", str(out), "--workers", "1"]) == 1
    assert outcomes(out) == outcomes(folder)


@pytest.mark.usefixtures("unreported")
def test_a_time_limit_stops_cleanly_and_the_same_command_goes_on(tmp_path, capsys):
    plan = written(tmp_path / "tiny.yaml", grid={"model.norm": ["outer"]}, also=[])
    command = ["study", str(plan), "--out", str(tmp_path / "out")]
    assert main([*command, "--time-limit", "1s"]) == RESUMABLE
    assert "give the same command again" in " ".join(capsys.readouterr().err.split())
    assert main(command) == 0


class DeafProcess:
    """The worker of a run in the middle of a part that takes hours."""

    def __init__(self):
        self.asked = self.killed = False

    def poll(self):
        return News("running")

    def ask_to_stop(self):
        self.asked = True

    def kill(self):
        assert self.asked
        self.killed = True


class DeafMachine:
    def __init__(self):
        self.processes = []

    def room(self, threads):
        return None

    def start(self, job):
        self.processes.append(DeafProcess())
        return self.processes[-1]


def test_a_time_limit_holds_whatever_the_runs_are_doing(tmp_path, monkeypatch):
    monkeypatch.setattr("loopscope.studies.runner.GRACE", 1.0)
    monkeypatch.setattr("loopscope.studies.runner.REPORT", 0.5)
    plan, machines = read_plan(written(tmp_path / "tiny.yaml")), DeafMachine()
    outcome = run_study(plan, StudyFolder(tmp_path / "out"), 2, time_limit=1.5, machines=machines)
    assert outcome.stopped == "the time limit"
    assert outcome.unfinished == [run.name for run in plan.runs]
    assert [process.killed for process in machines.processes] == [True, True]
    assert not outcome.records


def test_a_crash_is_recorded_in_the_same_words_everywhere_and_shown_with_its_log(tmp_path, monkeypatch):
    """A run that is trained again elsewhere is said to have failed alike where the records' words are the same."""
    monkeypatch.setattr(DeafProcess, "poll", lambda process: News("ended", -signal.SIGKILL))
    plan = read_plan(written(tmp_path / "tiny.yaml", also=[], grid={"model.norm": ["outer"]}))
    shown = {}
    folder = StudyFolder(tmp_path / "out")
    outcome = run_study(
        plan, folder, machines=DeafMachine(), show=lambda statuses: shown.update(error=statuses[0].error)
    )
    assert outcome.records["outer"].error == "the process ended with status -9"
    log = folder.run("outer").log
    assert shown == {"error": f"the process ended with status -9; see {log}"}


def test_a_second_interrupt_waits_for_nothing(tmp_path):
    """One that comes with the first, as `timeout` sends it to the process and to its group, is no second one."""
    plan, machines = read_plan(written(tmp_path / "tiny.yaml")), DeafMachine()
    shown = []

    def interrupt(statuses):
        shown.append(time.monotonic())
        if len(shown) <= 2 or shown[-1] > shown[0] + 2:
            os.kill(os.getpid(), signal.SIGINT)

    outcome = run_study(plan, StudyFolder(tmp_path / "out"), show=interrupt, machines=machines)
    assert outcome.stopped == "SIGINT"
    assert outcome.unfinished == [run.name for run in plan.runs]
    assert [process.killed for process in machines.processes] == [True]
    assert shown[-1] > shown[0] + 2


def test_a_ledger_of_an_earlier_version_is_read(tmp_path):
    """It held two further entries, which are ignored."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    record = Record("a", "finished", {}, {"train": 1.0})
    ledger.append(record)
    (line,) = read_lines(ledger.path)
    ledger.path.write_text(
        json.dumps(line | {"forecast": None, "signals": {"cosine": {"value": 1, "seconds": 2}}}) + "\n"
    )
    assert ledger.records() == {"a": record}


FURTHER = """
import sys
from loopscope.studies.worker import Stage, usual_stages, work_through


def stages(run, config):
    def work(reporter):
        reporter.step(0, 1)
        (run.path / "further.txt").write_text(config.effort)

    return [*usual_stages(run, config), Stage("further", lambda: not (run.path / "further.txt").exists(), work)]


if __name__ == "__main__":
    sys.exit(work_through(sys.argv[1:], stages))
"""


def test_a_worker_of_ones_own_does_further_stages(tmp_path, monkeypatch):
    """It is found where Python finds modules, as on every machine of a cluster."""
    (tmp_path / "further_worker.py").write_text(FURTHER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    plan = read_plan(written(tmp_path / "tiny.yaml", also=[], grid={"model.norm": ["outer"]}))
    folder, stages = StudyFolder(tmp_path / "out"), set()

    def show(statuses):
        stages.update(status.stage for status in statuses)

    outcome = run_study(plan, folder, show=show, worker="further_worker")
    assert outcome.records["outer"].status == "finished"
    assert list(outcome.records["outer"].seconds) == ["train", "evaluate", "examine", "further"]
    assert outcome.records["outer"].examination is not None
    assert (folder.run("outer").path / "further.txt").read_text() == "quick"
    assert "train" in stages


def test_a_cut_last_line_of_the_ledger_is_dropped(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    record = Record("a", "finished", {}, {"train": 1.0})
    ledger.append(record)
    with open(ledger.path, "a") as file:
        file.write('{"run": "b", "stat')
    assert ledger.records() == {"a": record}
    ledger.append(Record("c", "failed", {}, {}, error="x"))
    assert list(ledger.records()) == ["a", "c"]


def test_a_ledger_older_than_some_settings_is_gone_on_with(study, tmp_path, monkeypatch):
    _, folder, _ = study
    plan, copy = read_plan(written(tmp_path / "tiny.yaml")), StudyFolder(shutil.copytree(folder, tmp_path / "out"))
    records = copy.ledger.records()
    copy.ledger.path.unlink()
    for record in records.values():
        del record.settings["evaluation"]["until_settled"]
        copy.ledger.append(record)
    monkeypatch.setattr("loopscope.studies.runner._run_all", lambda *given: None)
    outcome = run_study(plan, copy)
    assert outcome.records.keys() == records.keys()
    assert not outcome.unfinished


def test_a_run_is_named_by_an_option_that_is_left_out(tmp_path):
    plan = read_plan(written(tmp_path / "tiny.yaml", grid={"training.checkpoint_every": [None, 2]}, also=[]))
    assert [run.name for run in plan.runs] == ["checkpoint-everyNone", "checkpoint-every2"]


def test_a_foreign_line_in_the_ledger_is_named(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(Record("a", "finished", {}, {}))
    whole = ledger.path.read_text()
    for changes, said in (
        ({"status": "begun"}, "status is 'begun', expected finished or failed"),
        ({"settings": "none"}, "settings is 'none', expected a mapping"),
        ({"what": 1}, "what is unknown"),
    ):
        ledger.path.write_text(f"{whole}{json.dumps(json.loads(whole) | changes)}\n")
        with pytest.raises(LoopscopeError, match=rf"line 2 is not a run's record \({said}\): remove that line and run"):
            ledger.records()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gird": {}}, "unknown key 'gird' (did you mean grid?)"),
        ({"grid": {"model.nrom": ["pre"]}}, "did you mean model.norm?"),
        ({"grid": {"model.norm": "pre"}}, "expected a list"),
        ({"grid": {}}, "expected settings with lists"),
        ({"grid": {"model.norm": ["pre", "pre"]}}, "two runs are named pre"),
        ({"grid": {"model.norm": ["post"]}}, "model.norm"),
        ({"training": {"stepz": 3}}, "did you mean training.steps?"),
        ({"task": "prefix-sum"}, "did you mean prefix-sums?"),
        ({"task": None}, "name no task"),
        ({"examination": {"efort": "quick"}}, "did you mean effort?"),
        ({"workers": 0}, "workers is 0"),
        ({"workers": "two"}, "workers is 'two'"),
        ({"workers": True}, "workers is True, expected a whole number"),
        ({"name": ["a"]}, "name is ['a'], expected text"),
        ({"title": {"a": 1}}, "title is {'a': 1}, expected text"),
        ({"task": 3}, "task is 3, expected text"),
        ({"task": None, "grid": {3: [1]}}, "name no task"),
        ({"examination": {"examples": "many"}}, "examination.examples: expected int, got many"),
        ({"examination": {"tolerance": 2}}, "tolerance is 2"),
        ({"examination": {"time_limit": math.inf}}, "time_limit is inf, expected a finite number above 0"),
        ({"training": {"learning_rate": math.inf}}, "learning_rate is inf, expected a finite number above 0"),
        ({"examination": 3}, "examination is 3, expected settings"),
        ({"data": 3}, "data is 3, expected settings"),
        ({"training": {"steps": "many"}}, "training.steps: expected int, got many"),
        ({"also": [{}]}, "expected a list of settings"),
        ({"grid": {3: [1]}}, "unknown setting '3'"),
        ({"name": "../../x"}, "name is '../../x', expected the name of one folder"),
        ({"name": "/etc"}, "expected the name of one folder"),
        ({"name": ""}, "name is '', expected the name of one folder"),
        ({"name": ".."}, "expected the name of one folder"),
        ({"name": "a\0b"}, "expected the name of one folder"),
        ({"name": "x" * 256}, "xxx'..., expected the name of one folder"),
        ({"grid": {"training.seed": list(range(1001))}}, "the grid makes 1,002 runs, expected at most 1,000"),
        (
            {"grid": {f"training.{k}": list(range(1, 60)) for k in ("steps", "batch_size", "seed", "threads")}},
            "12,117,362",
        ),
        (
            {
                "data": {"test_bits": [10**9 + n for n in range(20)]},
                "grid": {"data.test_bits": [[10**9 + n for n in range(20)]]},
            },
            "has a name of 230 characters, expected at most 200",
        ),
        ({"grid": {"training.learning_rate": ["1e-3", 0.001]}}, "two runs are named learning-rate0.001"),
    ],
)
def test_a_mistake_in_a_plan_is_one_line(tmp_path, changes, said, unchecked):
    with pytest.raises(LoopscopeError) as error:
        read_plan(written(tmp_path / "plan.yaml", **changes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_section_is_as_good_as_none(tmp_path):
    empty = dict.fromkeys(("name", "title", "training", "also", "workers"))
    plan = read_plan(written(tmp_path / "plan.yaml", **empty, grid={"model.norm": ["pre", "outer"]}))
    assert (plan.name, plan.title, plan.workers) == ("plan", "plan", 1)
    assert [run.name for run in plan.runs] == ["pre", "outer"]
    assert plan.runs[0].settings.model.norm == "pre"


def test_numbers_are_understood_as_people_write_them(tmp_path):
    """YAML itself takes 1e-3 for a text."""
    path = tmp_path / "plan.yaml"
    path.write_text(
        "task: prefix-sums\nexamination: {tolerance: 1e-3}\ngrid: {training.learning_rate: [1e-3, 2.0e-3]}\nname: 7\n"
    )
    plan = read_plan(path)
    assert plan.name == plan.title == "7"
    assert plan.examination.tolerance == 1e-3
    assert [run.name for run in plan.runs] == ["learning-rate0.001", "learning-rate0.002"]
