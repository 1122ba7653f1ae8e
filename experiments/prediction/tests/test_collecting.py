"""A tiny study of the experiment, from its runs to the rows of its ledger."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from small_studies import runs_here

from experiments.prediction.__main__ import main
from experiments.prediction.measurements import Measurements
from experiments.prediction.population import LEDGER, collect, kept_iterations, member, read_population, rounded, thin
from experiments.prediction.signals import EASY_ACCURACY, LONG_RUN, STATE_RADIUS
from experiments.prediction.tests.populations import refusal
from experiments.prediction.worker import stages
from loopscope.errors import RESUMABLE, LoopscopeError
from loopscope.files import read_json, write_json
from loopscope.stability import ExaminationConfig
from loopscope.studies import Ledger, Record, StudyFolder, read_plan
from loopscope.studies.worker import Reporter, StopRequested, do_stages
from loopscope.training.run_folder import open_run

TINY = {
    "name": "tiny",
    "task": "prefix-sums",
    "data": {"train_bits": 8, "test_bits": [8, 16], "strings": 100, "test_strings": 20},
    "model": {"width": 16, "heads": 2},
    "training": {"steps": 4, "batch_size": 8, "max_iterations": 4, "compile": False},
    "evaluation": {"iterations": 12, "examples": 10, "until_settled": True},
    "examination": {"effort": "quick", "examples": 6, "iterations": 20},
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
    with runs_here():
        assert main(["run", str(plan), "--out", str(folder / "out")]) == 0
    return plan, StudyFolder(folder / "out")


def test_a_run_leaves_its_measurements_beside_it(study):
    _, folder = study
    for name, record in folder.ledger.records().items():
        measured = Measurements(folder.run(name).path)
        signals, prediction_mode = measured.signals(), measured.prediction_mode()
        assert 0 <= signals[EASY_ACCURACY]["value"] <= 1
        assert signals[LONG_RUN]["seconds"] > 0
        assert (signals[STATE_RADIUS]["value"] is None) == (name == "none")
        assert set(record.seconds) == {"train", "evaluate", "examine", "prediction mode", "signals"}
        assert record.examination["settings"]["prediction"] is False
        assert record.examination["settings"]["iterations"] == 20
        settings = prediction_mode["settings"]
        assert settings["prediction"] is True
        assert settings["iterations"] == settings["trained_iterations"] == 4
        # The same problems are examined and measured: their accuracy after the trained iterations is one number.
        assert settings["accuracy"] == pytest.approx(signals[EASY_ACCURACY]["value"])


def test_a_finished_study_is_not_repeated(study):
    plan, folder = study
    before = folder.ledger.path.read_text()
    assert main(["run", str(plan), "--out", str(folder.path)]) == 0
    assert folder.ledger.path.read_text() == before


def test_a_run_that_is_stopped_while_it_is_measured_continues_there(study, tmp_path):
    """Training, evaluation and the finished measurements are not repeated."""
    plan, folder = study
    source, run = folder.run("internal"), StudyFolder(tmp_path).run("internal")
    settings, config = read_plan(plan).runs[0].settings, ExaminationConfig("quick", examples=6, iterations=20)
    open_run(run.path, settings, resume=False)
    for part in ("model", "evaluation.json"):
        (run.path / part).symlink_to((source.path / part).absolute())
    *earlier, signals = stages(run, config)
    do_stages(run, earlier, Reporter())
    kept = run.examination.read_bytes(), Measurements(run.path).prediction_mode_file.read_bytes()
    stopping = Reporter()
    stopping.ask_to_stop(signal.SIGTERM, None)
    with pytest.raises(StopRequested):
        do_stages(run, [signals], stopping)
    assert Measurements(run.path).signals() is None
    assert [stage.name for stage in stages(run, config) if stage.needed()] == ["signals"]
    do_stages(run, stages(run, config), Reporter())
    found, expected = Measurements(run.path).signals(), Measurements(source.path).signals()
    assert {name: one["value"] for name, one in found.items()} == {name: one["value"] for name, one in expected.items()}
    assert (run.examination.read_bytes(), Measurements(run.path).prediction_mode_file.read_bytes()) == kept
    assert read_json(run.seconds).keys() == {"examine", "prediction mode", "signals"}


def test_measurements_by_other_options_are_taken_again(tmp_path):
    measured = Measurements(tmp_path)
    measured.begin(ExaminationConfig("quick", examples=6))
    write_json(measured.signals_file, {})
    measured.begin(ExaminationConfig("quick", examples=6))
    assert measured.signals() == {}
    measured.begin(ExaminationConfig("quick", examples=7))
    assert measured.signals() is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prediction_mode.json", "{}"),
        ("signals.json", '{"cosine": 3}'),
        ("signals.json", "[1]"),
    ],
)
def test_a_damaged_measurement_is_named_with_what_to_do(tmp_path, name, content, unchecked):
    measured = Measurements(tmp_path)
    measured.begin(ExaminationConfig("quick"))
    (measured.folder / name).write_text(content)
    read = measured.signals if name == "signals.json" else measured.prediction_mode
    with pytest.raises(LoopscopeError, match=rf"{measured.folder / name}\b.*\bagain$"):
        read()


@pytest.mark.usefixtures("here")
def test_too_few_problems_are_refused_before_training(tmp_path):
    """With fewer examples the same study continues, as the message advises."""
    grid = {"model.recall": ["internal"]}
    many = written(tmp_path / "many.yaml", grid=grid, examination={"effort": "quick", "iterations": 20, "examples": 16})
    few = written(tmp_path / "few.yaml", grid=grid, examination={"effort": "quick", "iterations": 20, "examples": 2})
    out = tmp_path / "out"
    assert main(["run", str(many), "--out", str(out)]) == 1
    (record,) = StudyFolder(out).ledger.records().values()
    assert "lower evaluation.examples or examination.examples" in record.error
    assert not record.seconds, "it was trained all the same"
    assert main(["run", str(few), "--out", str(out), "--retry-failed"]) == 0


def test_a_time_limit_stops_cleanly_and_the_same_command_continues(tmp_path, capsys):
    plan = written(tmp_path / "tiny.yaml", grid={"model.recall": ["none"]})
    command = ["run", str(plan), "--out", str(tmp_path / "out")]
    assert main([*command, "--time-limit", "1s"]) == RESUMABLE
    assert "the same command continues" in " ".join(capsys.readouterr().err.split())
    assert main(command) == 0


def test_prediction_mode_cannot_be_asked_for_in_a_config(tmp_path, capsys):
    plan = written(tmp_path / "plan.yaml", examination={"prediction": True})
    assert "leave prediction out of examination" in refusal(capsys, ["run", plan])


def test_a_collected_study_holds_what_its_runs_found(study, tmp_path, capsys):
    _, folder = study
    into = tmp_path / "results" / LEDGER
    assert main(["collect", str(folder.path), "--into", str(into)]) == 0
    assert "2 runs collected" in capsys.readouterr().err
    members = read_population(into)
    assert [row.run for row in members] == ["internal", "none"]
    for row in members:
        record, signals = folder.ledger.records()[row.run], Measurements(folder.run(row.run).path).signals()
        whole = record.evaluation["8 bits"]
        assert row.study == "out"
        assert row.task == "prefix-sums"
        assert row.trained_iterations == 4
        assert row.settings == record.settings
        assert row.easy.iterations == list(range(1, 13))
        assert row.easy.accuracy == whole["answer_accuracy"]
        assert (row.hard.best, row.hard.last) == tuple(record.evaluation["16 bits"][key] for key in ("best", "last"))
        assert row.prediction_mode["accuracy"][-1] == pytest.approx(signals[EASY_ACCURACY]["value"], rel=1e-4)
        assert row.examination["verdict"] == record.examination["verdict"]
        assert len(row.examination["residual"]) == 20
        assert row.prediction_mode["axes"].keys() == {"reachability", "input-dependence", "geometry"}
        assert row.signals.keys() == signals.keys()
        assert len(row.prediction_mode["residual"]) == 4
    assert max(map(len, into.read_text().splitlines())) < 7000


def studied(path: Path, records: list[Record], source: StudyFolder | None = None) -> StudyFolder:
    """Return a study with some records. Its runs have the measurements of another study, if one is given."""
    folder = StudyFolder(path)
    path.mkdir(parents=True)
    if source is not None:
        (path / "runs").symlink_to((source.path / "runs").absolute())
    for record in records:
        folder.ledger.append(record)
    return folder


def test_collecting_again_replaces_the_same_runs_and_leaves_all_others(study, tmp_path):
    _, folder = study
    into = tmp_path / LEDGER
    records = list(folder.ledger.records().values())
    collect(studied(tmp_path / "a" / "one", records, folder), into)
    collect(studied(tmp_path / "two", [record for record in records if record.run == "internal"], folder), into)
    again, elsewhere = (
        Record(run, "failed", records[0].settings, {"train": 1.0}, error="diverged at step 3")
        for run in ("internal", "diverged")
    )
    collect(studied(tmp_path / "b" / "one", [again, elsewhere], folder), into)
    members = read_population(into)
    assert [(row.study, row.run, row.status) for row in members] == [
        ("two", "internal", "finished"),
        ("one", "diverged", "failed"),
        ("one", "internal", "failed"),
        ("one", "none", "finished"),
    ]
    assert members[1].easy is None
    assert members[1].error == "diverged at step 3"


def test_a_run_without_measurements_is_not_collected(study, tmp_path, capsys):
    """As one that was trained and examined by the package's own command."""
    _, folder = study
    bare = studied(tmp_path / "bare", [folder.ledger.records()["internal"]])
    assert "the run internal was not measured" in refusal(capsys, ["collect", bare.path, "--into", tmp_path / LEDGER])
    assert not (tmp_path / LEDGER).exists()


