"""A tiny study of prediction, from its runs to what is read off them."""

from __future__ import annotations

import json

import pytest
import yaml

from loopscope.cli import main
from loopscope.errors import LoopscopeError
from loopscope.studies import StudyFolder, read_plan
from loopscope.studies.signals import EASY_ACCURACY, LONG_RUN, STATE_RADIUS, signals_file

TINY = {
    "name": "tiny",
    "task": "prefix-sums",
    "data": {"train_bits": 8, "test_bits": [8, 16], "strings": 100, "test_strings": 20},
    "model": {"width": 16, "heads": 2},
    "training": {"steps": 4, "batch_size": 8, "max_iterations": 4, "compile": False},
    "evaluation": {"iterations": 12, "examples": 10, "until_settled": True},
    "examination": {"effort": "quick", "examples": 6, "prediction": True},
    "signals": True,
    "grid": {"model.recall": ["internal", "none"]},
}


def written(path, **changes):
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    plan = written(folder / "tiny.yaml")
    assert main(["study", str(plan), "--out", str(folder / "out")]) == 0
    return plan, StudyFolder(folder / "out")


def test_a_run_of_a_study_of_prediction_leaves_its_signals(study):
    _, folder = study
    for name, record in folder.ledger.records().items():
        assert json.loads(signals_file(folder.run(name)).read_text()) == record.signals
        assert 0 <= record.signals[EASY_ACCURACY]["value"] <= 1
        assert record.signals[LONG_RUN]["seconds"] > 0
        assert (record.signals[STATE_RADIUS]["value"] is None) == (name == "none")
        assert set(record.seconds) == {"train", "evaluate", "examine", "signals"}
        settings = record.examination["settings"]
        assert settings["prediction"] is True
        assert settings["iterations"] == settings["trained_iterations"] == 4
        # The same problems, examined and measured: their accuracy after the trained iterations is one number.
        assert settings["accuracy"] == pytest.approx(record.signals[EASY_ACCURACY]["value"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signals": "yes"}, "signals is 'yes', expected true or false"),
        ({"examination": {"effort": "quick"}}, "add prediction: true to examination"),
    ],
)
def test_a_mistake_about_signals_is_one_line(tmp_path, changes, said):
    with pytest.raises(LoopscopeError) as error:
        read_plan(written(tmp_path / "plan.yaml", **changes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
