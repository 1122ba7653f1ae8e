"""The command line: a run from training to a comparison, and one clear line for each mistake."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file, save_file

from loopscope.cli import main, seconds
from loopscope.errors import RESUMABLE

TINY = [
    *("--data.train_bits", "8", "--data.test_bits", "[8,16]", "--data.strings", "60", "--data.test_strings", "20"),
    *("--model.width", "16", "--model.heads", "2", "--training.batch_size", "8", "--training.max_iterations", "4"),
    *("--training.compile", "false", "--training.checkpoint_interval", "3", "--evaluation.iterations", "10"),
]


def train(out, *more, steps=6):
    return ["train", "prefix-sums", "--out", str(out), "--training.steps", str(steps), *TINY, *more]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    assert main(train(out)) == 0
    return out


def refused(capsys, arguments):
    """Return the one line that a command says when it refuses."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    lines = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("loopscope: ")
    return lines[0]


def test_evaluate_writes_what_it_shows(run, capsys):
    assert main(["evaluate", str(run), "--iterations", "12", "--examples", "10"]) == 0
    found = json.loads((run / "evaluation.json").read_text())
    curve = found["splits"]["16 bits"]
    assert len(curve["answer_accuracy"]) == 12
    assert curve["examples"] == 10
    assert found["settings"]["training"]["seed"] == 0
    assert f"{100 * curve['best']:.1f}" in capsys.readouterr().out


def test_examine_and_compare(run, damaged, tmp_path, capsys):
    options = ["--examination.effort", "quick", "--examination.iterations", "30", "--examination.examples", "6"]
    assert main(["examine", str(damaged), *options]) == 0
    assert main(["examine", str(run), *options]) == 0
    shown = capsys.readouterr().out
    found = json.loads((run / "examination.json").read_text())
    assert found["verdict"] in shown
    assert found["settings"]["trained_iterations"] == 4
    assert (run / "report.html").exists()
    page = tmp_path / "both.html"
    assert main(["examine", str(run), *options, "--compare", str(damaged), "--out", str(page)]) == 0
    assert str(run) in page.read_text()
    assert str(damaged) in page.read_text()


def test_any_importable_loop_is_examined(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "import torch, loopscope as ls\n"
        "def make():\n"
        "    loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)\n"
        "    return loop, torch.randn(5, 3)\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["examine", "mine:make", "--examination.effort", "quick", "--out", "x.json"]) == 0
    assert "keeps its answer" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["verdict"] == "keeps its answer"
    assert "no function 'mak' (did you mean make?)" in refused(capsys, ["examine", "mine:mak"])
    assert "expected (loop, inputs)" in refused(capsys, ["examine", "mine:wrong"])
    assert "cannot import nothere" in refused(capsys, ["examine", "nothere:make"])


def test_help_is_given_with_defaults(capsys):
    assert main(["--help"]) == 0
    assert "examine" in capsys.readouterr().out
    with pytest.raises(SystemExit) as leaving:
        main(["train", "prefix-sums", "--help"])
    shown = capsys.readouterr().out
    assert leaving.value.code == 0
    assert "--model.recall" in shown
    assert "default: internal" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "did you mean train?"),
        (["train", "prefix-sum"], "invalid choice"),
        (["train", "prefix-sums", "--out", "x", "--model.recal", "none"], "did you mean --model.recall?"),
        (["train", "prefix-sums", "--out", "x", "--model.recall", "inner"], "'internal', got inner"),
        (["train", "prefix-sums", "--out", "x", "--training.steps", "many"], "training.steps: expected int, got many"),
        (["train", "prefix-sums", "--out", "x", "--training.steps", "-1"], "steps is -1"),
        (["train", "prefix-sums", "--out", "x", "--model.heads", "7"], "choose heads that divide it"),
        (["train", "prefix-sums"], "required"),
        (["study", "nothere.yaml"], "nothere.yaml does not exist"),
        (["evaluate", "nothere"], "holds no run"),
        (["examine", "nothere"], "holds no run"),
        (["study", "nothere.yaml", "--time-limitt", "3m"], "did you mean --time-limit?"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, capsys, unchecked):
    assert said in refused(capsys, arguments)


def test_a_config_that_is_not_yaml_is_refused(tmp_path, capsys):
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    assert "not valid YAML" in refused(capsys, ["study", bad])


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(capsys, train(tmp_path / "file" / "run"))


def test_a_run_is_not_trained_over(run, capsys):
    assert "add --resume" in refused(capsys, train(run))
    assert "other settings (model)" in refused(capsys, train(run, "--resume", "--model.norm", "pre"))
    assert main(train(run, "--resume")) == 0
    assert "has finished training" in capsys.readouterr().err


@pytest.fixture
def damaged(run, tmp_path):
    """Return a copy of the run, to be damaged."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(run), str(copy)], check=True)
    return copy


def test_weights_that_are_cut_are_refused(damaged, capsys):
    weights = damaged / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert "cut or damaged" in refused(capsys, ["evaluate", damaged])


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_weights_with_other_tensors_are_refused(damaged, capsys, change):
    path = damaged / "model" / "model.safetensors"
    weights = load_file(path)
    if change == "missing":
        weights.pop("embedding.weight")
    else:
        weights["another"] = weights["embedding.weight"].clone()
    save_file(weights, path)
    assert change in refused(capsys, ["evaluate", damaged])


def test_a_run_of_another_task_or_model_is_refused(damaged, capsys):
    config = damaged / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("task: prefix-sums", "task: sudoko"))
    assert "task is 'sudoko'" in refused(capsys, ["evaluate", damaged])
    config.write_text(text.replace("norm: outer", "norm: sandwich"))
    assert "mixes two runs" in refused(capsys, ["evaluate", damaged])


def test_a_signal_leaves_a_checkpoint_and_the_run_resumes(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "loopscope.cli", *train(out, steps=4000)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("state/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == RESUMABLE
    assert "SIGTERM" in said
    (checkpoint,) = out.glob("state/step-*")
    assert f"after step {int(checkpoint.name.removeprefix('step-'))}:" in " ".join(said.split())


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("30s", 30), ("9m", 540), ("1h30m", 5400), ("2h", 7200)])
def test_durations(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "m", "3 weeks", "-5s"])
def test_what_is_no_duration_is_refused(text, tmp_path, capsys):
    plan = tmp_path / "plan.yaml"
    plan.write_text("task: prefix-sums\ngrid: {model.norm: [pre]}\n")
    assert "is no duration" in refused(capsys, ["study", plan, f"--time-limit={text}"])
