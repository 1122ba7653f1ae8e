"""The tables of precisions: their command, and that predictions of two models come true."""

from __future__ import annotations

import re

from experiments.precision.__main__ import main
from experiments.precision.models import SUBJECTS


def test_the_command_prints_both_tables(capsys):
    assert main(["--models", "GRU cell", "pre-norm, drifting", "--inputs", "2", "--iterations", "120"]) == 0
    printed = capsys.readouterr().out
    assert "### Against float64 after 120 iterations" in printed
    assert "### Differences predicted from 30 iterations" in printed
    rows = re.findall(r"^\| (GRU cell|pre-norm, drifting), (\w+) \| .* \| ([\d.]+) \|$", printed, flags=re.M)
    assert [(model, low) for model, low, _ in rows] == [
        (model, low) for model in ("GRU cell", "pre-norm, drifting") for low in ("float32", "tf32", "bf16", "int8")
    ]
    assert all(0.5 < float(ratio) < 2 for *_, ratio in rows), rows
    assert "8 of 8 within a factor of 2." in printed


def test_the_models_are_five():
    assert len(SUBJECTS) == 5
    for name in ("pre-norm, drifting", "GRU cell", "chaotic cell"):
        assert len(SUBJECTS[name](2).inputs) == 2
