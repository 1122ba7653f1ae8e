"""A tiny study of prediction, from its runs to what is read off them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from commands import refusal

from loopscope.cli import main
from loopscope.errors import LoopscopeError
from loopscope.studies import Ledger, Record, StudyFolder, read_plan
from loopscope.studies.population import collect, kept_iterations, member, read_population, rounded, thin
from loopscope.studies.signals import EASY_ACCURACY, LONG_RUN, STATE_RADIUS

TINY = {
    "name": "tiny",
    "task": "prefix-sums",
    "data": {"train_bits": 8, "test_bits": [8, 16], "strings": 100, "test_strings": 20},
    "model": {"width": 16, "heads": 2},
    "training": {"steps": 4, "batch_size": 8, "max_iterations": 4, "compile": False},
    "evaluation": {"iterations": 12, "examples": 10, "until_settled": True},
    "examination": {"effort": "quick", "examples": 6, "iterations": 20},
    "signals": True,
    "grid": {"model.recall": ["internal", "none"]},
}


MODEL, TRAINING = {"recall": "none", "norm": "pre"}, {"max_iterations": 4, "learning_rate": 0.001}
SETTINGS = {"task": "prefix-sums", "model": MODEL, "training": TRAINING}
WHOLE_ROW = {
    "study": "s",
    "run": "r",
    "status": "finished",
    "settings": SETTINGS,
    "seconds": {},
    "error": None,
    "curves": {},
    "examined": {},
    "forecast": {},
    "signals": {},
}


WHOLE_CURVE = {
    "examples": 3,
    "answer_accuracy": [0.0, 1.0],
    "best": 1.0,
    "best_iteration": 2,
    "last": 1.0,
    "solved_then_broken": 0.0,
}


def written(path, **changes):
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    plan = written(folder / "tiny.yaml")
    assert main(["study", str(plan), "--out", str(folder / "out")]) == 0
    return plan, StudyFolder(folder / "out")


def test_a_run_of_a_study_of_prediction_leaves_its_signals(study):
    _, folder = study
    for name, record in folder.ledger.records().items():
        assert json.loads(folder.run(name).signals.read_text()) == record.signals
        assert 0 <= record.signals[EASY_ACCURACY]["value"] <= 1
        assert record.signals[LONG_RUN]["seconds"] > 0
        assert (record.signals[STATE_RADIUS]["value"] is None) == (name == "none")
        assert set(record.seconds) == {"train", "evaluate", "examine", "forecast", "signals"}
        assert record.examination["settings"]["prediction"] is False
        assert record.examination["settings"]["iterations"] == 20
        settings = record.forecast["settings"]
        assert settings["prediction"] is True
        assert settings["iterations"] == settings["trained_iterations"] == 4
        # The same problems, examined and measured: their accuracy after the trained iterations is one number.
        assert settings["accuracy"] == pytest.approx(record.signals[EASY_ACCURACY]["value"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signals": "yes"}, "signals is 'yes', expected true or false"),
        ({"examination": {"prediction": True}}, "leave prediction out of examination"),
    ],
)
def test_a_mistake_about_signals_is_one_line(tmp_path, changes, said):
    with pytest.raises(LoopscopeError) as error:
        read_plan(written(tmp_path / "plan.yaml", **changes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_collected_study_holds_what_its_runs_found(study, tmp_path, capsys):
    _, folder = study
    into = tmp_path / "results" / "ledger.jsonl"
    assert main(["study", "collect", str(folder.path), "--into", str(into)]) == 0
    assert "2 runs collected" in capsys.readouterr().err
    members = read_population(into)
    assert [row.run for row in members] == ["internal", "none"]
    for row in members:
        record = folder.ledger.records()[row.run]
        whole = record.evaluation["8 bits"]
        assert row.study == "out"
        assert row.task == "prefix-sums"
        assert row.trained_iterations == 4
        assert row.settings == record.settings
        assert row.easy.iterations == list(range(1, 13))
        assert row.easy.accuracy == whole["answer_accuracy"]
        assert (row.hard.best, row.hard.last) == tuple(record.evaluation["16 bits"][key] for key in ("best", "last"))
        assert row.forecast["accuracy"][-1] == pytest.approx(record.signals[EASY_ACCURACY]["value"], rel=1e-4)
        assert row.examined["verdict"] == record.examination["verdict"]
        assert len(row.examined["residual"]) == 20
        assert row.forecast["axes"].keys() == {"reachability", "input-dependence", "geometry"}
        assert row.signals.keys() == record.signals.keys()
        assert len(row.forecast["residual"]) == 4
    assert max(map(len, into.read_text().splitlines())) < 6000


def test_collecting_again_replaces_the_same_runs_and_leaves_all_others(study, tmp_path):
    _, folder = study
    into = tmp_path / "ledger.jsonl"
    records = list(folder.ledger.records().values())
    collect("one", records, into)
    collect("two", records[:1], into)
    again, elsewhere = (
        Record(run, "failed", records[0].settings, {"train": 1.0}, error="diverged at step 3")
        for run in ("internal", "diverged")
    )
    collect("one", [again, elsewhere], into)
    members = read_population(into)
    assert [(row.study, row.run, row.status) for row in members] == [
        ("two", "internal", "finished"),
        ("one", "diverged", "failed"),
        ("one", "internal", "failed"),
        ("one", "none", "finished"),
    ]
    assert members[1].easy is None
    assert members[1].error == "diverged at step 3"


def test_runs_that_differ_in_their_seed_share_a_cell(study):
    _, folder = study
    records = folder.ledger.records()
    first, other = records["internal"], records["none"]
    reseeded = Record("again", "failed", {**first.settings, "training": {**first.settings["training"], "seed": 7}}, {})
    cells = [member("s", record).cell for record in (first, reseeded, other)]
    assert cells[0] == cells[1] != cells[2]


def test_thinning_keeps_the_first_iterations_the_last_and_what_lies_between():
    kept = kept_iterations(500)
    assert kept[:32] == list(range(1, 33))
    assert kept[-1] == 500
    assert len(kept) == len(set(kept)) <= 93
    assert all(later <= 1.1 * earlier for earlier, later in pairwise(kept[31:]))
    assert kept_iterations(3) == [1, 2, 3]
    curve = {
        "examples": 3,
        "answer_accuracy": [0.0, 1 / 3, 2 / 3],
        "best": 2 / 3,
        "best_iteration": 3,
        "last": 2 / 3,
        "solved_then_broken": 0.0,
    }
    assert thin(curve).accuracy == [0.0, 0.33333, 0.66667]


@pytest.mark.parametrize(("name", "least"), [("prefix-sums", 90), ("small-sudoku", 12), ("chess", 6)])
def test_the_population_that_is_planned_is_of_every_kind(name, least):
    plan = read_plan(Path(__file__).parent.parent / "configs" / "prediction" / f"{name}.yaml")
    assert plan.signals
    assert len(plan.runs) >= least
    models = [run.settings.model for run in plan.runs]
    assert {model.recall for model in models} == {"none", "external", "internal"}
    assert all(run.settings.evaluation.until_settled for run in plan.runs)
    assert all(run.settings.evaluation.iterations == 500 for run in plan.runs)
    if name == "prefix-sums":
        assert {model.norm for model in models} == {"pre", "peri", "outer", "sandwich", "gru"}
        assert len({run.settings.training.learning_rate for run in plan.runs}) >= 3
        assert len({run.settings.training.seed for run in plan.runs}) >= 2


def test_rounding_keeps_five_digits_and_nothing_that_json_has_not():
    assert rounded({"a": [1.2345678e-9, math.inf, True, 3], "b": "x"}) == {"a": [1.2346e-9, None, True, 3], "b": "x"}


def row(**changes):
    """Return a line of a population: that of ``WHOLE_ROW`` with some of its entries changed."""
    return json.dumps(WHOLE_ROW | changes) + "\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist: make it with  loopscope study collect"),
        ("", "holds no run"),
        ("no json\n{}\n", "line 1 is not JSON"),
        ('{"run": "a"}\n', "line 1 is no row of a population (study is missing)"),
        ("3\n", "line 1 is no row of a population (it is 3, expected a mapping)"),
        (row(settings={}), "line 1 is no row of a population (settings.task is missing)"),
        (row() + "\n" + row(machines="here"), "line 3 is no row of a population (machines is 'here', expected a list)"),
        (row(seconds={"train": "x"}), "(seconds.train is 'x', expected a number)"),
        (row(curves={"8 bits": {"examples": 3}}), "(curves.8 bits.iterations is missing)"),
        (row(signals={"cosine": 1.0}), "(signals.cosine is 1.0, expected a mapping)"),
        (row(settings={**SETTINGS, "model": 3}), "(settings.model.recall is missing)"),
        (
            row(settings={**SETTINGS, "training": TRAINING | {"max_iterations": "4"}}),
            "is '4', expected a whole number)",
        ),
        (row(settings={**SETTINGS, "training": {}}), "(settings.training.max_iterations is missing)"),
    ],
)
def test_a_damaged_population_is_one_line(tmp_path, content, said, unchecked):
    path = tmp_path / "ledger.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(LoopscopeError) as error:
        read_population(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_is_no_population_and_a_file_is_no_folder_of_one(tmp_path, capsys, unchecked):
    Ledger(tmp_path / "ledger.jsonl").append(Record("a", "failed", {"task": "x", "model": {}, "training": {}}, {}))
    said = refusal(capsys, ["study", "collect", tmp_path, "--into", tmp_path])
    assert f"{tmp_path} is a folder, expected the file of a population" in said
    said = refusal(capsys, ["advise", tmp_path / "ledger.jsonl"])
    assert said.endswith(f"ledger.jsonl is a file, expected the folder of a population, such as {tmp_path}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"task": "x", "training": TRAINING}}, "settings.model.recall is missing"),
        ({"evaluation": {"easy": {"examples": 3}}}, "'answer_accuracy' is missing"),
        ({"evaluation": {"easy": {**WHOLE_CURVE, "best": "x"}}}, "curves.easy.best is 'x', expected a number"),
        ({"examination": {"reachability": {}}}, "the examination is of schema None"),
        ({"forecast": {"schema": 2, "verdict": "stable"}}, "the examination is damaged (provisional is missing)"),
    ],
)
def test_a_damaged_record_is_not_collected(tmp_path, capsys, changes, said, unchecked):
    into, record = tmp_path / "into.jsonl", Record("a", "finished", SETTINGS, {}, evaluation={"easy": WHOLE_CURVE})
    collect("study", [record], into)
    kept = into.read_text()
    Ledger(tmp_path / "ledger.jsonl").append(replace(record, **changes))
    line = refusal(capsys, ["study", "collect", tmp_path, "--into", into])
    assert f"the record of the run a is damaged ({said}" in line
    assert into.read_text() == kept


def test_only_a_study_that_ran_can_be_collected(tmp_path, capsys, unchecked):
    into = tmp_path / "into.jsonl"
    assert "holds no run that ended" in refusal(capsys, ["study", "collect", tmp_path, "--into", into])
    Ledger(tmp_path / "ledger.jsonl").append(Record("a", "finished", {}, {}))
    into.write_text("damaged\n{}\n")
    assert "line 1 is not JSON" in refusal(capsys, ["study", "collect", tmp_path, "--into", into])
    assert into.read_text() == "damaged\n{}\n"
