"""What the repository ships: configs that are plans, and the script that ships a model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import torch

from loopscope.models import build_model
from loopscope.studies import read_plan
from loopscope.training.run_folder import open_run
from loopscope.training.settings import settings_from

ROOT = Path(__file__).parent.parent
RUNS = {
    "quick": 6,
    "cpu/chess": 2,
    "cpu/sudoku": 2,
    "paper/chess": 54,
    "paper/prefix-sums": 54,
    "paper/sudoku": 72,
    "prediction/chess": 7,
    "prediction/chess-short": 16,
    "prediction/prefix-sums": 96,
    "prediction/prefix-sums-unseen": 60,
    "prediction/small-sudoku": 26,
}
"""Runs of each config: a key that is lost from a grid loses some."""


def test_every_config_is_a_plan_of_its_runs() -> None:
    folder = ROOT / "configs"
    found = {str(path.relative_to(folder).with_suffix("")): path for path in folder.rglob("*.yaml")}
    assert {name: len(read_plan(path).runs) for name, path in found.items()} == RUNS


def ship_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ship", ROOT / "docs" / "ship.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_shipped_run_has_what_an_answer_needs_and_a_card(tmp_path: Path) -> None:
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
    folder = ship_script().ship(run, "loopscope train prefix-sums", "made here, CC0", tmp_path / "shipped")
    assert folder.name == "prefix-sums"
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "card.md", "config.json", "config.yaml", "evaluation.json", "examination.json", "model.safetensors", "trust.json",
    ]  # fmt: skip
    card = (folder / "card.md").read_text()
    assert "| 32 bits | 50 | 50.0 | 90.0 | 90.0 | 90.0 | 40 | 100.0 | 50.0 |" in card
    assert 'By the rule "another rule", 32 bits: 70.0% at the last iteration.' in card
    assert "`loopscope evaluate RUN --examples 50` makes it again" in card
    assert "| geometry | holds | radius 0.5 |" in card
    assert "unknown (provisional): Train." in card
