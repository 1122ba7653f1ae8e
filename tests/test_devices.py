"""The same commands on a GPU: where models and data go, and that nothing of the two devices meets on the way."""

from __future__ import annotations

import pytest
import torch
from pretended import CPU, GPU, MixedDevices, PretendedGpu, place
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError, FakeTensorMode

from loopscope.evaluation import decisions
from loopscope.fixed_points import solve
from loopscope.fixed_points.solvers import Anderson, Broyden
from loopscope.loop import (
    FunctionLoop,
    check_step,
    device_of,
    device_of_loop,
    leaves,
    random_state_kept,
    without_autocast,
)
from loopscope.models import build_model
from loopscope.stability import examine
from loopscope.stability.leaps import leap
from loopscope.stability.starts import first_state
from loopscope.tasks import Chess, PrefixSums, Split, Sudoku
from loopscope.training.settings import settings_from
from loopscope.trust import unsureness

pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA is not available")
BITS = {"train_bits": 8, "test_bits": [8, 12], "strings": 60, "test_strings": 60}
SHORT = {"iterations": 20, "examples": 6}
TASKS = {
    "prefix-sums": PrefixSums(train_bits=8, test_bits=(8, 12), strings=60, test_strings=60),
    "sudoku": Sudoku(source="shipped"),
    "chess": Chess(source="shipped"),
}


def contracting(task: str, width: int = 16, **model):
    """Return an untrained model whose recalled input decides most of its state, so that it arrives."""
    settings = settings_from({"task": task, "model": {"width": width, "heads": 2, "recall": "external", **model}})
    torch.manual_seed(0)
    made = build_model(settings.model)
    with torch.no_grad():
        made.recall.state.weight.mul_(0.1)
    return made.eval()


def easy(task: str, examples: int) -> Split:
    return next(iter(TASKS[task].evaluation_splits().values())).first(examples)


# The pretended GPU itself


REFUSED = {
    "sum": lambda gpu, cpu: gpu + cpu,
    "sum in place": lambda gpu, cpu: cpu.add_(gpu),
    "product": lambda gpu, cpu: gpu @ cpu.T,
    "larger": torch.maximum,
    "joined": lambda gpu, cpu: torch.cat([gpu, cpu]),
    "stacked": lambda gpu, cpu: torch.stack([gpu, cpu]),
    "masked": lambda gpu, cpu: gpu.masked_fill(cpu > 0, 0),
    "gathered": lambda gpu, cpu: cpu.gather(0, gpu.long()),
    "among": torch.isin,
}
ALLOWED = {
    "a number": lambda gpu, cpu: gpu * torch.tensor(2.0),
    "a choice": lambda gpu, cpu: torch.where(gpu > 0, torch.zeros(()), gpu),
    "copied": lambda gpu, cpu: cpu.copy_(gpu),
    "brought": lambda gpu, cpu: cpu + gpu.cpu(),
}


@pytest.mark.parametrize("name", [*REFUSED, *ALLOWED])
def test_the_pretended_gpu_refuses_what_pytorch_does(name):
    """Its own rules are those of PyTorch's fake tensors, whose values nothing may depend on."""
    operation = {**REFUSED, **ALLOWED}[name]
    for mode, error in ((FakeTensorMode(), FakeTensorDeviceMismatchError), (PretendedGpu(), MixedDevices)):
        with mode:
            pair = torch.ones(2, 2, device="cuda"), torch.ones(2, 2)
            if name in REFUSED:
                with pytest.raises(error):
                    operation(*pair)
            else:
                operation(*pair)


def test_the_pretended_gpu_refuses_its_places_on_the_cpu_its_numbers_in_numpy_and_foreign_draws():
    with PretendedGpu():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        for wrong in (
            lambda: here[there > 0],
            lambda: here.__setitem__(torch.tensor([0]), there[:1]),
            lambda: there.numpy(),
            lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
            lambda: torch.linalg.lstsq(there[:, None], there[:, None]),
        ):
            with pytest.raises(MixedDevices):
                wrong()
        assert there[here > 0].device == GPU
        assert torch.randn(3, generator=torch.Generator("cuda"), device="cuda").device == GPU
    assert place(here) == CPU


# Models and tasks


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("recall", "norm"),
    [("none", "pre"), ("external", "peri"), ("internal", "outer"), ("internal", "sandwich"), ("external", "gru")],
)
def test_a_model_and_its_task_stay_on_their_device(task, recall, norm):
    settings = settings_from({"task": task, "model": {"width": 16, "heads": 2, "recall": recall, "norm": norm}})
    torch.manual_seed(0)
    model = build_model(settings.model)

    def seen(split):
        recalled = model.encode(TASKS[task].inputs(split.problems))
        before = model.start(recalled)
        state = model.step(before, recalled)
        logits = model.read(state)
        judged = (
            TASKS[task].correct(logits, split.problems, split.answers),
            TASKS[task].loss(logits, split.answers),
            *TASKS[task].other_rules(logits, split.problems, split.answers).values(),
        )
        return (*leaves(recalled), state, logits, decisions(logits), unsureness(logits), *judged)

    split = easy(task, 3)
    split = easy(task, 3)
    with torch.no_grad():
        expected = seen(split)
        with PretendedGpu():
            model.to(GPU)
            found = seen(split.to(GPU))
            assert {tensor.device for tensor in found} == {GPU}
            assert all(torch.equal(here.cpu(), there) for here, there in zip(found, expected, strict=True))


# What the commands do, with true numbers


