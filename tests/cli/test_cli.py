"""The command line: a run from training to a comparison, and one clear line for each mistake."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import read_lines
from safetensors.torch import load_file, save_file

import loopscope
from loopscope.cli import main
from loopscope.cli.arguments import parse_duration
from loopscope.cli.main import COMMANDS, CRASHED
from loopscope.errors import RESUMABLE
from loopscope.subjects import from_function
from loopscope.training.run_folder import RunFolder

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


def test_data_that_cannot_be_had_leave_no_run_behind(tmp_path, capsys):
    assert "only 256 exist" in refused(capsys, train(tmp_path / "run", "--data.strings", "300"))
    assert main(train(tmp_path / "run", steps=1)) == 0


@pytest.mark.parametrize("given", ["auto", "float32"])
def test_training_says_which_precision_it_chose(tmp_path, monkeypatch, capsys, given):
    monkeypatch.setattr("loopscope.training.precision.multiplies_bf16", lambda: False)
    assert main(train(tmp_path / "run", "--training.precision", given, steps=1)) == 0
    assert ("precision: float32" in capsys.readouterr().err) == (given == "auto")


def refused(capsys, arguments):
    """Return the one line that a command says when it refuses."""
    (line,) = failure(capsys, arguments)
    return line


def failure(capsys, arguments):
    """Return what a command says that fails: progress, if it had begun, and one line at the end."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    lines = said.strip().splitlines()
    assert status == 2
    assert lines[-1].startswith("loopscope: ")
    assert "Traceback" not in said
    assert not any(line.startswith("loopscope: ") for line in lines[:-1])
    return lines


def test_evaluate_writes_what_it_shows(run, capsys):
    assert main(["evaluate", str(run), "--iterations", "12", "--examples", "10"]) == 0
    found = json.loads((run / "evaluation.json").read_text())
    curve = found["splits"]["16 bits"]
    assert len(curve["answer_accuracy"]) == 12
    assert curve["examples"] == 10
    assert found["settings"]["training"]["seed"] == 0
    assert f"{100 * curve['best']:.1f}" in capsys.readouterr().out
    assert "iterations is 0" in refused(capsys, ["evaluate", run, "--iterations", "0"])


@pytest.mark.usefixtures("undrawn")
def test_evaluation_and_examination_agree(damaged):
    """They reach accuracy by different roads: over a split in batches, and along orbits."""
    assert main(["evaluate", str(damaged), "--iterations", "12", "--examples", "10"]) == 0
    options = ["--examination.effort", "quick", "--examination.iterations", "12", "--examination.examples", "10"]
    assert main(["examine", str(damaged), *options]) == 0
    evaluated = json.loads((damaged / "evaluation.json").read_text())["splits"]["8 bits"]
    examined = json.loads((damaged / "examination.json").read_text())
    assert examined["curves"]["accuracy"] == evaluated["answer_accuracy"]
    assert examined["settings"]["accuracy"] == evaluated["last"]


@pytest.mark.usefixtures("undrawn")
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
    same = ["--compare", f"{damaged}/", "--out", str(page), "--examination.seed", "1"]
    assert main(["examine", str(damaged), *options, *same]) == 0
    for title in (f"{damaged}, now", f"{damaged}/, as stored"):
        assert page.read_text().count(f"<h1>{title}</h1>") == 1


