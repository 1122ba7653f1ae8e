"""Models trained again from the rows of a population: the same on one machine, different if a row was altered."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from small_studies import Here

from experiments.prediction.__main__ import main
from experiments.prediction.population import LEDGER, collect, member, read_population, write_population
from experiments.prediction.retraining import claim, compare, name_of, pick, retraining_plan
from experiments.prediction.tests.populations import refusal
from loopscope.errors import RESUMABLE, LoopscopeError
from loopscope.studies import StudyFolder, read_plan, run_study
from loopscope.studies.machine import this_machine

TINY = {
    "task": "prefix-sums",
    "data": {"train_bits": 8, "test_bits": [8, 16], "strings": 100, "test_strings": 20},
    "model": {"width": 16, "heads": 2},
    "training": {"steps": 4, "batch_size": 8, "max_iterations": 4, "compile": False},
    "evaluation": {"iterations": 12, "examples": 10},
    "grid": {"model.recall": ["internal", "none"]},
    "also": [{"training.learning_rate": 1e30}],
}
RAISED = "internal"
"""The run whose row is altered."""


def altered(rows, at, points):
    """Return rows in which the easy accuracy of one run at an iteration is some points larger."""
    (row,) = [row for row in rows if row.run == RAISED]
    easy = row.curves["8 bits"]
    accuracy = list(easy.accuracy)
    accuracy[at - 1] = round(accuracy[at - 1] + points / 100, 5)
    changed = replace(row, curves={**row.curves, "8 bits": replace(easy, accuracy=accuracy)})
    return [changed if one is row else one for one in rows]


def written(folder, rows):
    """Write a population's file."""
    write_population(folder / LEDGER, rows)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of three runs, one of which diverges, its population, and all of it trained again."""
    folder = tmp_path_factory.mktemp("trained")
    source = folder / "tiny.yaml"
    source.write_text(yaml.safe_dump(TINY))
    study = StudyFolder(folder / "tiny")
    run_study(replace(read_plan(source), examination=None), study, machines=Here())
    collect(study, folder / "population" / LEDGER)
    out = folder / "again"
    status = main(["retrain", str(folder / "population"), "--runs", "3", "--workers", "2", "--out", str(out)])
    assert status == 0
    return study, folder / "population", out


def again(population, out, *options):
    """Compare the models that a folder already holds with another population."""
    return main(["retrain", str(population), "--runs", "3", "--out", str(out), *options])


def test_what_is_trained_again_is_exactly_the_same(trained):
    study, _, out = trained
    found = json.loads((out / "retrained.json").read_text())
    assert (found["exact"], found["within"], found["unfinished"]) == (3, 3, [])
    assert found["machine"] == this_machine()
    for one in found["runs"]:
        assert one["exact"]
        assert one["machines"] == [this_machine()]
        if one["note"]:
            assert one["note"].startswith("failed in the same way: training diverged at step")
        else:
            assert one["differences"] == {"8 bits": 0, "16 bits": 0}
    first, second = study.ledger.records(), StudyFolder(out).ledger.records()
    assert {f"tiny/{name}" for name in first} == second.keys()
    for name, record in first.items():
        assert second[f"tiny/{name}"].evaluation == record.evaluation
        assert second[f"tiny/{name}"].examination is None
        if record.status == "finished":
            weights = [
                one.model / "model.safetensors" for one in (study.run(name), StudyFolder(out).run(f"tiny/{name}"))
            ]
            assert weights[0].read_bytes() == weights[1].read_bytes()


def test_an_altered_row_differs(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, population, out = trained
    copy = shutil.copytree(out, tmp_path / "again")
    rows = altered(read_population(population / LEDGER), at=3, points=5)
    unsaid = [replace(row, machines=[]) for row in rows]
    assert again(written(tmp_path / "altered", unsaid), copy) == 0
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert [RAISED, "5.00 (0.00)", "0.00 (0.00)", "no"] in cells
    assert ["none", "0.00 (0.00)", "0.00 (0.00)", "yes"] in cells
    assert f"Machine of the ledger: not recorded. This machine: {this_machine()}." in " ".join(shown.split())
    assert "3 models trained again: 2 exactly the same, 3 within 5 points" in shown
    assert json.loads((copy / "retrained.json").read_text())["exact"] == 2
    assert again(tmp_path / "altered", copy, "--tolerance", "4.9") == 1
    assert "2 exactly the same, 2 within 4.9 points" in capsys.readouterr().out


def test_a_model_that_ends_in_another_way_fails_the_command_at_any_tolerance(trained, tmp_path, capsys):
    _, population, out = trained
    copy = shutil.copytree(out, tmp_path / "again")
    rows = read_population(population / LEDGER)
    unlike = [replace(row, error="no memory") if row.status == "failed" else row for row in rows]
    assert again(written(tmp_path / "unlike", unlike), copy, "--tolerance", "100") == 1
    assert "3 models trained again: 2 exactly the same, 2 within 100 points" in capsys.readouterr().out


def test_curves_that_differ_in_more_than_accuracies_are_not_the_same(trained):
    study, population, _ = trained
    (row,) = [row for row in read_population(population / LEDGER) if row.run == RAISED]
    record = study.ledger.records()[RAISED]
    assert compare(row, record).exact
    easy = replace(row.curves["8 bits"], solved_then_broken=0.123)
    found = compare(replace(row, curves={**row.curves, "8 bits": easy}), record)
    assert (found.exact, found.differences) == (False, {"8 bits": 0, "16 bits": 0})
    assert found.within(0)


def test_the_last_iteration_is_compared_by_itself(trained):
    study, population, _ = trained
    (row,) = [row for row in read_population(population / LEDGER) if row.run == RAISED]
    easy = row.curves["8 bits"]
    changed = replace(easy, last=easy.last + 0.3, best=easy.best + 0.4)
    found = compare(replace(row, curves={**row.curves, "8 bits": changed}), study.ledger.records()[RAISED])
    assert found.differences == {"8 bits": 40, "16 bits": 0}
    assert found.last == {"8 bits": 30, "16 bits": 0}


def test_a_run_that_failed_in_one_place_only_is_neither_the_same_nor_near(trained):
    study, population, _ = trained
    records = study.ledger.records()
    rows = {row.run: row for row in read_population(population / LEDGER)}
    (failed,) = [name for name, record in records.items() if record.status == "failed"]
    for row, record, said in (
        (rows[RAISED], records[failed], "finished in the ledger, failed (training diverged"),
        (rows[failed], records[RAISED], f"failed ({records[failed].error}) in the ledger, finished here"),
        (rows[failed], replace(records[failed], error="no memory"), "failed in another way: no memory"),
        (replace(rows[RAISED], curves={}), records[RAISED], "other splits here: 8 bits, 16 bits"),
    ):
        found = compare(row, record)
        assert said in found.note
        assert not found.exact
        assert not found.within(100)


def test_runs_are_picked_by_the_seed(trained):
    _, population, _ = trained
    (row, *_) = read_population(population / LEDGER)
    rows = [replace(row, run=f"r{i:02d}") for i in range(50)]
    first = pick(rows, 5, 0)
    assert list(first) == sorted(first) == [name_of(one) for one in first.values()]
    assert list(pick(rows, 5, 0)) == list(first)
    assert list(pick(rows, 5, 1)) != list(first)
    assert list(pick(rows, 50, 3)) == [f"tiny/r{i:02d}" for i in range(50)]


def test_a_retraining_that_was_stopped_continues(trained, tmp_path, capsys, monkeypatch):
    _, population, _ = trained
    out = tmp_path / "again"
    with monkeypatch.context() as stopping:
        stopping.setattr("loopscope.studies.runner._run_all", lambda *given: "SIGINT")
        assert again(population, out) == RESUMABLE
    captured = capsys.readouterr()
    assert "stopped by SIGINT, 3 runs left: the same command continues" in captured.err
    assert "0 models trained again" in captured.out
    assert len(json.loads((out / "retrained.json").read_text())["unfinished"]) == 3
    assert again(population, out) == 0
    assert "3 models trained again: 3 exactly the same" in capsys.readouterr().out


def test_a_row_names_the_machine_that_trained_the_model(trained):
    study, population, _ = trained
    assert all(record.machines == [this_machine()] for record in study.ledger.records().values())
    for row in read_population(population / LEDGER):
        assert row.machines == [this_machine()]
        assert member("tiny", study.ledger.records()[row.run]) == row


def test_mistakes_are_one_line(trained, tmp_path, capsys, unchecked):
    study, population, done = trained

    def refused(where, *options, out=tmp_path / "out"):
        said = refusal(capsys, ["retrain", where, "--out", out, *options])
        assert not (tmp_path / "out").exists()
        return said

    assert "does not exist: make it with  python -m experiments.prediction collect" in refused(tmp_path)
    assert "10 runs were requested, but the ledger holds 3: give a smaller --runs" in refused(population)
    assert "runs is 0, expected a number above 0" in refused(population, "--runs", 0)
    for tolerance, shown in (("-1", "-1"), ("inf", "inf"), ("nan", "nan"), ("1e400", "inf")):
        said = refused(population, "--runs", 3, "--tolerance", tolerance)
        assert f"--tolerance is {shown}, expected points" in said
    assert "is not empty and holds no runs of this command" in refused(population, "--runs", 3, out=study.path)
    assert "holds other runs: give the same --runs and --seed" in refused(population, "--runs", 2, out=done)
    rows = read_population(population / LEDGER)
    twice = written(tmp_path / "twice", [rows[0], rows[0]])
    assert "holds a run twice" in refused(twice, "--runs", 2)
    foreign = written(tmp_path / "foreign", [replace(rows[0], run="../a")])
    assert "names the run '../a' of the study 'tiny'" in refused(foreign, "--runs", 1)
    older = {**rows[0].settings, "model": {**rows[0].settings["model"], "width": "wide"}}
    strange = written(tmp_path / "strange", [replace(rows[0], settings=older)])
    said = refused(strange, "--runs", 1)
    assert f"run {name_of(rows[0])}: model.width" in said
    other = {**rows[0].settings, "training": {**rows[0].settings["training"], "seed": 7}}
    changed = written(tmp_path / "changed", [replace(rows[0], settings=other), *rows[1:]])
    assert "with other settings than in" in refused(changed, "--runs", 3, out=done)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "plan.json").write_text("3")
    said = refused(population, "--runs", 1, out=damaged)
    assert f"plan.json is damaged (it is 3, expected a list): choose another --out, or remove {damaged}" in said


def test_a_retraining_that_was_killed_before_its_note_was_complete_begins_again(trained, tmp_path):
    _, population, _ = trained
    ledger = population / LEDGER
    plan = retraining_plan(pick(read_population(ledger), 2, seed=0), ledger)
    (tmp_path / ".plan.json.partial").write_text('["tiny')
    claim(tmp_path, plan)
    assert json.loads((tmp_path / "plan.json").read_text()) == [run.name for run in plan.runs]


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "/a"])
def test_a_name_that_leads_out_of_the_folder_is_refused(trained, bad):
    _, population, _ = trained
    (row, *_) = read_population(population / LEDGER)
    for changed in (replace(row, run=bad), replace(row, study=bad)):
        with pytest.raises(LoopscopeError, match="expected names of folders"):
            name_of(changed)