def test_runs_that_differ_in_their_seed_share_a_configuration(study):
    _, folder = study
    records = folder.ledger.records()
    first, other = records["internal"], records["none"]
    reseeded = Record("again", "failed", {**first.settings, "training": {**first.settings["training"], "seed": 7}}, {})
    configurations = [member("s", record).configuration for record in (first, reseeded, other)]
    assert configurations[0] == configurations[1] != configurations[2]


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


RUNS = {"chess": 7, "chess-short": 16, "prefix-sums": 96, "prefix-sums-rates": 60, "small-sudoku": 26}
"""Number of runs of each config, which falls if a grid loses a key."""
CONFIGS = Path(__file__).parents[1] / "configs"


def test_every_config_is_a_plan_of_its_runs():
    assert {path.stem: len(read_plan(path).runs) for path in CONFIGS.glob("*.yaml")} == RUNS


@pytest.mark.parametrize(("name", "least"), [("prefix-sums", 90), ("small-sudoku", 12), ("chess", 6)])
def test_the_planned_population_has_models_of_every_kind(name, least):
    plan = read_plan(CONFIGS / f"{name}.yaml")
    assert plan.examination.prediction is False
    assert len(plan.runs) >= least
    models = [run.settings.model for run in plan.runs]
    assert {model.recall for model in models} == {"none", "external", "internal"}
    assert all(run.settings.evaluation.until_settled for run in plan.runs)
    assert all(run.settings.evaluation.iterations == 500 for run in plan.runs)
    if name == "prefix-sums":
        assert {model.norm for model in models} == {"pre", "peri", "outer", "sandwich", "gru"}
        assert len({run.settings.training.learning_rate for run in plan.runs}) >= 3
        assert len({run.settings.training.seed for run in plan.runs}) >= 2


