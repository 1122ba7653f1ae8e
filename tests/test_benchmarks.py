"""Every benchmark runs at tiny sizes and tells what it found in one form; what they share counts right.

In this process and with nothing compiled, so that all of them take seconds; the figures are of no interest here.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pretended import GPU, PretendedGpu

from loopscope import subjects
from loopscope.evaluation import EvaluationConfig
from loopscope.shipped import MODELS
from loopscope.studies.machine import code, processor

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PREFIX_SUMS = MODELS / "prefix-sums"

SMALL = {
    "adapters": "--width 16 --tokens 8 --batch 2 --repeats 1 --threads 1",
    "examination": "--block settles --effort quick --inputs 4 --width 32 --threads 1",
    "fixed_points": "--case shipped --solver plain --examples 4 --repeats 1",
    "folding": "--width 32 --tokens 12 --batch 2 --threads 1 --repeats 3",
    "language_models": "--verb exits --positions all --width 16 --tokens 8 --texts 4 --words 30 --threads 1",
    "loading": "--tasks prefix-sums --width 32 --batch 2 --repeats 3",
    "spectrum": "--case small --examples 2 --iterations 3",
    "stacked": "--models 2 --width 32 --batch 2 --free 1 --gradient 1 --repeats 3",
    "training_step": "--width 32 --tokens 32 --batch 2 --iterations 1 --repeats 3 --threads 1",
    "until_settled": f"--run {PREFIX_SUMS} --examples 2 --iterations 60",
}
"""Options by benchmark."""

PLAUSIBLE = {
    "adapters": lambda row: 0.9 < row["calls"] <= 1,
    "examination": lambda row: 0 < row["parts"]["orbits"] < row["seconds"] and row["arrived"] == 4,
    "fixed_points": lambda row: row["arrived"] == 4 and 1 <= row["computed_over_needed"] < 1.02,
    "folding": lambda row: 0 < row["apart"] < 1e-4,
    "language_models": lambda row: row["tokens"] == 32 and row["seconds_per_1000"] > row["seconds"] > 0,
    "loading": lambda row: row["ratio"] > 1,
    "spectrum": lambda row: row["method"] != "ours" or row["worst_error"] < 0.01,
    "stacked": lambda row: 0.1 < row["speedup"] < 10,
    "training_step": lambda row: row["implementation"] != "plain" or row["speedup"] == 1,
    "until_settled": lambda row: (row["steps_saved"] > 0) == (row["split"] == "32 bits"),
}
"""What has to hold of each row."""
IN_A_BROWSER = {"lab"}
"""Benchmarks that browser_tests/test_lab.py tries."""


@pytest.fixture
def module(monkeypatch):
    """Return the import of a module of the benchmarks."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return lambda name: __import__(name)


def test_every_benchmark_is_tried():
    scripts = {file.stem for file in BENCHMARKS.glob("*.py") if "\ndef main()" in file.read_text()}
    assert scripts - IN_A_BROWSER == set(SMALL) == set(PLAUSIBLE)


@pytest.fixture
def told(module, monkeypatch, capsys):
    """Return what a benchmark prints."""

    def run(name: str, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *SMALL[name].split(), *options])
        monkeypatch.setattr(torch, "compile", lambda run, **options: run)
        monkeypatch.setitem(module("training_step").ROOFLINE_SIDE, "cpu", 64)
        capsys.readouterr()
        module(name).main()
        return capsys.readouterr().out

    return run


def numbers(value):
    """Return all numbers in a row."""
    parts = value.values() if isinstance(value, dict) else [value]
    return [part for part in parts if isinstance(part, float)] + [
        number for part in parts if isinstance(part, dict) for number in numbers(part)
    ]


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # curvlinops' dependencies
@pytest.mark.parametrize("name", SMALL)
def test_its_json_has_the_form_of_all(told, name):
    if name == "fixed_points":
        pytest.importorskip("torchdeq")
    found = json.loads(told(name, "--json"))
    assert set(found) == {"setting", "rows"}
    assert found["setting"]["machine"] == processor()
    assert found["setting"]["threads"] == torch.get_num_threads() == 1
    assert found["setting"]["code"] == code()
    assert found["setting"]["torch"] == torch.__version__
    assert found["rows"]
    for row in found["rows"]:
        assert set(row) == set(found["rows"][0])
        assert all(math.isfinite(number) for number in numbers(row))
        assert PLAUSIBLE[name](row), row


@pytest.mark.parametrize("verb", ["examine", "forecast"])
def test_the_cost_of_reading_is_measured(told, verb):
    small = f"--readout last --verb {verb} --width 16 --tokens 8 --batch 3 --words 40 --effort quick --iterations 20"
    (row,) = json.loads(told("adapters", *small.split(), "--json"))["rows"]
    assert 0 < row["stepping"] < row["seconds"]
    assert 0 < row["reading"] < row["seconds"]
    assert row["peak_gb"] > 0


@pytest.mark.filterwarnings("ignore:CUDA is not available or torch_xla is imported:UserWarning")
@pytest.mark.parametrize(
    "name", sorted(SMALL.keys() - {"adapters", "examination", "language_models", "spectrum", "stacked"})
)
def test_it_runs_on_a_gpu(told, module, monkeypatch, name):
    """Not tried: what starts processes, hands tensors to SciPy's relatives, maps over models or builds others' models."""
    if name == "fixed_points":
        pytest.importorskip("torchdeq")
    monkeypatch.setattr(subjects, "device", lambda: GPU)
    monkeypatch.setitem(module("training_step").ROOFLINE_SIDE, "cuda", 64)
    with PretendedGpu():
        found = json.loads(told(name, "--json"))
    assert found["rows"]
    assert all(PLAUSIBLE[name](row) for row in found["rows"])


