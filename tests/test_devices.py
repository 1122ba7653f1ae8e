"""The same commands on a GPU: where models and data go, and that nothing of the two devices meets on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretended import CPU, GPU, MixedDevices, PretendedGpu, place
from small_runs import finished
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError, FakeTensorMode

from loopscope import subjects
from loopscope.answers.answerer import Answerer, answer_all, answer_of, frames
from loopscope.answers.trust import observe_split, unsureness
from loopscope.checks import check_step
from loopscope.cli import main
from loopscope.contexts import device_of_loop, random_state_kept, without_autocast
from loopscope.evaluation import EvaluationConfig, batches, decisions, evaluate_split
from loopscope.fixed_points import Anderson, Broyden, solve
from loopscope.forecasts.forecast import forecast
from loopscope.forecasts.leaps import leap
from loopscope.loop import FunctionLoop
from loopscope.models import build_model
from loopscope.models.attention import full_attention
from loopscope.stability import ExaminationConfig, examine
from loopscope.stability.starts import first_state
from loopscope.studies.worker import Reporter, do_stages, usual_stages
from loopscope.tasks import Chess, PrefixSums, Split, Sudoku, answers_of
from loopscope.tasks.registry import text_format
from loopscope.training.settings import settings_from
from loopscope.trees import device_of, leaves

pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA is not available")
BITS = {"train_bits": 8, "test_bits": [8, 12], "strings": 60, "test_strings": 60}
SHORT = {"iterations": 20, "examples": 6}
TASKS = {
    "prefix-sums": PrefixSums(train_bits=8, test_bits=(8, 12), strings=60, test_strings=60),
    "sudoku": Sudoku(source="shipped"),
    "chess": Chess(source="shipped"),
}


@pytest.fixture
def gpu(monkeypatch):
    """Commands find a GPU, a pretended one."""
    monkeypatch.setattr(subjects, "device", lambda: GPU)
    with PretendedGpu() as mode:
        yield mode


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
    with torch.no_grad():
        expected = seen(split)
        with PretendedGpu():
            model.to(GPU)
            found = seen(split.to(GPU))
            assert {tensor.device for tensor in found} == {GPU}
            assert all(torch.equal(here.cpu(), there) for here, there in zip(found, expected, strict=True))


def test_keys_are_laid_out_for_the_fused_kernels_of_a_gpu():
    """They come with their tokens last, as products take them; a fused kernel wants each one's features together."""
    with PretendedGpu() as mode:
        for device, laid_out in ((CPU, []), (GPU, [(2, 2, 9, 4)])):
            query, key, value = (
                torch.ones(*sizes, device=device) for sizes in ((2, 9, 2, 4), (2, 2, 4, 9), (2, 9, 2, 4))
            )
            full_attention(query, key, value)
            assert mode.laid_out == laid_out


# What the commands do, with true numbers


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("until_settled", [False, True])
def test_evaluation_on_a_gpu_gives_the_same_curve(task, until_settled):
    """In batches as the CPU has them, or their sums would be rounded otherwise."""
    config = EvaluationConfig(iterations=25, examples=12, batch_size=5, until_settled=until_settled)
    model, split = contracting(task), easy(task, 12)
    expected = evaluate_split(model, TASKS[task], split, config)
    assert expected.settled.examples > 0
    with PretendedGpu():
        assert evaluate_split(model.to(GPU), TASKS[task], split, config) == expected


def test_evaluation_leaves_a_loop_of_functions_and_its_split_where_they_are():
    loop = FunctionLoop(
        encode=lambda inputs: inputs + 0.5,
        start=torch.zeros_like,
        step=lambda state, recalled: 0.5 * state + 0.5 * recalled,
        read=lambda state: torch.cat([0.5 - state, state - 0.5], -1),
    )
    config = EvaluationConfig(iterations=5)
    split, task = easy("prefix-sums", 6), TASKS["prefix-sums"]
    split = replace(split, difficulty=torch.arange(6.0))
    expected = evaluate_split(loop, task, split, config)
    with PretendedGpu():
        assert evaluate_split(loop, task, split.to(GPU), config) == expected


def test_a_gpu_takes_batches_as_large_as_they_are_asked_for():
    config = EvaluationConfig(batch_size=60)
    split = easy("sudoku", 100)
    assert [part.stop - part.start for part in batches(split, config)] == [50, 50]  # of 4,096 tokens
    with PretendedGpu():
        assert [part.stop - part.start for part in batches(split.to(GPU), config)] == [60, 40]


@pytest.mark.parametrize("task", TASKS)
def test_trust_on_a_gpu_sees_the_same(task):
    config = EvaluationConfig(iterations=25, examples=12, batch_size=5)
    model, split = contracting(task), easy(task, 12)
    expected = observe_split(model, TASKS[task], split, config)
    assert (expected.settling < 25).any()
    with PretendedGpu():
        found = observe_split(model.to(GPU), TASKS[task], split, config)
    assert found.to_json() == expected.to_json()


