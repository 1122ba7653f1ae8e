"""The script that puts a model into the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.shipping.__main__ import card, ship
from loopscope.models import build_model
from loopscope.shipped import MODELS
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.settings import settings_from


def test_a_shipped_run_has_a_card_and_the_files_that_answering_needs(tmp_path: Path) -> None:
    settings = settings_from({"task": "prefix-sums", "model": {"width": 8, "heads": 2}})
    run = open_run(tmp_path / "run", settings, resume=False)
    torch.manual_seed(0)
    build_model(settings.model).save_pretrained(run.model)
    curve = {
        "examples": 50,
        "answer_accuracy": [0.5] * 7 + [0.9] * 23,
        "last": 0.9,
        "settled": {"tolerance": 1e-4, "examples": 40, "right": 40},
        "other_rules": {"another rule": [0.1, 0.7]},
    }
    run.evaluation.write_text(json.dumps({"settings": {"evaluation": {"examples": 50}}, "splits": {"32 bits": curve}}))
    axis = {"name": "geometry", "status": "holds", "reason": "radius 0.5"}
    examined = {"effort": "quick", "inputs": 16}
    run.examination.write_text(
        json.dumps(
            {"verdict": "unknown", "provisional": True, "advice": "Train.", "axes": [axis], "settings": examined}
        )
    )
    run.trust.write_text("{}")
    folder = ship(run, "loopscope train prefix-sums", "made here, CC0", tmp_path / "shipped")
    assert folder.name == "prefix-sums"
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "card.md", "config.json", "config.yaml", "evaluation.json", "examination.json", "model.safetensors", "trust.json",
    ]  # fmt: skip
    card = (folder / "card.md").read_text()
    assert "| 32 bits | 50 | 50.0 | 90.0 | 90.0 | 90.0 | 40 | 100.0 | 50.0 |" in card
    assert 'By the rule "another rule", 32 bits: 70.0% at the last iteration.' in card
    assert "Command: `loopscope evaluate RUN --examples 50`" in card
    assert "| geometry | holds | radius 0.5 |" in card
    assert "undecided (provisional): Train." in card


@pytest.mark.parametrize("task", ["chess", "prefix-sums", "sudoku"])
def test_the_cards_in_the_package_are_those_that_the_script_writes(task: str) -> None:
    """Apart from the words about the data and the command, which are given by hand."""
    run = RunFolder(MODELS / task)
    written = card(run, "COMMAND", "LICENCE").splitlines()
    committed = (MODELS / task / "card.md").read_text().splitlines()
    assert len(written) == len(committed)
    differing = [line for line, other in zip(written, committed, strict=True) if line != other]
    assert differing == ["Data: LICENCE.", "    COMMAND"]
