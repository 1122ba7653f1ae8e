"""The command that compares early-exit rules: its table, its files, and what it refuses."""

from __future__ import annotations

import json

import pytest
from commands import refusal
from small_runs import finished

from loopscope.cli import main

DATA = {"train_bits": 8, "test_bits": [8, 12], "strings": 60, "test_strings": 60}


@pytest.fixture
def run(tmp_path):
    return finished(tmp_path / "run", task="prefix-sums", data=DATA).path


def test_it_prints_every_rule_and_writes_a_page_and_numbers(run, tmp_path, capsys):
    page, numbers = tmp_path / "exits.html", tmp_path / "exits.json"
    assert main(["exits", str(run), "--examples", "20", "--iterations", "12", "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert "accuracy of 12 examples over 12 iterations" in said
    for rule in ("fixed", "residual", "cosine", "KL divergence", "entropy", "patience"):
        assert rule in said
    assert main(["exits", str(run), "--examples", "20", "--iterations", "12", "--out", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    assert (found["unit"], found["units"], found["iterations"]) == ("example", 12, 12)
    text = page.read_text()
    assert "When should it stop?" in text
    assert "Not compared: gate" in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_another_split_is_measured_by_name(run, capsys):
    assert main(["exits", str(run), "--split", "12 bits", "--examples", "4", "--iterations", "5"]) == 0
    assert "accuracy of 4 examples over 5 iterations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "12 bit"], "the split is '12 bit'"),
        (["--out", "exits.pdf"], "ending"),
        (["--examples", "0"], "examples"),
        (["--iterations", "0"], "iterations"),
    ],
)
def test_mistakes_are_refused_in_one_line(run, capsys, options, message):
    assert message in refusal(capsys, ["exits", run, *options])