def test_rounding_keeps_five_digits_and_only_values_of_json():
    assert rounded({"a": [1.2345678e-9, math.inf, True, 3], "b": "x"}) == {"a": [1.2346e-9, None, True, 3], "b": "x"}


def row(**changes):
    """Return a line of a population's file: ``WHOLE_ROW`` with some entries changed."""
    return json.dumps(WHOLE_ROW | changes) + "\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist: make it with  python -m experiments.prediction collect"),
        ("", "holds no run"),
        ("no json\n{}\n", "line 1 is not JSON"),
        ('{"run": "a"}\n', "line 1 is not a row of a population (study is missing)"),
        ("3\n", "line 1 is not a row of a population (it is 3, expected a mapping)"),
        (row(settings={}), "line 1 is not a row of a population (settings.task is missing)"),
        (
            row() + "\n" + row(machines="here"),
            "line 3 is not a row of a population (machines is 'here', expected a list)",
        ),
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


def test_a_folder_is_not_a_population_and_a_file_is_not_its_folder(tmp_path, capsys, unchecked):
    Ledger(tmp_path / LEDGER).append(Record("a", "failed", {"task": "x", "model": {}, "training": {}}, {}))
    message = refusal(capsys, ["collect", tmp_path, "--into", tmp_path])
    assert f"{tmp_path} is a folder, expected the file of a population" in message
    message = refusal(capsys, ["choices", tmp_path / LEDGER])
    assert message.endswith(f"{LEDGER} is a file, expected the folder of a population, such as {tmp_path}")


@pytest.mark.parametrize(
    ("changes", "prediction_mode", "message"),
    [
        ({"settings": {"task": "x", "training": TRAINING}}, None, "settings.model.recall is missing"),
        ({"evaluation": {"easy": {"examples": 3}}}, None, "'answer_accuracy' is missing"),
        ({"evaluation": {"easy": {**WHOLE_CURVE, "best": "x"}}}, None, "curves.easy.best is 'x', expected a number"),
        ({"examination": {"reachability": {}}}, {}, "the examination has schema None"),
        ({}, {"schema": 2, "reachability": []}, "the examination is damaged ("),
    ],
)
def test_a_damaged_record_is_not_collected(tmp_path, capsys, monkeypatch, changes, prediction_mode, message, unchecked):
    into, record = tmp_path / "into.jsonl", Record("a", "finished", SETTINGS, {}, evaluation={"easy": WHOLE_CURVE})
    whole, damaged = (studied(tmp_path / name / "study", []) for name in ("whole", "damaged"))
    whole.ledger.append(record)
    collect(whole, into)
    kept = into.read_text()
    monkeypatch.setattr(Measurements, "prediction_mode", lambda self: prediction_mode)
    monkeypatch.setattr(Measurements, "signals", lambda self: {})
    damaged.ledger.append(replace(record, **changes))
    line = refusal(capsys, ["collect", damaged.path, "--into", into])
    assert f"the record of the run a is damaged ({message}" in line
    assert into.read_text() == kept


def test_only_a_study_that_ran_can_be_collected(tmp_path, capsys, unchecked):
    into = tmp_path / "into.jsonl"
    assert "holds no run that ended" in refusal(capsys, ["collect", tmp_path, "--into", into])
    Ledger(tmp_path / LEDGER).append(Record("a", "finished", {}, {}))
    into.write_text("damaged\n{}\n")
    assert "line 1 is not JSON" in refusal(capsys, ["collect", tmp_path, "--into", into])
    assert into.read_text() == "damaged\n{}\n"
