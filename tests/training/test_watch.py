"""A watch: what it records, when it is due, what it does about collapse, and that training goes on bit for bit without it."""

import json
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import loopscope as ls
from loopscope.errors import LoopscopeWarning
from loopscope.forecasts.result import Outlook
from loopscope.schema import from_plain
from loopscope.training.watch.watch import state_after


def halving() -> ls.FunctionLoop:
    return ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, x: z / 2 + x, lambda z: z)


class Leaning(nn.Module):
    """The first logit stays at 1, the second one grows by ``pace`` per iteration: the answer flips after 1 / pace."""

    def __init__(self, pace: float = 0.02) -> None:
        super().__init__()
        self.pace = nn.Parameter(torch.tensor(pace))

    def encode(self, inputs):
        return inputs

    def start(self, recalled):
        return torch.cat([torch.ones(len(recalled), 1), torch.zeros(len(recalled), 1)], 1)

    def step(self, state, recalled):
        return state + self.pace * torch.tensor([0.0, 1.0])

    def read(self, state):
        return state


INPUTS = torch.arange(4.0)[:, None]
FIRST = torch.zeros(4, dtype=torch.long)


def leaning(**options) -> ls.Watch:
    given = {"trained_iterations": 10, "every": 1, "targets": FIRST, **options}
    return ls.Watch(given.pop("loop", None) or Leaning(), INPUTS, **given)


def test_the_record_of_a_linear_loop_is_that_of_its_closed_form():
    inputs = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]])
    record = ls.Watch(halving(), inputs, inputs.argmax(1), trained_iterations=6).measure(7)
    # z_t = 2 x (1 - 2^-t): the sixth step moves it by x / 2^5.
    assert record.residual == pytest.approx(2**-5 / (2 * (1 - 2**-6)), rel=1e-5)
    assert record.norm_growth == pytest.approx((1 - 2**-6) / (1 - 2**-5), rel=1e-5)
    assert record.radius == pytest.approx(0.5, abs=1e-5)
    assert record.radius_error < 1e-2
    assert (record.step, record.arrived, record.radius_arrived, record.accuracy) == (7, 0.0, 1.0, 1.0)
    assert (record.swaps.moved, record.swaps.unknown) == (1.0, 0.0)
    assert [(one.iterations, one.outlook) for one in record.forecasts] == [(60, Outlook.KEEPS), (360, Outlook.KEEPS)]
    assert not record.unknown
    assert record.collapse is None


def test_a_record_goes_to_json_and_back_and_to_a_tracker():
    record = leaning().measure(3)
    assert from_plain(json.loads(json.dumps(record.to_dict())), ls.WatchRecord) == record
    scalars = record.scalars("watch/")
    assert scalars["watch/outlook_100"] == -1
    assert scalars["watch/accuracy"] == 1
    assert all(type(value) is float for value in scalars.values())


def test_collapse_is_forecast_where_the_answer_flips():
    found = leaning().measure(1).collapse
    assert found.iterations == 100
    assert found.collapse == pytest.approx(50, rel=0.1)
    assert found.kept == 0


def test_a_model_whose_numbers_are_not_finite_leaves_reasons():
    model = Leaning()
    watch = leaning(loop=model)
    watch.update(0)
    with torch.no_grad():
        model.pace.fill_(float("nan"))
    record = watch.update(1)
    assert record.residual is None
    assert record.accuracy == 0
    assert "no orbit had arrived" in record.unknown["swaps"]
    json.dumps(record.to_dict(), allow_nan=False)


@pytest.mark.parametrize("asks", ["iteration", "generator"])
def test_loops_without_fixed_points_have_residuals_and_forecasts_alone(asks):
    def timed(state, recalled, iteration):
        return state / 2 + recalled / (1 + iteration)

    def noisy(state, recalled, generator):
        return state / 2 + recalled + 1e-3 * torch.randn(state.shape, generator=generator)

    step = timed if asks == "iteration" else noisy
    loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z)
    record = ls.Watch(loop, torch.eye(4), torch.arange(4), trained_iterations=5).measure(1)
    assert record.residual > 0
    assert record.accuracy == 1
    assert [one.iterations for one in record.forecasts] == [50, 300]
    assert (record.radius, record.radius_arrived, record.swaps) == (None, None, None)
    assert set(record.unknown) == {"spectral radius", "swaps"}
    assert all("fixed points" in reason for reason in record.unknown.values())


# Training with and without a watch. The checks of types that tests switch on draw from Python's random state themselves.


