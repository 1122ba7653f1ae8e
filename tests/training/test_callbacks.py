"""Watches inside the trainers of other libraries: what they log, that training is the same, stopping and resuming."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import loopscope as ls
from loopscope.errors import LoopscopeWarning
from loopscope.forecasts.result import Outlook
from loopscope.training.callbacks.accelerate import AccelerateWatch
from loopscope.training.watch.record import HorizonForecast

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_lightning as lightning
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from loopscope.training.callbacks.lightning import LightningWatch
    from loopscope.training.callbacks.transformers import STATE, TransformersWatch

ITERATIONS, STEPS = 4, 6


class Looped(nn.Module):
    """A looped classifier with dropout, called as the Trainer of transformers calls models."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head, self.dropout = nn.Linear(6, 6), nn.Linear(6, 2), nn.Dropout(0.2)

    def encode(self, inputs):
        return inputs

    def start(self, recalled):
        return torch.zeros_like(recalled)

    def step(self, state, recalled):
        return torch.tanh(self.dropout(self.cell(state)) + recalled)

    def read(self, state):
        return self.head(state)

    def forward(self, inputs, labels):
        state = self.start(inputs)
        for _ in range(ITERATIONS):
            state = self.step(state, inputs)
        logits = self.read(state)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def looped() -> Looped:
    torch.manual_seed(0)
    return Looped()


def examples(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(1))
    return inputs, (inputs.sum(1) > 0).long()


def watch_of(model: nn.Module, **options) -> ls.Watch:
    given = {"every": 2, "on_collapse": lambda record: None, **options}
    return ls.Watch(model, *examples(4), trained_iterations=ITERATIONS, **given)


@pytest.fixture
def collapsing(monkeypatch) -> None:
    """Every measurement forecasts a collapse."""
    forecasts = (HorizonForecast(40, Outlook.COLLAPSES, 20.0, 0.0),)
    monkeypatch.setattr(
        "loopscope.training.watch.watch.measure",
        lambda subject, step: ls.WatchRecord(step, ITERATIONS, residual=0.5, forecasts=forecasts),
    )


STOP = {"patience": 1, "on_collapse": "stop"}


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def check_logged(rows: dict[int, dict[str, float]]) -> None:
    assert sorted(rows) == [2, 4, 6]
    for row in rows.values():
        assert 0 < row["watch/radius"] < 2
        assert {"watch/residual", "watch/outlook_40", "watch/outlook_240"} <= row.keys()


# transformers


def hf_trainer(folder, model: nn.Module, **options) -> Trainer:
    inputs, labels = examples(40)
    data = [{"inputs": one, "labels": label} for one, label in zip(inputs, labels, strict=True)]
    given = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 5,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 2,
        **options,
    }
    return Trainer(model, TrainingArguments(output_dir=str(folder), **given), train_dataset=data)


class Tracker(TrainerCallback):
    """What a tracker such as TensorBoard would be given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict]] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append((state.global_step, dict(logs)))

    def of(self, name: str) -> dict[int, dict]:
        return {step: row for step, row in self.rows if name in row}


def hf_trained(folder, model, watch=None, resume=None, **options) -> Tracker:
    trainer, tracker = hf_trainer(folder, model, **options), Tracker()
    trainer.add_callback(tracker)
    if watch is not None:
        trainer.add_callback(TransformersWatch(watch, trainer.log))
    trainer.train(resume_from_checkpoint=resume)
    return tracker


@pytest.mark.usefixtures("unchecked")
def test_transformers_logs_the_records_and_trains_the_same(tmp_path):
    plain, watched = looped(), looped()
    losses = hf_trained(tmp_path / "plain", plain).of("loss")
    tracker = hf_trained(tmp_path / "watched", watched, watch_of(watched))
    assert_same_weights(plain, watched)
    check_logged(tracker.of("watch/radius"))
    # The loss is still logged at steps at which the watch logs as well.
    assert {step: row["loss"] for step, row in tracker.of("loss").items()} == {
        step: row["loss"] for step, row in losses.items()
    }


@pytest.mark.usefixtures("collapsing")
def test_transformers_stops_with_a_checkpoint_and_resumes(tmp_path):
    model = looped()
    watch = watch_of(model, **STOP)
    saved = {"save_strategy": "steps", "save_steps": 4}
    tracker = hf_trained(tmp_path, model, watch, **saved)
    assert sorted(tracker.of("watch/residual")) == [2]
    state = json.loads((tmp_path / "checkpoint-2" / STATE).read_text())
    assert (state["step"], state["flagged"]) == (2, True)

    again = looped()
    watch = watch_of(again, **STOP)
    tracker = hf_trained(tmp_path, again, watch, resume=True, **saved)
    assert sorted(tracker.of("watch/residual")) == [4, 6]  # the flag had risen before: it does not stop again
    assert watch.spent.elapsed >= state["elapsed"]


@pytest.mark.usefixtures("collapsing")
def test_transformers_says_where_the_state_of_the_watch_is_missing(tmp_path):
    model = looped()
    saved = {"save_strategy": "steps", "save_steps": 3}
    hf_trained(tmp_path, model, watch_of(model), max_steps=3, **saved)
    (tmp_path / "checkpoint-3" / STATE).unlink()
    with pytest.warns(
        LoopscopeWarning, match=r"resumes at step 3, but \S*watch\.json does not exist: the watch starts anew"
    ):
        hf_trained(tmp_path, model, watch_of(model), resume=True, max_steps=4, **saved)


# Lightning


class Lit(lightning.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch, index):
        return self.model(*batch)["loss"]

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Recorder(lightning.loggers.Logger):
    """What a logger such as TensorBoard's would be given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict] = {}

    name = version = "recorder"

    def log_hyperparams(self, *arguments, **options):
        pass

    def log_metrics(self, metrics, step):
        self.rows.setdefault(step, {}).update(metrics)