@pytest.mark.parametrize("task", TASKS)
def test_answers_of_a_model_on_a_gpu_are_the_same(task):
    words = text_format(task)
    problems = [words.read(words.example)] * 2
    model = contracting(task)

    def answered(answerer):
        *_, last = frames(answerer, problems[0], 1e-4, 60)
        words.picture(problems[0], last)
        return answer_all(answerer, problems, 1e-4, 60), answer_of(answerer, problems[0], last, 1e-4)

    answerer = Answerer(Path("run"), model, TASKS[task], words, None)
    expected = answered(answerer)
    assert expected[0][0].settled
    with PretendedGpu():
        assert answered(replace(answerer, model=model.to(GPU))) == expected


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
    assert found.spectrum.radius == pytest.approx(expected.spectrum.radius, rel=0.02)
    assert found.geometry.resolvent.value == pytest.approx(expected.geometry.resolvent.value, rel=0.1)


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
        return torch.rand(recalled.shape, generator=generator, device=recalled.device)

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
    assert found.reachability.counts == expected.reachability.counts
    assert found.verdict == expected.verdict
    assert found.curves == expected.curves


def told(state, recalled, iteration):
    return (0.5 + 0.3 / (1 + iteration)) * state + recalled


def noisy(state, recalled, iteration, generator):
    drawn = torch.randn(state.shape, generator=generator, device=recalled.device)
    return told(state, recalled, iteration) + 0.01 * drawn


@pytest.mark.parametrize("step", [told, noisy])
def test_a_loop_without_a_fixed_point_is_the_same_on_a_gpu(step):
    mask = torch.arange(4) < torch.tensor([[3], [3], [4], [4], [2], [2]])

    def padded(recalled):
        return mask.to(recalled.device)[: len(recalled)] if len(recalled) == len(mask) else recalled[..., 0] > -9

    loop = FunctionLoop(lambda x: x + 0, torch.zeros_like, step, lambda state: state, padding=padded)
    inputs = torch.linspace(0.1, 0.9, 72).reshape(6, 4, 3)

    def measured(inputs):
        exam = examine(loop, inputs, None, 6, "quick", iterations=30)
        return exam, forecast(loop, inputs, None, 6, horizon=60, budget=1)

    expected, foreseen = measured(inputs)
    with PretendedGpu():
        found, said = measured(inputs.to(GPU))
    assert found.unknown == expected.unknown
    assert found.nonautonomous == expected.nonautonomous
    assert found.input_dependence == expected.input_dependence
    assert said.points == foreseen.points


@pytest.mark.parametrize("task", ["prefix-sums", "chess"])
def test_a_forecast_on_a_gpu_is_the_same(task):
    settings = settings_from({"task": task, "model": {"width": 16, "heads": 2, "recall": "external"}})
    model, split = contracting(task), easy(task, 6)

    def said():
        subject = subjects.on_split(model, settings, split)
        assert device_of(subject.inputs) == device_of_loop(model, CPU)
        answers = answers_of(TASKS[task])
        return forecast(subject.loop, subject.inputs, subject.targets, 6, 0, answers)

    expected = said()
    with PretendedGpu():
        model.to(GPU)
        found = said()
    assert (found.points, found.late) == (expected.points, expected.late)


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


# The commands themselves


@pytest.mark.parametrize("there", [True, False])
def test_commands_put_models_on_the_gpu_where_there_is_one(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert subjects.device().type == ("cuda" if there else "cpu")


def test_every_command_of_a_run_works_on_a_gpu(tmp_path, gpu, capsys):
    run = finished(tmp_path / "bits", task="prefix-sums", data=BITS, evaluation=SHORT)
    assert next(subjects.trained(run)[1].parameters()).device == GPU
    quick = ["--examination.effort", "quick", "--examination.iterations", "60"]
    for arguments in (
        ["evaluate", str(run.path)],
        ["evaluate", str(run.path), "--until-settled", "--out", str(tmp_path / "settled.json")],
        ["trust", str(run.path)],
        ["examine", str(run.path), *quick],
        ["forecast", str(run.path)],
        ["solve", str(run.path), "0110101"],
    ):
        assert main(arguments) == (1 if arguments[0] == "solve" else 0), capsys.readouterr()
    capsys.readouterr()


def test_a_run_of_a_study_is_measured_on_a_gpu(tmp_path, gpu, capsys):
    run = finished(tmp_path / "bits", task="prefix-sums", data=BITS, evaluation=SHORT)
    config = ExaminationConfig("quick", examples=4, iterations=60)
    do_stages(run, usual_stages(run, config), Reporter())
    assert set(run.curves()) == {"8 bits", "12 bits"}
    unknown = json.loads(run.examination.read_text())["unknown"]
    assert not any("devices" in reason for reason in unknown.values())