@pytest.mark.parametrize("solver", [Anderson(), Broyden()])
def test_solvers_with_a_memory_stay_on_their_device(solver):
    model = contracting("prefix-sums")
    inputs = TASKS["prefix-sums"].inputs(easy("prefix-sums", 5).problems)
    expected = solve(model, inputs, solver=solver, plain_iterations=200)
    with PretendedGpu():
        found = solve(model.to(GPU), inputs.to(GPU), solver=solver, plain_iterations=200)
        assert {found.state.device, found.output.device, found.arrived.device} == {GPU}
        assert torch.allclose(found.state.cpu(), expected.state, atol=1e-3)
        assert found.same_as_plain == expected.same_as_plain


def test_an_examination_on_a_gpu_knows_as_much_and_says_the_same(monkeypatch):
    """Every part, with targets and without; a GPU that a part would trip over is named among what is unknown."""
    model, split = contracting("prefix-sums"), easy("prefix-sums", 8)
    inputs = TASKS["prefix-sums"].inputs(split.problems)
    expected = examine(model, inputs, split.answers, 4, "standard", iterations=80)
    assert not expected.unknown
    with PretendedGpu():
        # Targets are taken to where the loop is.
        found = examine(model.to(GPU), inputs.to(GPU), split.answers, 4, "standard", iterations=80)
    assert not found.unknown
    assert (found.verdict, found.provisional) == (expected.verdict, expected.provisional)
    assert [axis.status for axis in found.axes] == [axis.status for axis in expected.axes]
    assert found.curves == expected.curves
    assert found.spectrum["radius"] == pytest.approx(expected.spectrum["radius"], rel=0.02)
    assert found.geometry["resolvent"] == pytest.approx(expected.geometry["resolvent"], rel=0.1)


WANDERING = {
    "drifts": lambda state, recalled: state + recalled,
    "cycles": lambda state, recalled: -state,
    "is chaotic": lambda state, recalled: 4 * state * (1 - state),
    "runs away": lambda state, recalled: 2 * state,
    "hides a part from autograd": lambda state, recalled: 0.9 * state.detach() + 0.05 * state + recalled,
}


@pytest.mark.parametrize("name", WANDERING)
def test_an_examination_of_an_orbit_that_wanders_is_the_same_on_a_gpu(name):
    """Padded inputs, random starts, a rule in place of targets, whose own answer may come from the CPU."""
    mask = torch.arange(4) < torch.tensor([[3], [3], [4], [4], [2], [2]])

    def start(recalled, generator):
        drawn = torch.rand(len(recalled), 4, 3, generator=generator, device=generator.device, dtype=torch.float64)
        return drawn.to(recalled)

    def padded(recalled):
        return mask.to(recalled.device)[: len(recalled)] if len(recalled) == len(mask) else recalled[..., 0] > -9

    loop = FunctionLoop(
        encode=lambda inputs: inputs + 0, start=start, step=WANDERING[name], read=lambda state: state, padding=padded
    )
    inputs = torch.linspace(0.1, 0.9, 72).reshape(6, 4, 3)

    def examined(inputs):
        return examine(loop, inputs, lambda logits, rows: (logits.sum((1, 2)) > 0).cpu(), 6, "standard", iterations=90)

    expected = examined(inputs)
    with PretendedGpu():
        found = examined(inputs.to(GPU))
    assert found.unknown == expected.unknown
    assert found.reachability["counts"] == expected.reachability["counts"]
    assert found.verdict == expected.verdict
    assert found.curves == expected.curves


def test_a_leap_solves_its_small_systems_on_the_cpu():
    """On a GPU least squares take full rank for granted, and modes that have died out have none."""
    states = [torch.tensor([[1.0 - 0.5**k, 0.0, 0.0]]) for k in range(6)]
    with PretendedGpu():
        landed = leap([state.to(GPU) for state in states], 40)
    assert landed.tolist()[0] == pytest.approx([1, 0, 0], abs=1e-6)


# What is kept per device


def test_a_random_start_is_drawn_where_the_recalled_input_is():
    def start(recalled, generator):
        return torch.randn(recalled.shape, generator=generator, device=recalled.device)

    loop = FunctionLoop(encode=lambda inputs: inputs, start=start, step=lambda state, recalled: state, read=torch.clone)
    with PretendedGpu():
        assert first_state(loop, torch.ones(2, 3, device="cuda"), seed=1).device == GPU
    here = first_state(loop, torch.ones(2, 3), seed=1)
    assert torch.equal(here, torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))


def test_the_random_state_of_a_gpu_is_left_as_it_was():
    with PretendedGpu() as mode:

        def step(state, recalled):
            mode.random_state += 1  # as drawing there would
            return state

        loop = FunctionLoop(encode=torch.clone, start=torch.clone, step=step, read=torch.clone)
        state = torch.ones(2, device="cuda")
        check_step(loop, state, state)
        assert mode.random_state == 0
        with random_state_kept(state.device):
            step(state, state)
        assert mode.random_state == 0


def test_autocast_is_off_on_the_accelerator_too(monkeypatch):
    found = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: found)
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        with torch.autocast("cpu"), without_autocast():
            assert not torch.is_autocast_enabled("cuda")
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cuda")
    finally:
        torch.set_autocast_enabled("cuda", before)


def test_where_a_loop_and_a_tree_are():
    assert device_of(()) == CPU
    assert device_of_loop(FunctionLoop(torch.clone, torch.clone, torch.add, torch.clone), GPU) == GPU
    model = contracting("prefix-sums")
    assert device_of_loop(model, GPU) == CPU
    with PretendedGpu():
        assert device_of({"state": torch.ones(1, device="cuda")}) == GPU
        assert device_of_loop(model.to(GPU), CPU) == GPU
