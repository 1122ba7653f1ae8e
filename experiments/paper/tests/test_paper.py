"""The ledger of the paper's comparisons, and its tables, from made-up runs."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import image
from small_runs import finished

from experiments.paper.__main__ import main
from experiments.paper.figures import accuracy_figure, radius_figure
from experiments.paper.iterates import LastIterates, last_iterates
from experiments.paper.runs import Band, Run, collect, read_runs
from experiments.paper.tables import by_choice, by_difficulty, comparison, correlations, logged, radii
from loopscope.errors import LoopscopeError
from loopscope.files import append_line
from loopscope.loop import FunctionLoop
from loopscope.models import load_model
from loopscope.studies import Record, StudyFolder

CURVE = [0.0] * 29 + [0.9] + [0.7] * 469 + [0.5]


def study(path):
    """A study with one finished run, whose model is real, and one that failed."""
    folder = StudyFolder(path)
    run = finished(path / "runs" / "one", task="prefix-sums")
    for step in range(1, 121):
        append_line(run.metrics, {"step": step, "loss": 1.0, "state_radius": step / 100})
    settings = {
        "model": {"recall": "external", "norm": "outer"},
        "training": {"seed": 3, "max_iterations": 30, "learning_rate": 1e-3},
    }
    band = {"lowest": 3, "highest": 9, "examples": 7, "iterations": [30, 500], "answer_accuracy": [0.9, 0.5]}
    curve = {
        "examples": 7,
        "answer_accuracy": CURVE,
        "best": 0.9,
        "first_within_1_percent": 30,
        "by_difficulty": [band],
    }
    evaluation = {"easy": curve, "hard": curve}
    folder.ledger.append(Record("one", "finished", settings, {"train": 60.0}, evaluation=evaluation, machines=["here"]))
    folder.ledger.append(Record("two", "failed", settings, {}, error="diverged"))
    return folder


def test_a_row_holds_accuracy_weights_and_their_history(tmp_path):
    folder, ledger = study(tmp_path / "cpu"), tmp_path / "ledger.jsonl"
    (run,) = collect(folder, ledger)
    assert read_runs(ledger) == [run]
    assert (run.study, run.run, run.choice, run.seed, run.trained_iterations) == (
        "cpu",
        "one",
        ("external", "outer"),
        3,
        30,
    )
    assert (run.examples, run.machines, run.verdict, run.radius) == ({"easy": 7, "hard": 7}, ["here"], None, None)
    assert [run.accuracy["hard"][point] for point in ("1", "30", "60", "500")] == [0.0, 0.9, 0.7, 0.5]
    recall = load_model(tmp_path / "cpu" / "runs" / "one").recall
    of_state, of_input = (layer.weight.detach().double().numpy() for layer in (recall.state, recall.input))
    assert run.state_radius == pytest.approx(np.abs(np.linalg.eigvals(of_state)).max(), rel=1e-6)
    assert run.recall_ratio == pytest.approx(np.linalg.norm(of_state) / np.linalg.norm(of_input), rel=1e-5)
    assert (run.best, run.first_within_1_percent) == ({"easy": 0.9, "hard": 0.9}, {"easy": 30, "hard": 30})
    assert run.norm_ratio > 0
    assert -1 <= run.cosine <= 1
    assert run.bands["hard"] == [Band(3, 9, 7, {"30": 0.9, "500": 0.5})]
    assert run.training[-1] == (120, 1.2)
    assert len(run.training) <= 50


def test_a_run_is_collected_once(tmp_path):
    folder, ledger = study(tmp_path / "cpu"), tmp_path / "ledger.jsonl"
    assert len(collect(folder, ledger)) == 1
    assert collect(folder, ledger) == []
    assert len(read_runs(ledger)) == 1


def test_a_folder_without_finished_runs_and_a_damaged_ledger_are_refused(tmp_path):
    with pytest.raises(LoopscopeError, match="holds no finished run"):
        collect(StudyFolder(tmp_path), tmp_path / "ledger.jsonl")
    with pytest.raises(LoopscopeError, match="there is no ledger"):
        read_runs(tmp_path / "ledger.jsonl")
    (tmp_path / "ledger.jsonl").write_text('{"study": 1}\n')
    with pytest.raises(LoopscopeError, match="line 1 is not a run"):
        read_runs(tmp_path / "ledger.jsonl")
    assert main(["--ledger", str(tmp_path / "ledger.jsonl"), "tables"]) == 2


def made_up(recall: str, norm: str, seed: int, last: float, rate: float = 1e-3) -> Run:
    return Run(
        study="made-up",
        run=f"{recall}-{norm}-seed{seed}",
        settings={
            "model": {"recall": recall, "norm": norm},
            "training": {"seed": seed, "max_iterations": 30, "learning_rate": rate},
        },
        seconds={},
        machines=[],
        examples={"hard": 10},
        accuracy={"hard": {"30": 0.25, "500": last}},
        best={"hard": 0.8},
        first_within_1_percent={"hard": 60},
        bands={"hard": [Band(1, 2, 6, {"30": 0.5, "500": last}), Band(3, 9, 4, {"30": 0.0, "500": 0.25})]},
        norm_ratio=12.345,
        cosine=0.5,
        verdict="stable",
        arrived=1.0,
        radius=0.5,
        at_fixed_point=seed == 0,
        state_radius=None if recall == "none" else 0.8,
        recall_ratio=None if recall == "none" else 1.5,
        training=[] if recall == "none" else [(1, 0.5), (2, 0.8)],
        fraction_arrived=1.0,
    )


RUNS = [made_up("none", "outer", 0, 0.0), made_up("internal", "pre", 1, 0.1), made_up("internal", "pre", 0, 0.75)]


def test_each_seed_stands_in_the_tables_in_order():
    assert [[run.seed for run in group] for group in by_choice(RUNS).values()] == [[0, 1], [0]]
    sheet = comparison("made-up", RUNS)
    assert sheet.columns == ["recall + normalization", "seeds", "hard, 30", "hard, 500"]
    assert sheet.rows == [
        ["internal + pre", "0, 1", "25.0, 25.0", "75.0, 10.0"],
        ["none + outer", "0", "25.0", "0.0"],
    ]
    weights = radii("made-up", RUNS)
    assert weights.rows[0] == [
        "internal + pre",
        "0.80, 0.80",
        "1.50, 1.50",
        "0.500, 0.500*",
        "100.0, 100.0",
        "stable, stable",
    ]
    assert weights.rows[1][1] == "–"


def test_radii_are_ranked_against_hard_accuracy_over_the_runs_with_recall():
    """Hard accuracy falls with the radius of W_state; by that of the Jacobian, the ranks 3, 1, 2 meet 1, 2, 3: -1/2."""
    found = [(0.9, 0.5, 0.1), (0.8, 0.1, 0.2), (0.7, 0.2, 0.3)]
    runs = [
        replace(
            made_up("internal", "outer", seed, 0.0),
            accuracy={"easy": {"500": 1.0}, "hard": {"500": right}},
            state_radius=state,
            radius=jacobian,
        )
        for seed, (state, jacobian, right) in enumerate(found)
    ]
    without = replace(made_up("none", "outer", 0, 1.0), accuracy=runs[0].accuracy)
    assert [row[1:] for row in correlations("made-up", [*runs, without]).rows] == [["3", "-1.00"], ["3", "-0.50"]]
    assert correlations("made-up", [*runs[:2], without]) is None
    assert correlations("made-up", RUNS * 2) is None


def test_learning_rates_are_groups_of_their_own():
    groups = by_choice([*RUNS, made_up("none", "outer", 0, 0.5, rate=3e-4)])
    assert list(groups) == ["internal + pre, 0.001", "none + outer, 0.0003", "none + outer, 0.001"]
    assert [len(group) for group in groups.values()] == [2, 1, 1]


def test_accuracy_by_difficulty_has_a_row_for_each_band():
    sheet = by_difficulty("made-up", RUNS, "500")
    assert sheet.columns == ["split", "difficulty", "problems", "internal + pre", "none + outer"]
    assert sheet.rows == [
        ["hard", "1 to 2", "6", "75.0, 10.0", "0.0"],
        ["hard", "3 to 9", "4", "25.0, 25.0", "25.0"],
    ]
    assert by_difficulty("made-up", [replace(run, bands={"hard": []}) for run in RUNS], "500") is None


def test_what_the_paper_logs_has_a_row_for_each_run():
    sheet = logged("made-up", RUNS)
    assert sheet.rows[0] == ["internal-pre-seed0", "80.0", "75.0", "5.0", "60", "12.3", "0.5"]
    assert [row[3] for row in sheet.rows] == ["5.0", "70.0", "80.0"]


def test_iterates_of_a_linear_loop_have_the_norms_of_its_powers():
    turn = 2 * torch.tensor([[0.6, -0.8], [0.8, 0.6]])  # doubles the norm and turns by an angle of cosine 0.6
    loop = FunctionLoop(lambda x: x, lambda e: e, lambda z, e: z @ turn.T, lambda z: z)
    found = last_iterates(loop, torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]]), iterations=9)
    assert found.norm_ratio == pytest.approx(2.0**8)
    assert found.cosine == pytest.approx(0.6)
    with pytest.raises(LoopscopeError, match="iterations"):
        last_iterates(loop, torch.ones(1, 2), iterations=1)


def test_iterates_that_overflow_have_no_norm_ratio():
    loop = FunctionLoop(lambda x: x, lambda e: e, lambda z, e: z * 1e30, lambda z: z)
    assert last_iterates(loop, torch.ones(1, 2), iterations=9) == LastIterates(None, None)


@pytest.mark.parametrize("draw", [accuracy_figure, radius_figure])
def test_the_figures_are_drawn_without_warnings(draw):
    drawn = image.imread(io.BytesIO(draw([*RUNS, replace(RUNS[0], radius=None)])))
    assert min(drawn.shape[:2]) > 100
    assert torch.from_numpy(drawn).std() > 0


def test_the_commands_collect_and_print(tmp_path, capsys):
    study(tmp_path / "cpu")
    ledger = str(tmp_path / "ledger.jsonl")
    assert main(["--ledger", ledger, "collect", str(tmp_path / "cpu")]) == 0
    assert main(["--ledger", ledger, "tables"]) == 0
    assert "| external + outer | 3 | 90.0 | 50.0 | 90.0 | 50.0 |" in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("*.png")} == {"cpu-accuracy.png", "cpu-radius.png"}