def lit_trained(folder, model, watch=None, resume=None, **options) -> tuple[lightning.Trainer, dict[int, dict]]:
    recorder = Recorder()
    trainer = lightning.Trainer(
        default_root_dir=folder,
        callbacks=[] if watch is None else [LightningWatch(watch)],
        logger=recorder,
        **{
            "accelerator": "cpu",
            "max_steps": STEPS,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            **options,
        },
    )
    torch.manual_seed(2)
    trainer.fit(Lit(model), DataLoader(TensorDataset(*examples(40)), batch_size=5), ckpt_path=resume)
    return trainer, recorder.rows


quiet = pytest.mark.filterwarnings("ignore")


@quiet
@pytest.mark.usefixtures("unchecked")
def test_lightning_logs_the_records_and_trains_the_same(tmp_path):
    plain, watched = looped(), looped()
    lit_trained(tmp_path, plain)
    trainer, rows = lit_trained(tmp_path, watched, watch_of(watched))
    assert_same_weights(plain, watched)
    check_logged({step: row for step, row in rows.items() if "watch/radius" in row})
    assert float(trainer.callback_metrics["watch/radius"]) == pytest.approx(rows[6]["watch/radius"])


@quiet
@pytest.mark.usefixtures("collapsing")
def test_lightning_measures_once_per_optimizer_step_where_gradients_are_accumulated(tmp_path):
    model, seen = looped(), []
    watch = watch_of(model, every=1)
    update = watch.update
    watch.update = lambda step: seen.append(step) or update(step)
    lit_trained(tmp_path, model, watch, accumulate_grad_batches=2, max_steps=3)
    assert seen == [1, 2, 3]


@quiet
@pytest.mark.usefixtures("collapsing")
def test_lightning_stops_and_resumes(tmp_path):
    model = looped()
    trainer, rows = lit_trained(tmp_path, model, watch_of(model, **STOP))
    assert trainer.global_step == 2
    assert sorted(step for step, row in rows.items() if "watch/residual" in row) == [2]
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")

    again = looped()
    watch = watch_of(again, **STOP)
    trainer, rows = lit_trained(tmp_path, again, watch, resume=tmp_path / "stopped.ckpt")
    assert trainer.global_step == STEPS
    assert sorted(step for step, row in rows.items() if "watch/residual" in row) == [4, 6]


# Accelerate


def accelerated(folder, model, watch=None, resume=None) -> tuple[int, dict[int, dict]]:
    """Return the last step and what was logged."""
    accelerator = Accelerator(cpu=True)
    rows: dict[int, dict] = {}
    accelerator.log = lambda values, step: rows.update({step: values})
    watching = None if watch is None else AccelerateWatch(watch, accelerator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(*examples(40)), batch_size=5)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if resume is not None:
        accelerator.load_state(resume)
    torch.manual_seed(2)
    for step, batch in enumerate(loader, 1):
        optimizer.zero_grad()
        accelerator.backward(model(*batch)["loss"])
        optimizer.step()
        if watching is not None:
            watching.update(step)
        if step == STEPS or (watching is not None and watching.should_stop):
            break
    accelerator.save_state(folder)
    return step, rows


@pytest.mark.usefixtures("unchecked")
def test_accelerate_logs_the_records_and_trains_the_same(tmp_path):
    plain, watched = looped(), looped()
    accelerated(tmp_path, plain)
    _, rows = accelerated(tmp_path, watched, watch_of(watched))
    assert_same_weights(plain, watched)
    check_logged(rows)


@pytest.mark.usefixtures("collapsing")
def test_accelerate_stops_and_resumes(tmp_path):
    model = looped()
    step, rows = accelerated(tmp_path / "state", model, watch_of(model, **STOP))
    assert (step, list(rows)) == (2, [2])
    again = looped()
    step, rows = accelerated(tmp_path / "more", again, watch_of(again, **STOP), resume=tmp_path / "state")
    assert (step, list(rows)) == (STEPS, [2, 4, 6])


AGREEING = """
import sys
import torch
from torch import distributed
from loopscope.training.callbacks.agreement import any_process

rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
device = torch.device("cpu")
assert any_process(rank == 1, device)
assert not any_process(False, device)
distributed.destroy_process_group()
"""


def test_two_processes_stop_together(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", AGREEING, str(rank), str(tmp_path / "meet")]) for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
