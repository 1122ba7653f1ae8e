"""Measurements on a GPU, a pretended one: where models and data go, and that they give the same numbers."""

from __future__ import annotations

import pytest
import torch
from pretended import GPU, PretendedGpu

from experiments.prediction.measurements import Measurements
from experiments.prediction.signals import measure_signals
from experiments.prediction.worker import stages
from loopscope import subjects
from loopscope.models import build_model
from loopscope.stability import ExaminationConfig
from loopscope.studies.worker import Reporter, do_stages
from loopscope.tasks import PrefixSums
from loopscope.training.run_folder import open_run
from loopscope.training.settings import settings_from

pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA is not available")
DATA = {"train_bits": 8, "test_bits": [8, 12], "strings": 60, "test_strings": 60}


def test_signals_on_a_gpu_are_the_same():
    settings = settings_from({"task": "prefix-sums", "model": {"width": 16, "heads": 2, "recall": "external"}})
    torch.manual_seed(0)
    model = build_model(settings.model).eval()
    with torch.no_grad():
        model.recall.state.weight.mul_(0.1)  # so that it arrives
    task = PrefixSums(train_bits=8, test_bits=(8, 12), strings=60, test_strings=60)
    split = task.evaluation_splits()["8 bits"].first(6)
    expected = measure_signals(model, task, split, 6, 20)
    with PretendedGpu():
        found = measure_signals(model.to(GPU), task, split, 6, 20)
    assert {name: signal.value for name, signal in found.items()} == {
        name: signal.value for name, signal in expected.items()
    }


def test_a_run_is_measured_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(subjects, "device", lambda: GPU)
    values = {"task": "prefix-sums", "data": DATA, "evaluation": {"iterations": 20, "examples": 6}}
    settings = settings_from({**values, "model": {"width": 8, "heads": 2}, "training": {"compile": False}})
    run = open_run(tmp_path / "run", settings, resume=False)
    torch.manual_seed(0)
    build_model(settings.model).save_pretrained(run.model)
    with PretendedGpu():
        do_stages(run, stages(run, ExaminationConfig("quick", examples=4, iterations=60)), Reporter())
    measured = Measurements(run.path)
    assert not any("devices" in reason for reason in measured.prediction_mode()["unknown"].values())
    assert measured.signals()