class Dropping(nn.Module):
    """A loop with dropout whose mode matters, and a part that stays in eval mode during training."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.dropout, self.frozen = nn.Dropout(0.3), nn.Dropout(0.5)
        self.frozen.eval()

    def encode(self, inputs):
        return self.embed(inputs)

    def start(self, recalled):
        return torch.zeros_like(recalled)

    def step(self, state, recalled):
        return torch.tanh(self.frozen(self.dropout(self.cell(state))) + recalled)

    def read(self, state):
        return self.head(state)


def train_dropping(make_watch=None, begin=0, end=12, restored=None):
    """Return everything that training is made of, after some steps with random batches and dropout."""
    torch.manual_seed(0)
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    model = Dropping()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    if restored is not None:
        model.load_state_dict(restored["model"])
        optimizer.load_state_dict(restored["optimizer"])
        torch.set_rng_state(restored["torch"])
        random.setstate(restored["python"])
        np.random.set_state(restored["numpy"])  # noqa: NPY002
    watch = None if make_watch is None else make_watch(model)
    records = []
    for step in range(begin, end):
        inputs = torch.randn(5, 3) * random.random() + float(np.random.rand())  # noqa: NPY002
        state = model.start(recalled := model.encode(inputs))
        for _ in range(4):
            state = model.step(state, recalled)
        loss = nn.functional.cross_entropy(model.read(state), (inputs.sum(1) > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if watch is not None:
            records.append(watch.update(step + 1))
    return {
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": {name: value.grad for name, value in model.named_parameters()},
        "optimizer": optimizer.state_dict(),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "modes": [part.training for part in model.modules()],
        "loss": loss.detach(),
    }, records


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert np.array_equal(one, other)


def watching(model, **options):
    batch = torch.linspace(-1, 1, 18).view(6, 3)
    targets = (batch.sum(1) > 0).long()
    return ls.Watch(model, batch, targets, every=3, trained_iterations=4, **options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("surroundings", ["plain", "autocast", "no_grad", "inference_mode"])
def test_training_is_bit_for_bit_the_same_with_a_watch(surroundings):
    around = {
        "plain": warnings.catch_warnings,
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
    }[surroundings]

    class Inside(ls.Watch):
        def update(self, step):
            with around():
                return super().update(step)

    def make(model):
        watch = watching(model, on_collapse=lambda record: None)
        watch.__class__ = Inside
        return watch

    plain, _ = train_dropping()
    watched, records = train_dropping(make)
    assert [record is not None for record in records] == [step % 3 == 0 for step in range(1, 13)]
    assert all(record.radius is not None and not record.unknown.keys() - {"swaps"} for record in records if record)
    assert_same(plain, watched)


@pytest.mark.usefixtures("unchecked")
def test_a_resumed_training_is_bit_for_bit_the_same_with_a_watch():
    quiet = {"on_collapse": lambda record: None}
    whole, records = train_dropping(lambda model: watching(model, **quiet))
    kept = {}

    def first(model):
        kept["watch"] = watching(model, **quiet)
        return kept["watch"]

    half, before = train_dropping(first, end=7)

    def second(model):
        watch = watching(model, **quiet)
        watch.load_state_dict(kept["watch"].state_dict())
        return watch

    resumed, after = train_dropping(second, begin=7, restored=half)
    assert_same(whole, resumed)

    def timeless(rows):
        return [{**row.to_dict(), "seconds": 0} for row in rows if row]

    assert timeless(before + after) == timeless(records)


COMPILED = """
import warnings
import torch
from torch._dynamo.testing import CompileCounter
import loopscope as ls


def train(watched):
    torch.compiler.reset()
    torch.manual_seed(0)
    counter = CompileCounter()
    cell = torch.nn.Linear(6, 6)
    step = torch.compile(lambda state, inputs: torch.tanh(cell(state) + inputs), backend=counter)
    loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, step, lambda state: state, module=cell)
    watch = ls.Watch(loop, torch.eye(6), trained_iterations=4, every=2, on_collapse=lambda record: None)
    optimizer = torch.optim.SGD(cell.parameters(), lr=0.1)
    for number in range(1, 7):
        inputs = torch.randn(5, 6)
        state = torch.zeros_like(inputs)
        for _ in range(4):
            state = loop.step(state, inputs)
        optimizer.zero_grad()
        state.square().mean().backward()
        optimizer.step()
        if watched:
            record = watch.update(number)
            assert (record is not None) == (number % 2 == 0)
            assert record is None or record.radius is not None, record
    return counter.frame_count, [parameter.detach().clone() for parameter in cell.parameters()]


plain, watched = train(False), train(True)
assert plain[0] == watched[0] > 0, (plain[0], watched[0])
assert all(torch.equal(*pair) for pair in zip(plain[1], watched[1], strict=True))
"""


def test_a_watch_compiles_nothing_and_leaves_compiled_graphs_as_they_were():
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=200)


# When it is due.


class Clock:
    """A clock that only moves where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def timed_watch(clock: Clock, **options) -> ls.Watch:
    def step(state, inputs):
        clock.now += 0.01
        return state / 2 + inputs

    loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z)
    return ls.Watch(loop, torch.eye(3), trained_iterations=5, clock=clock, **options)


@pytest.fixture
def priced(monkeypatch) -> Clock:
    """Return a clock by which measurements take two seconds, and measure nothing."""
    clock = Clock()

    def measure(subject, step):
        clock.now += 2.0
        return ls.WatchRecord(step, subject.trained)

    monkeypatch.setattr("loopscope.training.watch.watch.measure", measure)
    return clock


