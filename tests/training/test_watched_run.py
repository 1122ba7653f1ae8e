"""Runs with --watch: the same training bit for bit, records beside the metrics, stopping, resuming, and the page."""

import json
import re

import pytest
import torch
from commands import read_lines
from safetensors.torch import load_file
from small_runs import TINY, tiny

from loopscope.cli import main
from loopscope.errors import LoopscopeError
from loopscope.files import append_line
from loopscope.training.checkpoints import latest_checkpoint
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.trainer import train
from loopscope.training.watch.of_run import watch_of_run, watched_until_now
from loopscope.training.watch.watch import StopSignal


def watching(run: RunFolder, settings, on_collapse=lambda record: None):
    return lambda model: watch_of_run(settings, run, model, on_collapse, every=2)


def trained(folder, settings, watched: bool, **options) -> RunFolder:
    run = open_run(folder, settings, resume=folder.exists())
    train(settings, run, make_watch=watching(run, settings) if watched else None, **options)
    return run


def assert_equal_runs(one: RunFolder, other: RunFolder) -> None:
    ours, theirs = (load_file(run.model / "model.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    states = [load_file(latest_checkpoint(run.state) / "optimizer.safetensors") for run in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    timeless = [[{**row, "seconds": 0} for row in read_lines(run.metrics)] for run in (one, other)]
    assert timeless[0] == timeless[1]


def timeless(run: RunFolder) -> list[dict]:
    return [{**record.to_dict(), "seconds": 0} for record in watched_until_now(run)]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_watched_run_is_the_same_bit_for_bit_and_so_is_one_that_is_resumed(tmp_path, precision):
    settings, steps = tiny(precision=precision), []
    plain = trained(tmp_path / "plain", settings, watched=False)
    whole = trained(tmp_path / "whole", settings, watched=True)
    assert_equal_runs(plain, whole)
    records = watched_until_now(whole)
    assert [record.step for record in records] == [2, 4, 6]
    assert all(record.radius and not record.unknown.keys() - {"swaps"} for record in records)

    run = trained(
        tmp_path / "resumed",
        settings,
        watched=True,
        on_step=lambda step, loss: steps.append(step),
        should_stop=lambda: "SIGTERM" if steps[-1] == 3 else None,
    )
    append_line(run.watch, {**records[1].to_dict(), "residual": 99.0})  # of a step that will be repeated
    trained(run.path, settings, watched=True)
    assert_equal_runs(plain, run)
    assert timeless(run) == timeless(whole)


def test_a_watch_that_asks_to_stop_leaves_a_run_that_goes_on(tmp_path):
    settings = tiny()
    run = open_run(tmp_path / "run", settings, resume=False)

    def make_watch(model):
        watch = watching(run, settings)(model)
        watch.stop = StopSignal(1, "a collapse is forecast")
        return watch

    outcome = train(settings, run, make_watch=make_watch)
    assert (outcome.step, outcome.stopped) == (1, "the watch (a collapse is forecast)")
    assert latest_checkpoint(run.state).name == "step-0000001"
    assert train(settings, run).stopped is None
    assert_equal_runs(trained(tmp_path / "plain", settings, watched=False), run)


def test_a_fixed_depth_model_cannot_be_watched(tmp_path):
    settings = tiny({"architecture": "fixed-depth", "recall": "none"})
    run = open_run(tmp_path / "run", settings, resume=False)
    with pytest.raises(LoopscopeError, match="a watch was asked for with a fixed-depth model, which does not iterate"):
        train(settings, run, make_watch=watching(run, settings))


def command(folder, *more: str) -> list[str]:
    sections = {section: values for section, values in TINY.items() if section != "task"}
    options = [
        f"--{section}.{name}={json.dumps(value) if not isinstance(value, str) else value}"
        for section, values in sections.items()
        for name, value in values.items()
    ]
    return ["train", "prefix-sums", "--out", str(folder), *options, *more]


def test_the_command_writes_records_and_a_page(tmp_path, capsys):
    assert main(command(tmp_path / "run", "--watch", "--watch-every", "3")) == 0
    assert re.search(r"watched: \S*training\.html", capsys.readouterr().err.replace("\n", ""))
    run = RunFolder(tmp_path / "run")
    assert [record.step for record in watched_until_now(run)] == [3, 6]
    assert "No collapse was flagged" in run.training_page.read_text()
    assert {run.watch, run.metrics} <= set(run.parts())


def test_steps_between_measurements_need_a_watch(tmp_path, capsys):
    assert main(command(tmp_path / "run", "--watch-every", "3")) == 2
    assert "--watch-every 3 was given without --watch" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
