"""Progress off a terminal: a line now and then, with the time left."""

import io

import pytest
from rich.console import Console
from small_runs import TINY, finished

from loopscope import progress
from loopscope.cli import main
from loopscope.files import write_json


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(work) -> list[str]:
    file = io.StringIO()
    work(Console(file=file, width=40))
    return file.getvalue().splitlines()


def test_a_line_every_half_minute_says_how_much_is_done_and_the_time_left(clock):
    def work(console):
        with progress.bar("evaluate", 400, console=console) as update:
            for _ in range(100):
                clock[0] += 1
                update(advance=1, note="loss 0.5")

    assert lines_of(work) == [
        f"evaluate: {done} of 400, {left} left, loss 0.5"
        for done, left in ((30, "6m 10s"), (60, "5m 40s"), (90, "5m 10s"))
    ]


def test_the_pace_of_resumed_work_is_that_of_what_was_done_now(clock):
    def work(console):
        with progress.bar("train", 1000, console=console) as update:
            for step in range(900, 941):
                update(completed=step)
                clock[0] += 1

    assert lines_of(work) == ["train: 930 of 1,000, 1m 10s left"]


def test_an_unknown_total_and_parts(clock):
    def work(console):
        lines = progress.Lines(console, "download", None)
        clock[0] += 31
        lines.update(completed=5)
        parts = progress.Lines(console, "examine", None)
        parts.part("too soon")
        clock[0] += 62
        parts.part("swaps")

    assert lines_of(work) == ["download: 5", "examine: swaps, after 1m 02s"]


def test_a_terminal_gets_a_bar():
    file = io.StringIO()
    with progress.bar("evaluate", 4, console=Console(file=file, force_terminal=True, width=80)) as update:
        update(advance=2, note="half")
    assert "2/4" in file.getvalue()
    assert "half" in file.getvalue()


@pytest.mark.parametrize("command", ["evaluate", "trust", "examine", "train"])
def test_commands_whose_output_is_a_file_say_how_far_they_are(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET_INTERVAL", 0.0)
    if command == "train":
        write_json(tmp_path / "tiny.json", TINY)
        arguments = ["train", "prefix-sums", "--config", str(tmp_path / "tiny.json"), "--out", str(tmp_path / "run")]
        expected = "train: 3 of 6"
    else:
        run = finished(tmp_path / "run", task="prefix-sums", data={"train_bits": 8, "test_bits": [8], "strings": 40})
        arguments = [command, str(run.path)]
        expected = {"evaluate": "evaluate: 30 of 60, ", "trust": "trust: 30 of 60, "}.get(command, ": swaps, after ")
        arguments += ["--examination.effort", "quick", "--examination.iterations", "30"] if command == "examine" else []
    assert main(arguments) == 0
    assert expected in capsys.readouterr().err