def test_measurements_keep_to_their_share_of_the_time(priced):
    watch = timed_watch(priced, share=0.05)
    due = []
    for step in range(1, 1001):
        priced.now += 1.0
        if watch.update(step) is not None:
            due.append(step)
            assert watch.spent.spent <= 0.05 * watch.spent.elapsed
    # As many as the share pays for: 1000 s / 40 s each, but for the one that was expected to take longer.
    assert 24 <= len(due) <= 26
    assert watch.spent.elapsed == pytest.approx(priced.now)


def test_the_expected_cost_of_the_first_measurement_is_not_too_low():
    clock = Clock()
    watch = timed_watch(clock)
    watch.update(0)
    expected = watch.spent.cost
    assert watch.measure(1).seconds < expected < 5 * watch.spent.cost


def test_the_time_of_a_resumed_run_goes_on(priced):
    first = timed_watch(priced)
    for step in range(1, 301):
        priced.now += 1.0
        first.update(step)
    state, before = first.state_dict(), first.spent
    assert before.spent > 2
    priced.now += 1e4  # the time between two processes does not count
    second = timed_watch(priced)
    second.load_state_dict(json.loads(json.dumps(state)))
    assert second.spent.elapsed == pytest.approx(before.elapsed)
    assert (second.spent.spent, second.spent.cost) == (before.spent, before.cost)
    priced.now += 5.0
    assert second.spent.elapsed == pytest.approx(before.elapsed + 5)


def test_the_state_can_be_told_from_the_records():
    clock = Clock()
    watch = leaning(clock=clock, on_collapse=lambda record: None)
    records = [watch.update(step) for step in (1, 2, 3)]
    assert state_after(records, 3, watch.spent.elapsed) == {**watch.state_dict(), "spent": 0.0}
    fresh = {"elapsed": 0.0, "spent": 0, "cost": None, "step": 0, "streak": 0, "flagged": False}
    assert state_after([], 0, 0.0) == fresh


# What it does about collapse.


def test_a_collapse_must_be_forecast_twice_in_a_row_before_anything_happens():
    model = Leaning()
    seen = []
    watch = leaning(loop=model, on_collapse=seen.append)
    paces = [0.02, 0.0, 0.02, 0.02, 0.02, 0.0]
    flagged = []
    for step, pace in enumerate(paces, 1):
        with torch.no_grad():
            model.pace.fill_(pace)
        flagged.append(watch.update(step).flagged)
    assert flagged == [False, False, False, True, True, False]
    assert [record.step for record in seen] == [4]


def test_the_default_is_a_warning_of_one_line():
    watch = leaning(patience=1)
    with pytest.warns(
        LoopscopeWarning, match=r"^step 5: a collapse of accuracy is forecast about iteration 5\d: 0% is left"
    ):
        watch.update(5)


def test_a_stop_is_a_signal_that_a_resumed_watch_does_not_repeat():
    watch = leaning(patience=1, on_collapse="stop")
    assert watch.stop is None
    watch.update(5)
    assert watch.stop.step == 5
    assert "left at 100 iterations, of 10 in training" in watch.stop.reason
    again = leaning(patience=1, on_collapse="stop")
    again.load_state_dict(watch.state_dict())
    assert again.update(6).flagged
    assert again.stop is None


def test_records_go_to_a_file_and_those_of_repeated_steps_leave_it(tmp_path):
    file = tmp_path / "watch.jsonl"
    watch = leaning(file=file, on_collapse=lambda record: None)
    watch.update(1)
    state = watch.state_dict()
    watch.update(2)
    with file.open("a") as cut:
        cut.write('{"step": 3, "resi')
    again = leaning(file=file, on_collapse=lambda record: None)
    again.load_state_dict(state)
    again.update(2)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert from_plain(rows[0], ls.WatchRecord).collapse.iterations == 100


# What it refuses.


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 0}, "every is 0, expected a whole number above 0"),
        ({"every": "often"}, "every is 'often', expected a number of steps or 'auto'"),
        ({"share": 0.0}, "share is 0.0, expected a number above 0 and at most 1"),
        ({"trained_iterations": 0}, "trained_iterations is 0"),
        ({"on_collapse": "halt"}, "on_collapse is 'halt', expected one of warn, stop"),
        ({"patience": 0}, "patience is 0"),
        ({"targets": FIRST[:2]}, "expected 4 as the first dimension, one entry per input"),
        ({"loop": nn.Linear(1, 1)}, "the model to watch is not a loop: Linear is of no known family"),
        ({"loop": "model"}, "expected a loop with encode, start, step and read, got str"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, said):
    with pytest.raises(ls.LoopscopeError, match=said) as error:
        leaning(**options)
    assert "\n" not in str(error.value)


def test_targets_that_do_not_fit_are_refused_at_the_first_update():
    watch = leaning(targets=torch.full((4,), 7))
    with pytest.raises(ls.LoopscopeError, match="targets contain 7, expected classes from 0 to 1"):
        watch.update(0)


def test_a_state_of_something_else_is_refused():
    with pytest.raises(ls.LoopscopeError, match="the state of a watch was expected"):
        leaning().load_state_dict({"step": 3})