@pytest.mark.usefixtures("undrawn")
def test_an_examination_of_more_is_not_overwritten(run, tmp_path, capsys):
    def examined(*options):
        capsys.readouterr()
        assert main(["examine", str(run), *(f"--examination.{option}" for option in options)]) == 0
        return " ".join(capsys.readouterr().err.split())

    whole = ("effort=quick", "iterations=30", "examples=6")
    examined(*whole)
    before, page = (run / "examination.json").read_text(), (run / "report.html").read_bytes()
    for less in (("iterations=29",), ("examples=5",), ("prediction=true",)):
        said = examined(*whole, *less)
        assert (
            "holds an examination of effort quick, 6 inputs and at most 30 iterations, which covers more and is kept"
            in said
        )
        assert (run / "examination.json").read_text() == before
        assert (run / "report.html").read_bytes() == page
    out = tmp_path / "less.json"
    less = [f"--examination.{option}" for option in (*whole, "iterations=29")]
    assert main(["examine", str(run), *less, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["settings"]["iterations"] == 29
    (run / "examination.json").write_text("{}")
    assert "not written" not in examined(*whole, "iterations=29")
    assert json.loads((run / "examination.json").read_text())["settings"]["iterations"] == 29


def test_forecast_of_a_run_is_of_its_easy_problems_from_where_training_ended(run, capsys):
    assert main(["forecast", str(run), "--examples", "10"]) == 0
    table, _, words = capsys.readouterr().out.rpartition("10 inputs, ")
    rows = [line.split()[1] for line in table.splitlines() if " run " in line or " leapt " in line]
    assert (rows[0], rows[-1]) == ("4", "480")
    assert "answers as after 4" in table
    assert any(end in words for end in ("will keep its", "will lose", "will not keep", "cannot be forecast"))
    assert "examples is 0" in refused(capsys, ["forecast", run, "--examples", "0"])
    assert "did you mean --examples?" in refused(capsys, ["forecast", run, "--exampels", "3"])


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
    assert "stable (provisional" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["verdict"] == "stable"
    capsys.readouterr()
    assert main(["forecast", "mine:make", "--trained-iterations", "12"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "will keep the answers of iteration 12 to 480 iterations: 100% are the same there." in said
    assert "no function 'mak' (did you mean make?)" in refused(capsys, ["examine", "mine:mak"])
    assert "expected (loop, inputs)" in refused(capsys, ["examine", "mine:wrong"])
    assert "cannot import nothere" in refused(capsys, ["examine", "nothere:make"])


def test_a_function_may_import_its_neighbours_and_change_the_path(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("size = 3\n")
    (tmp_path / "own.py").write_text(
        "import sys, torch, loopscope as ls\n"
        "sys.path.insert(0, 'mine')\n"
        "def make():\n"
        "    from beside import size\n"
        "    loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)\n"
        "    return loop, torch.zeros(5, size)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", before := list(sys.path))
    kept = list(before)
    assert from_function("own:make").inputs.shape == (5, 3)
    assert sys.path == ["mine", *kept]


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"loopscope {loopscope.__version__}\n"


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("command", "option", "default"),
    [
        (["train", "prefix-sums"], "--model.recall", "default: internal"),
        (["evaluate"], "--iterations", "default: null"),
        (["examine"], "--examination.effort", "default: standard"),
        (["study"], "--workers", "default: null"),
    ],
)
def test_help_is_given_with_defaults(capsys, command, option, default):
    with pytest.raises(SystemExit) as leaving:
        main([*command, "--help"])
    assert leaving.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert option in shown
    assert default in shown


@pytest.mark.parametrize("command", ["train prefix-sums", "data sudoku", "evaluate"])
def test_usage_names_the_command(capsys, command):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: loopscope {command} [")
    assert "Path to a configuration file" not in shown  # groups of options take no file: --config does


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "did you mean train?"),
        (["train", "prefix-sum"], "chess (did you mean prefix-sums?)"),
        (
            ["data", "soduko"],
            "task is 'soduko', expected one of prefix-sums, small-sudoku, sudoku, chess (did you mean",
        ),
        (
            ["train", "--config", "c.yaml", "chess", "--out", "x"],
            "--config is given before the task, which must come first: loopscope train chess --config ...",
        ),
        (
            ["train", "prefix-sums", "--out", "x", "--data.test_bits", "8"],
            "data.test_bits: expected a list in brackets, such as [8], got 8",
        ),
        (["train", "prefix-sums", "--out", "x", "--data.test_bits", "8,16"], "such as [8,16], got 8,16"),
        (["train", "prefix-sums", "--out", "x", "--data.test_bits", "{}"], "in brackets, such as [1,2], got {}"),
        (
            ["train", "prefix-sums", "--out", "x", "--model.grid", "8"],
            "model.grid: expected a list in brackets, such as [8]",
        ),
        (["study", "nothere.yaml", "--out", ""], "--out is empty: give it a name, or leave the option out"),
        (["study", "nothere.yaml", "--out="], "--out is empty"),
        (["train", "prefix-sums", "--out", ""], "--out is empty"),
        (["examine", "nothere", "--compare", ""], "--compare is empty"),
        (["data", "--verify"], "loopscope data TASK --verify ..."),
        (["data", "small-sudoku"], "nothing to prepare: loopscope data is for sudoku and chess"),
        (["data", "prefix-sums", "--data.seed", "3", "--verify"], "the data of prefix-sums are generated from a seed"),
        (["train", "prefix-sums", "--out", "x", "--model.recal", "none"], "did you mean --model.recall?"),
        (["train", "prefix-sums", "--out", "x", "--model.recall", "inner"], "'internal', got inner"),
        (["train", "prefix-sums", "--out", "x", "--training.steps", "many"], "training.steps: expected int, got many"),
        (["train", "prefix-sums", "--out", "x", "--training.steps", "-1"], "steps is -1"),
        (["train", "prefix-sums", "--out", "x", "--model.heads", "7"], "choose heads that divide it"),
        (["train", "prefix-sums"], "required"),
        (
            ["train", "prefix-sums", "--out", "x", "--training.steps", "1:30"],
            "training.steps: expected numbers in base",
        ),
        (["train", "prefix-sums", "--out", "x", "--training.steps", ""], "training.steps: expected int, got ''"),
        (["train", "prefix-sums", "--out", "x", "--training.seed", "1" + "0" * 400], "training.seed is 1000"),
        (
            ["train", "prefix-sums", "--out", "x", "--model.mlp_ratio", str(2**63)],
            "model.mlp_ratio is 9223372036854775808",
        ),
        (
            ["train", "prefix-sums", "--out", "x", "--model.rope_base", "1" + "0" * 400],
            "model.rope_base: expected a number",
        ),
        (
            ["train", "prefix-sums", "--out", "x", "--model", "{width: 16}"],
            "--model is a group of options: give them one",
        ),
        (["evaluate", "nothere", "--iterations", "1:30"], "iterations: expected numbers in base 10, got 1:30"),
        (["forecast", "nothere", "--examples", "9" * 5000], "examples: expected a number that fits in 64 bits"),
        (["study", "nothere.yaml", "--workers", "1:30"], "workers: expected numbers in base 10, got 1:30"),
        (["study", "nothere.yaml"], "nothere.yaml does not exist"),
        (["evaluate", "nothere"], "holds no run"),
        (["examine", "nothere"], "holds no run"),
        (["study", "nothere.yaml", "--time-limitt", "3m"], "did you mean --time-limit?"),
        (["study", "nothere"], "nothere does not exist"),
        (["train"], "task"),
        (["train", "prefix-sums", "--out", "x", "--model.kernel_size", "x"], "model.kernel_size: expected int, got x"),
        (
            ["train", "prefix-sums", "--out", "x", "--model.window", "5"],
            "unknown option --model.window: it was replaced by model.kernel_size, the number of positions",
        ),
        (["train", "prefix-sums", "--out", "x", "--config", "nothere.yaml"], "nothere.yaml does not exist"),
        (["evaluate", "nothere", "--iterations", "many"], "iterations: expected int, got many"),
        (["evaluate"], "required"),
        (["examine", ":make"], "does not name a function"),
        (["examine", ".near:make"], "does not name a function"),
        (["examine", "nothere", "--examination.efort", "quick"], "did you mean --examination.effort?"),
        (["examine", "nothere", "--examination.tolerance", "2"], "tolerance is 2"),
        (["examine", "nothere", "--out", "nofolder/x.html"], "cannot write a file at nofolder/x.html"),
        (["data", "sudoku", "--out", "nofolder/x.csv"], "cannot write a file at nofolder/x.csv"),
        (["examine", "nothere", "--out", "x.pdf"], "expected one of .json, .html"),
        (["examine", "nothere", "--compare", "other", "--out", "x.json"], "expected one of .html"),
        (["examine", "nothere", "--compare", "other"], "other/examination.json does not exist"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, capsys, unchecked):
    assert said in refused(capsys, arguments)


def test_a_config_that_is_not_yaml_is_refused(tmp_path, capsys):
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    for command in (["study", bad], train(tmp_path / "run", "--config", bad)):
        assert f"{bad} is not valid YAML" in refused(capsys, command)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {nrom: pre}", "unknown setting 'model.nrom' for the task prefix-sums (did you mean model.norm?)"),
        ("modle: {norm: pre}", "did you mean model.norm?"),
        ("model: {window: 5, kernel_size: 5}", "window is 5 beside kernel_size 5"),
        ("training: {seed: many}", "training.seed: expected int, got many"),
        ("- 1", "holds list"),
        ("task: sudoku", "is for the task sudoku, but prefix-sums was asked for"),
    ],
)
def test_a_config_file_with_a_mistake_is_one_line(tmp_path, capsys, text, said):
    (tmp_path / "config.yaml").write_text(text)
    assert said in refused(capsys, train(tmp_path / "run", "--config", tmp_path / "config.yaml"))
    assert not (tmp_path / "run").exists()


def test_a_config_file_gives_settings_and_options_win(tmp_path, run, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(
        "task: prefix-sums\ntraining:\nevaluation: {}\nmodel: {norm: pre, recall: external, window: null}\n"
    )
    assert main(train(tmp_path / "run", "--config", str(config), "--model.recall", "none", steps=1)) == 0
    made = RunFolder(tmp_path / "run").settings()
    assert (made.model.norm, made.model.recall, made.model.width, made.model.kernel_size) == ("pre", "none", 16, 5)
    assert (made.training.steps, made.training.learning_rate) == (1, 1e-3)
    config.write_text("model: {window: 4}\n")
    assert main(train(tmp_path / "older", "--config", str(config), steps=1)) == 0
    older = RunFolder(tmp_path / "older").settings().model
    assert (older.attention, older.kernel_size) == ("banded", 9), "a distance of 4, as it meant"
    again = ["train", "prefix-sums", f"--config={run / 'config.yaml'}", "--out", str(run), "--resume"]
    assert main(again) == 0
    assert "has finished training" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(capsys, train(tmp_path / "file" / "run"))


def test_a_config_file_does_not_count_in_base_60(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("training: {steps: 1:30}\n")
    config = ["train", "prefix-sums", "--out", tmp_path / "run", "--config", tmp_path / "config.yaml"]
    assert "training.steps: expected numbers in base 10, got 1:30" in refused(capsys, config)
    (tmp_path / "plan.yaml").write_text("task: prefix-sums\ntraining: {steps: 1:30}\ngrid: {model.norm: [pre]}\n")
    assert "training.steps: expected numbers in base 10, got 1:30" in refused(capsys, ["study", tmp_path / "plan.yaml"])
    (tmp_path / "plan.yaml").write_text("task: prefix-sums\ngrid: {training.steps: [1:30]}\n")
    assert "training.steps: expected numbers in base 10, got 1:30" in refused(capsys, ["study", tmp_path / "plan.yaml"])


LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "prefix-sums", "--out", LONG],
        ["train", "prefix-sums", "--out", f"a/{LONG}/b"],
        ["train", "prefix-sums", "--out", "x", "--config", LONG],
        ["evaluate", LONG],
        ["trust", LONG],
        ["forecast", LONG],
        ["examine", LONG],
        ["examine", f"{LONG}:make"],
        ["examine", "nothere", "--out", f"{LONG}.html"],
        ["examine", "nothere", "--compare", LONG],
        ["solve", LONG, "01"],
        ["study", LONG],
        ["data", "sudoku", "--data.path", LONG],
        ["data", "sudoku", "--out", f"{LONG}.csv"],
    ],
)
def test_names_that_are_too_long_are_one_line_of_readable_length(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, arguments)
    assert "File name too long" in said
    assert len(said) < 300


def test_an_endless_word_is_shortened_in_a_message(capsys):
    assert (
        refused(capsys, ["x" * 5000]) == f"loopscope: unknown command '{'x' * 79}...{'x' * 18}'; see loopscope --help"
    )


@pytest.mark.parametrize("place", ["link", "link/run"])
def test_a_link_to_nothing_is_named(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.symlink("nowhere", "link")
    assert refused(capsys, train(place)).endswith(
        f"cannot write {place}: link is a link to a target that does not exist; remove the link or choose another folder"
    )
    Path("plan.yaml").write_text("task: prefix-sums\ngrid: {model.norm: [pre]}\n")
    assert "link is a link to a target that does not exist; remove" in refused(
        capsys, ["study", "plan.yaml", "--out", place]
    )


def test_a_run_without_its_weights_is_not_finished(damaged, run, capsys):
    (damaged / "model" / "model.safetensors").unlink()
    assert "has not finished training" in refused(capsys, ["evaluate", damaged])
    assert main(train(damaged, "--resume")) == 0
    said = capsys.readouterr().err
    assert "trained: " in said
    assert "has finished training" not in said
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (damaged, run)]
    assert weights[0] == weights[1]


def test_help_says_that_code_of_the_current_folder_is_run(capsys):
    for command in ("examine", "forecast"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert "runs that code from the current folder" in shown


def test_no_part_of_a_run_is_missing_from_its_list():
    folder = RunFolder(Path("run"))
    named = [getattr(folder, name) for name, member in vars(RunFolder).items() if isinstance(member, property)]
    assert set(folder.parts()) == set(named) - {folder.report, folder.training_page}


def test_a_run_is_not_trained_over(run, capsys):
    assert "add --resume" in refused(capsys, train(run))
    assert "other settings (model.norm outer, not pre)" in refused(
        capsys, train(run, "--resume", "--model.norm", "pre")
    )
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
    assert "truncated or damaged" in refused(capsys, ["evaluate", damaged])


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
    for command in ("evaluate", "examine"):
        assert "mixes two runs" in refused(capsys, [command, damaged])
    config.write_text(text.replace("heads: 2", "haeds: 2"))
    assert "did you mean model.heads?" in refused(capsys, ["evaluate", damaged])
    config.write_text("a: [")
    assert "not valid YAML" in refused(capsys, ["evaluate", damaged])


def test_a_run_that_has_not_finished_is_refused(damaged, capsys):
    (damaged / "model" / "config.json").unlink()
    for command in ("evaluate", "examine"):
        assert "has not finished training" in refused(capsys, [command, damaged])


def test_where_nothing_can_be_written_nothing_is_measured(damaged, capsys, monkeypatch):
    def read_only(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for stored in ("evaluation", "trust", "examination"):  # what is there already might be kept, and nothing written
        (damaged / f"{stored}.json").unlink(missing_ok=True)
    monkeypatch.setattr("loopscope.files.TemporaryFile", read_only)
    for command in ("evaluate", "trust", "examine"):
        assert f"cannot write {damaged}" in refused(capsys, [command, damaged])
    assert f"cannot write {damaged / 'page.html'}" in refused(
        capsys, ["examine", "nothere:make", "--out", damaged / "page.html"]
    )


def test_training_that_diverges_ends_in_one_line(tmp_path, capsys):
    lines = failure(capsys, train(tmp_path / "run", "--training.learning_rate", "1e30"))
    assert "diverged at step" in lines[-1]
    assert "lower training.learning_rate" in lines[-1]


def test_a_full_disk_loses_nothing(tmp_path, run, capsys, monkeypatch):
    """The disk is full once the first checkpoint is there; with space again, the run ends as one that was never stopped."""
    out = tmp_path / "run"
    flush = os.fsync

    def fsync(number):
        if list(out.glob("state/step-*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(number)

    monkeypatch.setattr(os, "fsync", fsync)
    lines = failure(capsys, train(out))
    assert lines[-1].startswith(f"loopscope: cannot write {out}")
    assert "No space left on device" in lines[-1]
    assert [path.name for path in (out / "state").iterdir()] == ["step-0000003"]
    monkeypatch.undo()
    assert main(train(out, "--resume")) == 0
    assert (out / "model" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()


def test_a_run_to_resume_that_is_not_there_begins_and_says_so(tmp_path, capsys):
    out = tmp_path / "rnu"
    said = f"{out} holds no run to resume: starting a new one"
    assert main(train(out, "--resume", steps=1)) == 0
    assert said in capsys.readouterr().err
    assert main(train(out, "--resume", steps=1)) == 0
    assert "starting a new one" not in capsys.readouterr().err
    (tmp_path / "thesis.tex").write_text("")
    assert "is not empty and holds no run" in refused(capsys, train(tmp_path, "--resume"))
    assert main(train(tmp_path / "new", steps=1)) == 0
    assert "starting a new one" not in capsys.readouterr().err


def test_a_signal_leaves_a_checkpoint_and_the_run_resumes(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "loopscope.cli", *train(out, steps=400)]
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
    assert main(train(out, "--resume", steps=400)) == 0
    assert (out / "model" / "model.safetensors").is_file()
    steps = [row["step"] for row in read_lines(out / "metrics.jsonl")]
    assert steps == list(range(10, 401, 10))


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("30s", 30), ("9m", 540), ("1h30m", 5400), ("2h", 7200)])
def test_durations(text, expected):
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "m", "3 weeks", "-5s", "1h30", "9m5"])
def test_what_is_no_duration_is_refused(text, tmp_path, capsys):
    plan = tmp_path / "plan.yaml"
    plan.write_text("task: prefix-sums\ngrid: {model.norm: [pre]}\n")
    assert "is not a duration" in refused(capsys, ["study", plan, f"--time-limit={text}"])


def test_a_crash_has_a_status_of_its_own(tmp_path):
    """Whoever goes on past runs that failed, which is status 1, does not go on past a program that fell."""
    (tmp_path / "mine.py").write_text("def make():\n    return 1 / 0\n")
    done = subprocess.run(
        [sys.executable, "-m", "loopscope.cli", "examine", "mine:make"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == CRASHED
    assert "ZeroDivisionError" in done.stderr
    assert "please report the lines above" in done.stderr.splitlines()[-1]
