"""Resuming: bit for bit after a kill, a request to stop or a full disk; and damaged checkpoints are refused."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import read_lines
from safetensors.torch import load_file, save_file
from small_runs import tiny

from loopscope import files
from loopscope.errors import LoopscopeError
from loopscope.files import append_line, read_json
from loopscope.training.checkpoints import latest_checkpoint
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.trainer import train


def trained(folder: Path, settings, **options) -> RunFolder:
    run = open_run(folder, settings, resume=folder.exists())
    train(settings, run, **options)
    return run


def assert_equal_runs(one: RunFolder, other: RunFolder) -> None:
    ours, theirs = (load_file(run.model / "model.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    timeless = [[{**row, "seconds": 0} for row in read_lines(run.metrics)] for run in (one, other)]
    assert timeless[0] == timeless[1]


KILLED = """
import json, sys, time
from pathlib import Path
from loopscope.training.run_folder import open_run
from loopscope.training.settings import settings_from
from loopscope.training.trainer import train

def tell(step, loss):
    print(step, flush=True)
    time.sleep(0.02)  # so that the kill lands within the run

settings = settings_from(json.loads(sys.argv[2]))
train(settings, open_run(Path(sys.argv[1]), settings, resume=False), on_step=tell)
"""


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_run_killed_at_a_random_step_resumes_bit_for_bit(tmp_path, precision):
    settings = tiny(
        {"norm": "gru"}, steps=40, checkpoint_interval=3, schedule="paper", precision=precision, sampler="poisson"
    )
    whole = trained(tmp_path / "whole", settings)
    last = random.SystemRandom().randrange(4, 36)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), json.dumps(settings.to_dict())],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if int(line) == last:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    killed = RunFolder(tmp_path / "killed")
    assert not killed.finished()
    kept = read_json(latest_checkpoint(killed.state) / "progress.json")["step"]
    assert last - 3 <= kept < 40, f"killed after step {last}"
    steps = []
    trained(killed.path, settings, on_step=lambda step, loss: steps.append(step))
    assert steps == list(range(kept + 1, 41))
    assert_equal_runs(killed, whole)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_run_asked_to_stop_saves_and_resumes_bit_for_bit(tmp_path, stop_after):
    settings, steps = tiny(), []
    whole = trained(tmp_path / "whole", settings)
    run = open_run(tmp_path / "stopped", settings, resume=False)

    def should_stop() -> str | None:
        return "SIGTERM" if len(steps) == stop_after else None

    outcome = train(settings, run, on_step=lambda step, loss: steps.append(step), should_stop=should_stop)
    assert (outcome.step, outcome.stopped) == (stop_after, "SIGTERM")
    assert [path.name for path in run.state.iterdir()] == [f"step-{stop_after:07d}"]
    assert not run.finished()
    outcome = train(settings, run, should_stop=lambda: None)
    assert (outcome.step, outcome.stopped) == (6, None)
    assert_equal_runs(run, whole)


def test_a_request_at_the_last_step_does_not_keep_a_run_from_finishing(tmp_path):
    settings = tiny(steps=1)
    run = open_run(tmp_path / "run", settings, resume=False)
    assert train(settings, run, should_stop=lambda: "SIGINT").stopped is None
    assert run.finished()


def test_a_finished_run_trains_no_further(tmp_path):
    settings = tiny()
    run = trained(tmp_path / "run", settings)
    before, steps = load_file(run.model / "model.safetensors"), []
    trained(run.path, settings, on_step=lambda step, loss: steps.append(step))
    assert steps == []
    assert all(torch.equal(value, before[name]) for name, value in load_file(run.model / "model.safetensors").items())
    assert len(read_lines(run.metrics)) == 6


def test_metrics_after_the_checkpoint_and_a_cut_line_are_done_again(tmp_path):
    settings = tiny()
    whole = trained(tmp_path / "whole", settings)
    run = open_run(tmp_path / "run", settings, resume=False)
    train(settings, run, should_stop=lambda: "SIGTERM" if len(read_lines(run.metrics)) == 3 else None)
    append_line(run.metrics, {"step": 4, "loss": 99.0})
    with open(run.metrics, "a") as file:
        file.write('{"step": 5, "lo')
    train(settings, run)
    assert_equal_runs(run, whole)


def stopped_at_three(folder: Path) -> tuple[RunFolder, Path]:
    """Return a run that was stopped after its third step, and its checkpoint."""
    settings = tiny()
    run = open_run(folder, settings, resume=False)
    train(settings, run, should_stop=lambda: "SIGTERM" if len(read_lines(run.metrics)) == 3 else None)
    return run, run.state / "step-0000003"


@pytest.mark.parametrize(
    ("part", "nth"), [("model.safetensors", 1), ("optimizer.safetensors", 1), ("progress.json", 1), ("rename", 1)]
)
def test_a_full_disk_keeps_the_last_checkpoint_and_leaves_no_partial_file(tmp_path, monkeypatch, part, nth):
    settings = tiny()
    whole = trained(tmp_path / "whole", settings)
    run, checkpoint = stopped_at_three(tmp_path / "run")
    replace = os.replace

    def full_disk(source, target):
        if Path(target).name == part or (part == "rename" and Path(source).name == "partial"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(
        LoopscopeError, match=r"cannot write .*: No space left on device; free space or choose another folder"
    ):
        train(settings, run)
    assert list(run.state.iterdir()) == [checkpoint]
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "progress.json",
    ]
    monkeypatch.undo()
    train(settings, run)
    assert_equal_runs(run, whole)


def test_a_folder_that_cannot_be_written_stops_the_run_in_one_line(tmp_path):
    settings = tiny()
    run = open_run(tmp_path / "run", settings, resume=False)
    run.state.write_text("a file where the checkpoints should go")
    with pytest.raises(LoopscopeError, match=r"cannot write .*run/state: File exists; [^\n]*$"):
        train(settings, run)


def change(name: str, edit):
    """Return a function that edits the tensors of one file of a checkpoint."""

    def apply(checkpoint: Path) -> None:
        tensors = load_file(checkpoint / name)
        edit(tensors)
        save_file(tensors, checkpoint / name)

    return apply


def cut(name: str, kept: float):
    """Return a function that truncates one file of a checkpoint."""

    def apply(checkpoint: Path) -> None:
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content[: int(kept * len(content))])

    return apply


def put(name: str, content: str):
    """Return a function that writes one file of a checkpoint anew."""
    return lambda checkpoint: (checkpoint / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (change("model.safetensors", lambda t: t.pop("embedding.bias")), "does not fit the model: .*embedding.bias"),
        (change("model.safetensors", lambda t: t.update(extra=torch.zeros(1))), "does not fit the model: .*extra"),
        (change("model.safetensors", lambda t: t.update({"embedding.bias": torch.zeros(3)})), "embedding.bias"),
        (change("optimizer.safetensors", lambda t: t.pop("0.exp_avg")), "lacks tensors of parameter 0"),
        (change("optimizer.safetensors", lambda t: t.update({"99.step": torch.zeros(())})), "does not fit .*: 99.step"),
        (change("optimizer.safetensors", lambda t: t.update(extra=torch.zeros(1))), "does not fit the model: extra"),
        (change("optimizer.safetensors", lambda t: t.update({"0.exp_avg": torch.zeros(3)})), r"0.exp_avg \(3,\)"),
        (cut("model.safetensors", 0.5), "model.safetensors cannot be read as safetensors"),
        (cut("optimizer.safetensors", 0.99), "optimizer.safetensors cannot be read as safetensors"),
        (cut("optimizer.safetensors", 0), "optimizer.safetensors cannot be read as safetensors"),
        (cut("progress.json", 0.5), "progress.json is not valid JSON.*: remove its folder to start over"),
        (put("progress.json", "{}"), r"progress.json is damaged \(step is missing\): remove its folder to start over"),
        (put("progress.json", "[1]"), r"progress.json is damaged \(it is \[1\], expected a mapping\)"),
        (put("progress.json", '{"step": "3", "seconds": 1}'), "step is '3', expected a whole number"),
        (lambda checkpoint: (checkpoint / "model.safetensors").unlink(), "model.safetensors cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_line_and_nothing_is_lost(tmp_path, damage, complaint):
    run, checkpoint = stopped_at_three(tmp_path / "run")
    damage(checkpoint)
    content = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(LoopscopeError, match=complaint) as caught:
        train(tiny(), run)
    assert "\n" not in str(caught.value)
    assert str(checkpoint) in str(caught.value)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == content


@pytest.mark.parametrize("line", ["[1]", '{"loss": 1.0}', '{"step": null}'])
def test_a_foreign_line_of_the_metrics_is_named(tmp_path, line):
    run, _ = stopped_at_three(tmp_path / "run")
    before = run.metrics.read_text()
    run.metrics.write_text(f"{before}\n{line}\n")
    with pytest.raises(LoopscopeError, match=r"metrics.jsonl, line 5 has no step: remove that line and run again"):
        train(tiny(), run)
    run.metrics.write_text(before)
    train(tiny(), run)
    assert run.finished()


def test_a_checkpoint_without_progress_was_never_whole(tmp_path):
    run, checkpoint = stopped_at_three(tmp_path / "run")
    (checkpoint / "progress.json").unlink()
    assert latest_checkpoint(run.state) is None
    assert latest_checkpoint(tmp_path / "absent") is None


def test_a_checkpoint_that_a_kill_left_beside_the_newest_is_removed_on_resuming(tmp_path):
    run, checkpoint = stopped_at_three(tmp_path / "run")
    shutil.copytree(checkpoint, run.state / "step-0000002")
    before_saving = []
    train(
        tiny(),
        run,
        on_step=lambda done, loss: before_saving.append([path.name for path in run.state.iterdir()]),
        should_stop=lambda: "SIGTERM",
    )
    assert before_saving == [["step-0000003"]]
    assert [path.name for path in run.state.iterdir()] == ["step-0000004"]


@pytest.mark.parametrize("place", ["state", "state/partial"])
def test_a_planted_link_among_checkpoints_is_refused_and_its_target_kept(tmp_path, place):
    run = open_run(tmp_path / "run", tiny(), resume=False)
    target = tmp_path / "precious"
    (target / "step-0000001").mkdir(parents=True)
    (run.path / place).parent.mkdir(exist_ok=True)
    (run.path / place).symlink_to(target)
    with pytest.raises(LoopscopeError, match=rf"run/{place} is a link, expected a folder of this run: remove the link"):
        train(tiny(), run)
    assert [path.name for path in target.iterdir()] == ["step-0000001"]


@pytest.mark.parametrize(
    "options", [{"learning_rate": 9e37, "schedule": "constant"}, {"weight_decay": 1e308, "learning_rate": 1e3}]
)
def test_weights_that_are_not_finite_are_not_saved_as_trained(tmp_path, options):
    """The loss of the last step was finite: its weights are only seen when they are saved."""
    settings = tiny(steps=1, **options)
    run = open_run(tmp_path / "run", settings, resume=False)
    with pytest.raises(LoopscopeError, match=r"training diverged at step 1: \d+ parameters are not finite, .* lower"):
        train(settings, run)
    assert not run.finished()
    assert latest_checkpoint(run.state) is None