def test_an_examination_and_a_radius_are_measured_on_a_gpu(module, monkeypatch):
    spectrum = module("spectrum")

    def case():
        return spectrum.make_case("small", spectrum.untrained("external", "outer", 32, 4), 2, 3)

    expected, _ = spectrum.dense(case())
    monkeypatch.setattr(subjects, "device", lambda: GPU)
    with PretendedGpu():
        assert module("examination").one("settles", "quick", 2, 32)["arrived"] == 2
        there = case()
        assert there.state.device == GPU
        found, _ = spectrum.ours(there)
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_gpu_is_waited_for_and_named(module, monkeypatch):
    timing, setting, waits = module("timing"), module("setting"), []
    assert setting.setting()["gpu"] is None
    assert (
        timing.processor_time() < timing.clock_time()
    )  # of a process that waited, and of a machine that was up before
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    timing.in_turn([lambda: None], 2)
    assert len(waits) == 4
    before = timing.clock_time()
    assert timing.processor_time() >= before
    assert len(waits) == 6
    assert setting.setting()["gpu"] == "GPU 0"


def test_fixed_points_are_of_the_model_that_ships_unless_told(module, monkeypatch):
    fixed_points = module("fixed_points")
    monkeypatch.setattr(fixed_points, "train_prefix_sums", lambda: pytest.fail("trained, unasked"))
    monkeypatch.setattr(fixed_points, "compare", lambda case, *_: case)
    cases = []
    monkeypatch.setattr(fixed_points, "print_results", lambda rows, *_: cases.extend(rows))
    monkeypatch.setattr(sys, "argv", ["fixed_points", "--examples", "2", "--width", "32", "--solver", "plain"])
    fixed_points.main()
    assert [case.name for case in cases] == ["untrained block, 81 x 32", "the model that ships, 64 x 64"]
    shipped = fixed_points.ls.load_model(PREFIX_SUMS).state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in cases[1].loop.state_dict().items())
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--case", "shipped", "--run", str(MODELS / "chess")])
    with pytest.raises(SystemExit, match="reads 12 numbers per token, expected a model of prefix sums"):
        fixed_points.main()


def test_until_settled_is_tried_on_every_model_that_ships(module):
    shipped = {folder.parent.name for folder in MODELS.glob("*/config.yaml")}
    assert set(module("until_settled").DEFAULT_RUNS) == shipped


def test_points_are_of_the_last_iteration_and_most_points_of_any(module, monkeypatch):
    until_settled = module("until_settled")

    def found(model, task, split, config):
        accuracy = [0.25, 0.5, 0.75] if config.until_settled else [0.25, 1.0, 0.5]
        settled, steps = SimpleNamespace(examples=4), SimpleNamespace(computed=6, full=12)
        curve = SimpleNamespace(answer_accuracy=accuracy, settled=settled, steps=steps)
        return until_settled.Found(curve, torch.zeros(4, 2), torch.tensor([True, True, False, False]), 1.0)

    monkeypatch.setattr(until_settled, "found", found)
    row = until_settled.compare(PREFIX_SUMS, "a", None, None, range(4), EvaluationConfig())
    assert (row.points, row.most_points, row.steps_saved) == (25, 50, 0.5)


def test_a_table_says_what_it_ran_on_and_has_a_line_a_row(told):
    first, heads, *lines = told("stacked").splitlines()
    assert processor() in first
    assert f"torch {torch.__version__}" in first
    assert "speedup" in heads
    assert ["eager" in lines[0], "compiled" in lines[1], len(lines)] == [True, True, 2]


def test_the_commit_is_that_of_the_checkout(module, monkeypatch, tmp_path):
    setting = module("setting")
    monkeypatch.setattr(setting, "__file__", str(tmp_path / "setting.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert setting.commit() is None
    author = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=tmp_path, env=os.environ | author, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    (tmp_path / "file").write_text("one")
    git("init", "--quiet")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    assert git("rev-parse", "HEAD").startswith(setting.commit())
    (tmp_path / "file").write_text("two")
    assert setting.commit().endswith("-dirty")


def test_rounds_run_all_in_turn_and_a_ratio_is_of_pairs(module):
    timing = module("timing")
    order, ticks = [], iter([0, 1, 1, 3, 3, 13, 13, 18])
    seconds = timing.in_turn([lambda: order.append("a"), lambda: order.append("b")], 2, clock=lambda: next(ticks))
    assert order == ["a", "b", "a", "b"]
    assert seconds == [[1, 10], [2, 5]]
    # The ratio of the medians would be 2.
    assert timing.median_ratio([1, 10, 100], [1, 5, 200]) == 1


@dataclass(frozen=True)
class Row:
    name: str
    share: float


def test_a_cell_is_printed_as_it_is(module, capsys):
    columns = {"name": lambda row: row.name, "share": lambda row: f"{row.share:.0%}"}
    module("output").print_results([Row("[bold]x[/bold]", 0.5)], columns, {"machine": "[a]"}, as_json=False)
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "machine [a]"
    assert "[bold]x[/bold]" in out
    assert "50%" in out
