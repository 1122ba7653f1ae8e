"""Training: samplers, schedules, objectives, settings, and a run that stops where it should."""

import json
import math
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import read_lines
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy import integrate, stats
from small_runs import tiny

from loopscope.errors import LoopscopeError
from loopscope.files import read_yaml_mapping
from loopscope.models import build_model, load_model
from loopscope.training.config import TrainingConfig
from loopscope.training.precision import _is_intel, precision_here
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.samplers import SAMPLERS, IterationCounts
from loopscope.training.schedules import SCHEDULES
from loopscope.training.settings import check_keys, settings_from
from loopscope.training.trainer import batch_rows, draw_counts, make_objective, make_optimizer, recall_figures, train


def draws(name: str, maximum: int, count: int) -> list[IterationCounts]:
    generator = torch.Generator().manual_seed(0)
    return [SAMPLERS[name](maximum, generator) for _ in range(count)]


# Samplers


def test_uniform_draws_every_pair_with_its_probability():
    maximum, count = 5, 20_000
    seen = Counter((counts.free, counts.gradient) for counts in draws("uniform", maximum, count))
    probability = {(n, k): 1 / maximum / (maximum - n) for n in range(maximum) for k in range(1, maximum - n + 1)}
    assert set(seen) == set(probability)
    observed, expected = zip(*((seen[pair], count * p) for pair, p in probability.items()), strict=True)
    assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_uniform_at_the_papers_size_has_its_support_and_means():
    drawn = draws("uniform", 30, 20_000)
    assert {counts.free for counts in drawn} == set(range(30))
    assert min(counts.gradient for counts in drawn) == 1
    assert max(counts.free + counts.gradient for counts in drawn) == 30
    # E k given n is (31 - n) / 2, and n is 14.5 on average.
    for mean, expected in (("free", 14.5), ("gradient", (31 - 14.5) / 2)):
        values = torch.tensor([getattr(counts, mean) for counts in drawn]).double()
        assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("maximum", [4, 30])
def test_poisson_draws_a_log_normal_poisson_cut_at_both_ends(maximum):
    drawn = draws("poisson", maximum, 20_000)
    totals = torch.tensor([counts.free + counts.gradient for counts in drawn]).double()
    assert set(totals.int().tolist()) == set(range(1, maximum + 1))
    assert all(counts.gradient == min(8, counts.free + counts.gradient) for counts in drawn)
    rates = stats.lognorm(s=0.5, scale=maximum / 2 * math.exp(-(0.5**2) / 2))
    assert rates.mean() == pytest.approx(maximum / 2)

    def at_least(total: int) -> float:
        chance, _ = integrate.quad(lambda rate: rates.pdf(rate) * stats.poisson.sf(total - 1, rate), 0, 20 * maximum)
        return chance

    # The mean of a total cut to 1..maximum is the sum of the chances to reach 1, 2, ...: the first is certain.
    expected = 1 + sum(at_least(total) for total in range(2, maximum + 1))
    assert abs(totals.mean() - expected) < 5 * totals.std() / math.sqrt(len(totals))


@given(st.sampled_from(sorted(SAMPLERS)), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_counts_never_pass_the_maximum_and_always_have_a_gradient(name, maximum, seed):
    counts, again = (SAMPLERS[name](maximum, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert counts.free >= 0
    assert counts.gradient >= 1
    assert counts.free + counts.gradient <= maximum
    assert counts == again


# Schedules


def test_the_papers_schedule_by_its_formula():
    steps = 800  # 8 per epoch
    for step in range(steps):
        epoch = step // 8
        expected = 1 - math.exp(-(epoch + 1) / 10) if epoch < 9 else 1 if epoch < 60 else 0.1
        assert SCHEDULES["paper"](step, steps) == pytest.approx(expected, rel=1e-12)
    assert SCHEDULES["paper"](0, steps) == pytest.approx(0.0951626, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 400])
def test_cosine_rises_over_a_twentieth_and_falls_towards_zero(steps):
    values = [SCHEDULES["cosine"](step, steps) for step in range(steps)]
    warmup = max(1, steps // 20)
    assert values[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    for step in range(warmup, steps):
        assert values[step] == pytest.approx(math.cos(math.pi / 2 * (step - warmup) / (steps - warmup)) ** 2)
    assert all(0 < value <= 1 for value in values)


def test_every_schedule_works_for_runs_of_any_length():
    for schedule in SCHEDULES.values():
        for steps in (1, 2, 3, 99, 101):
            assert all(0 < schedule(step, steps) <= 1 for step in range(steps))
    assert SCHEDULES["constant"](5, 10) == 1.0


# Objectives, optimizer, order of examples


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"objective": "progressive"}, None),
        ({"objective": "full"}, (0, 9)),
        ({"objective": "full", "checkpoint_every": 2}, (0, 9)),
    ],
)
def test_unrolled_objectives_run_the_counts_they_say(options, counts):
    calls = []
    model = torch.nn.Module()
    model.forward = lambda inputs, *arguments: calls.append(arguments) or inputs
    config = TrainingConfig(max_iterations=9, seed=1, **options)
    drawn = [draw_counts(config, step) for step in range(50)]
    objective = make_objective(model, config)
    for count in drawn:
        objective(torch.zeros(1), count)
        assert objective.figures == {"free_iterations": count.free, "gradient_iterations": count.gradient}
    assert calls == [(count.free, count.gradient, options.get("checkpoint_every")) for count in drawn]
    if counts is None:
        assert {count.free for count in drawn} == set(range(9))
    else:
        assert {(count.free, count.gradient) for count in drawn} == {counts}


def test_weight_decay_spares_biases_and_gains():
    model = build_model(tiny({"norm": "gru"}).model)
    optimizer = make_optimizer(model, TrainingConfig(weight_decay=0.5, learning_rate=0.1))
    before = {name: value.clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        decayed = (
            name.endswith(("weight", "weight_ih", "weight_hh")) and "norm" not in name and name != "readout.0.weight"
        )
        torch.testing.assert_close(value, before[name] * (1 - 0.1 * 0.5 if decayed else 1), msg=name)


@given(st.integers(1, 30), st.integers(1, 70), st.integers(0, 5))
def test_each_epoch_uses_each_example_once_in_an_order_of_its_own(examples, batch_size, seed):
    epochs = 3
    steps = -(-epochs * examples // batch_size)
    rows = torch.cat([batch_rows(seed, step, batch_size, examples) for step in range(steps)])
    assert len(rows) == steps * batch_size
    orders = [rows[epoch * examples : (epoch + 1) * examples].tolist() for epoch in range(epochs)]
    assert all(sorted(order) == list(range(examples)) for order in orders)
    if examples >= 20:
        assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps is 0, expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"gradient_clip": -1}, "gradient_clip is -1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"weight_decay": float("inf")}, "weight_decay is inf, expected a finite number of at least 0"),
        ({"schedule": "cosin"}, r"schedule is 'cosin'.*did you mean cosine\?"),
        ({"objective": "deep"}, "objective is 'deep', expected one of progressive, full"),
        ({"sampler": "unifrom"}, r"did you mean uniform\?"),
        ({"precision": "float16"}, "precision is 'float16', expected one of auto, bf16, float32"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(LoopscopeError, match=sentence):
        TrainingConfig(**options)


# Settings


def test_settings_come_back_from_their_yaml(tmp_path):
    settings = tiny({"recall": "external", "norm": "gru"}, learning_rate=3e-4)
    run = open_run(tmp_path / "run", settings, resume=False)
    assert run.settings() == settings
    values = read_yaml_mapping(run.config)
    assert values["model"]["grid"] == [0]
    assert values["model"]["kernel_size"] == 5, "what the task decided is written out"
    assert settings_from(json.loads(json.dumps(settings.to_dict()))) == settings


def test_yaml_numbers_in_scientific_notation_are_numbers():
    values = yaml.safe_load("{task: prefix-sums, training: {learning_rate: 1e-4}}")
    assert settings_from(values).training.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"training": {"learning_rat": 1}}, "'training.learning_rat'.*did you mean training.learning_rate?"),
        ({"model": {"nrom": "pre"}}, r"'model.nrom'.*did you mean model.norm\?"),
        ({"modle": {"norm": "pre"}}, r"'modle.norm'.*did you mean model.norm\?"),
        ({"trainign": 3}, "unknown setting 'trainign'"),
        ({"task": "prefix-sum"}, r"task is 'prefix-sum'.*did you mean prefix-sums\?"),
        ({"task": None}, "the settings name no task"),
        ({"training": {"steps": "many"}}, "training.steps"),
        ({"training": {"steps": 0}}, "steps is 0"),
        ({"model": {"norm": "post"}}, "norm"),
        ({"model": {"width": 15}}, "width 15 cannot be split into 8 heads"),
        ({"model": {"recall": "none", "architecture": "fixed-depht"}}, "architecture"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_settings_are_one_clear_line(change, complaint):
    with pytest.raises(LoopscopeError, match=complaint) as caught:
        settings_from({"task": "prefix-sums", **change})
    assert "\n" not in str(caught.value)


def test_settings_of_older_versions_keep_their_meaning():
    older = settings_from({"task": "prefix-sums", "model": {"attention": "local", "window": 5}})
    assert older == settings_from({"task": "prefix-sums", "model": {"attention": "banded", "kernel_size": 11}})
    assert settings_from({"task": "prefix-sums", "model": {"window": None}}) == settings_from({"task": "prefix-sums"})
    with pytest.raises(LoopscopeError, match=r"unknown setting 'model\.window' .* replaced by model\.kernel_size"):
        check_keys("prefix-sums", ["model.window"])


def test_a_config_file_that_is_not_yaml_is_one_clear_line(tmp_path):
    run = open_run(tmp_path / "run", tiny(), resume=False)
    run.config.write_text("training: {steps: [")
    with pytest.raises(LoopscopeError, match=r"config.yaml is not valid YAML: [^\n]*$"):
        run.settings()
    with pytest.raises(LoopscopeError, match=r"holds no run: expected config\.yaml there"):
        RunFolder(tmp_path).settings()


def test_a_folder_is_opened_once_and_again_only_to_resume(tmp_path):
    path = tmp_path / "run"
    run = open_run(path, tiny(), resume=False)
    assert not run.finished()
    with pytest.raises(LoopscopeError, match="already holds a run: add --resume"):
        open_run(path, tiny(), resume=False)
    assert open_run(path, tiny(), resume=True) == run
    with pytest.raises(LoopscopeError, match=r"run with other settings \(training.steps \d+, not 7\): resume"):
        open_run(path, tiny(steps=7), resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(LoopscopeError, match="is not empty and holds no run"):
        open_run(tmp_path / "full", tiny(), resume=False)
    with pytest.raises(LoopscopeError, match=r"cannot write .*Not a directory"):
        open_run(tmp_path / "full" / "thesis.tex" / "run", tiny(), resume=False)


def test_a_run_that_resumes_on_another_machine_keeps_its_precision(tmp_path, monkeypatch):
    asked = tiny(precision="auto", steps=1)
    for there, precision in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr("loopscope.training.precision.multiplies_bf16", lambda there=there: there)
        run = open_run(tmp_path / precision, asked, resume=False)
        assert run.settings() == tiny(precision=precision, steps=1)
        monkeypatch.setattr("loopscope.training.precision.multiplies_bf16", lambda there=there: not there)
        assert open_run(run.path, asked, resume=True).settings().training.precision == precision
        assert open_run(run.path, tiny(precision=precision, steps=1), resume=True) == run
    with pytest.raises(LoopscopeError, match=r"\(training.precision float32, not bf16\)"):
        open_run(run.path, tiny(precision="bf16", steps=1), resume=True)


def test_a_run_that_was_killed_before_its_settings_were_whole_is_begun_anew(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / ".config.yaml.partial").write_text("task: prefix-su")
    assert open_run(path, tiny(), resume=False).settings() == tiny()
    assert [entry.name for entry in path.iterdir()] == ["config.yaml"]


def test_a_run_belongs_to_one_process_at_a_time(tmp_path):
    run = open_run(tmp_path / "run", tiny(), resume=False)
    with run.lock(), pytest.raises(LoopscopeError, match="is in use by another process"), run.lock():
        pass
    with run.lock():
        pass


# The trainer


def test_training_follows_its_schedule_logs_each_step_and_learns(tmp_path):
    settings = tiny(steps=200, learning_rate=0.01, log_interval=7, max_iterations=3, batch_size=24)
    run = open_run(tmp_path / "run", settings, resume=False)
    losses = {}
    outcome = train(settings, run, on_step=losses.__setitem__)
    assert (outcome.step, outcome.stopped) == (200, None)
    rows = read_lines(run.metrics)
    assert [row["step"] for row in rows] == [*range(7, 200, 7), 200]
    for row in rows:
        assert row["loss"] == losses[row["step"]]
        assert row["learning_rate"] == pytest.approx(0.01 * SCHEDULES["cosine"](row["step"] - 1, 200))
        assert 1 <= row["free_iterations"] + row["gradient_iterations"] <= 3
    assert sum(losses[step] for step in range(191, 201)) < 0.9 * sum(losses[step] for step in range(1, 11))
    assert run.finished()
    assert load_model(run.path).config == settings.model


@pytest.mark.parametrize("recall", ["none", "external", "internal"])
def test_training_logs_the_radius_of_the_recalls_state_matrix(tmp_path, recall):
    settings = tiny(model={"recall": recall}, steps=3)
    run = open_run(tmp_path / "run", settings, resume=False)
    train(settings, run)
    rows = read_lines(run.metrics)
    if recall == "none":
        assert not any({"state_radius", "recall_ratio"} & row.keys() for row in rows)
        return
    weights = load_model(run.path).recall
    of_state = weights.state.weight.detach().double().numpy()
    assert rows[-1]["state_radius"] == pytest.approx(np.abs(np.linalg.eigvals(of_state)).max(), rel=1e-9)
    of_input = weights.input.weight.detach().double().numpy()
    assert rows[-1]["recall_ratio"] == pytest.approx(np.linalg.norm(of_state) / np.linalg.norm(of_input), rel=1e-5)
    assert len({row["state_radius"] for row in rows}) == 3


def test_weights_that_are_not_finite_have_no_radius():
    model = build_model(tiny(model={"recall": "internal"}).model)
    assert recall_figures(model)
    with torch.no_grad():
        model.recall.state.weight[0, 0] = math.nan
    assert recall_figures(model) == {}


@pytest.mark.parametrize(("vendor", "intel"), [("GenuineIntel", True), ("AuthenticAMD", False)])
def test_the_maker_of_the_processor_is_read_from_what_the_system_reports(tmp_path, monkeypatch, vendor, intel):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr("loopscope.training.precision._PROCESSOR", file)
    monkeypatch.setattr(platform, "processor", lambda: f"Family 6 Model 207, {vendor}")
    assert _is_intel() is intel
    file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert _is_intel() is intel


@pytest.mark.parametrize(
    ("there", "maker", "gpu", "expected"),
    [
        (["avx512_bf16"], "AMD", False, "bf16"),
        (["avx512_bf16"], "Intel", False, "float32"),  # no faster than float32
        (["avx512_bf16", "amx_tile"], "Intel", False, "bf16"),
        (["amx_tile"], "Intel", False, "bf16"),
        ([], "AMD", False, "float32"),
        ([], "Intel", False, "float32"),
        (["cuda"], "Intel", True, "bf16"),
        (["avx512_bf16"], "AMD", True, "float32"),  # a GPU that emulates bf16
    ],
)
def test_precision_auto_is_bf16_where_it_is_faster(monkeypatch, there, maker, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("loopscope.training.precision._is_intel", lambda: maker == "Intel")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: "avx512_bf16" in there)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: "amx_tile" in there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: "cuda" in there)
    assert precision_here("auto") == expected
    assert [precision_here(precision) for precision in ("bf16", "float32")] == ["bf16", "float32"]


@pytest.mark.parametrize(
    ("given", "precision"), [("float32", "float32"), ("bf16", "bf16"), ("auto", "float32"), ("auto", "bf16")]
)
def test_one_step_is_adamw_on_the_clipped_gradient_of_the_mean_loss(tmp_path, monkeypatch, given, precision):
    monkeypatch.setattr("loopscope.training.precision.multiplies_bf16", lambda: precision == "bf16")
    settings = tiny(steps=1, precision=given, gradient_clip=0.05, batch_size=16)
    run = open_run(tmp_path / "run", settings, resume=False)
    train(settings, run)
    (row,) = read_lines(run.metrics)

    torch.manual_seed(settings.training.seed)
    model = build_model(settings.model)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    split = settings.data.training_split()
    rows = batch_rows(0, 0, 16, len(split))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = model(settings.data.inputs(split.problems[rows]), row["free_iterations"], row["gradient_iterations"])
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), split.answers[rows].flatten())
    loss.backward()
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters()))
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert norm > 0.05

    trained = load_model(run.path).state_dict()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad * 0.05 / norm
        decay = 0.01 if parameter.ndim > 1 else 0.0
        # The first step of Adam, bias-corrected, is the gradient over its own size.
        step = gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(
            trained[name], start[name] * (1 - row["learning_rate"] * decay) - row["learning_rate"] * step,
            rtol=1e-4, atol=1e-5, msg=name,
        )  # fmt: skip
        assert trained[name].dtype == torch.float32


def test_two_trainings_are_equal_bit_for_bit_and_another_seed_is_not(tmp_path):
    weights = []
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        torch.manual_seed(len(weights))  # must not matter
        settings = tiny(seed=seed)
        run = open_run(tmp_path / name, settings, resume=False)
        train(settings, run)
        weights.append(load_file(run.model / "model.safetensors"))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]["embedding.weight"], weights[2]["embedding.weight"])


@pytest.mark.parametrize("architecture", ["looped", "fixed-depth"])
def test_training_leaves_the_random_state_alone_and_trains_every_parameter(tmp_path, architecture):
    model = {"architecture": architecture, "recall": "internal" if architecture == "looped" else "none", "blocks": 2}
    settings = tiny(model)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(settings, run := open_run(tmp_path / "run", settings, resume=False))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(settings.training.seed)
    start, end = build_model(settings.model).state_dict(), load_model(run.path).state_dict()
    assert [name for name in start if torch.equal(start[name], end[name])] == []


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_run_that_diverges_names_the_step_and_keeps_its_checkpoint(tmp_path, monkeypatch, broken):
    settings = tiny()
    run = open_run(tmp_path / "run", settings, resume=False)
    right, calls = type(settings.data).loss, []

    def loss(task, logits, answers):
        calls.append(1)
        if len(calls) < 5:
            return right(task, logits, answers)
        if broken == "loss":
            return right(task, logits, answers) * math.inf
        return (logits.flatten()[0] * 0).sqrt()  # its value is 0, its gradient is not a number

    monkeypatch.setattr(type(settings.data), "loss", loss)
    with pytest.raises(
        LoopscopeError, match=r"training diverged at step 5: .*the checkpoint step-0000003 is kept; lower training"
    ) as caught:
        train(settings, run)
    assert "\n" not in str(caught.value)
    assert [path.name for path in run.state.iterdir()] == ["step-0000003"]
    assert not run.finished()
    assert [row["step"] for row in read_lines(run.metrics)] == [1, 2, 3, 4]
    monkeypatch.undo()
    assert train(settings, run).step == 6


def test_a_run_that_diverges_at_once_says_that_nothing_was_kept(tmp_path, monkeypatch):
    settings = tiny()
    monkeypatch.setattr(type(settings.data), "loss", lambda task, logits, answers: logits.sum() * math.nan)
    with pytest.raises(LoopscopeError, match=r"at step 1: loss nan, .*no checkpoint has been written"):
        train(settings, open_run(tmp_path / "run", settings, resume=False))


WORKER = """
import json, sys
from pathlib import Path
from loopscope.training import trainer
from loopscope.training.processes import joined_processes
from loopscope.training.run_folder import RunFolder
from loopscope.training.samplers import SAMPLERS
from loopscope.training.settings import settings_from

folder, settings = Path(sys.argv[1]), settings_from(json.loads(sys.argv[2]))
counts, sample = [], SAMPLERS["uniform"]

def recorded(maximum, generator):
    drawn = sample(maximum, generator)
    counts.append([drawn.free, drawn.gradient])
    return drawn

def threads_of_gloo():
    return [name for path in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := path.read_text())]

SAMPLERS["uniform"] = recorded
with joined_processes() as state:
    outcome = trainer.train(settings, RunFolder(folder))
    assert threads_of_gloo() or not Path("/proc/self/task").is_dir()
assert outcome.step == 6, outcome
assert not threads_of_gloo(), "they can abort this process when it ends"
(folder / f"rank-{state.process_index}-of-{state.num_processes}.json").write_text(json.dumps(counts))
"""


@pytest.mark.parametrize(
    ("model", "training"),
    [
        # Without recall, some steps leave the embedding without gradient: the hardest case for several processes.
        ({"recall": "none", "norm": "peri"}, {}),
        # Each process takes as many iterations and products as its own examples need.
        ({}, {"objective": "implicit", "max_iterations": 40}),
    ],
    ids=["progressive", "implicit"],
)
def test_two_processes_train_the_same_model_as_one(tmp_path, model, training):
    settings = tiny(model, **training)
    one, two = tmp_path / "one", tmp_path / "two"
    train(settings, open_run(one, settings, resume=False))
    open_run(two, settings, resume=False)
    (script := tmp_path / "worker.py").write_text(WORKER)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    options = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(
        [*launch, *options, str(script), str(two), json.dumps(settings.to_dict())],
        env={**os.environ, **hidden}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    ranks = [json.loads((two / f"rank-{rank}-of-2.json").read_text()) for rank in range(2)]
    assert ranks[0] == ranks[1]
    rows = [read_lines(RunFolder(folder).metrics) for folder in (one, two)]
    assert len(rows[0]) == len(rows[1]) == 6
    for alone, together in zip(*rows, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert together["gradient_norm"] == pytest.approx(alone["gradient_norm"], rel=1e-3)
        for name in ("iterations", "arrived"):
            assert together.get(name) == pytest.approx(alone.get(name), abs=0.2)
    if not training:
        assert any(free for free, _ in ranks[0])
        assert [[row["free_iterations"], row["gradient_iterations"]] for row in rows[1]] == ranks[0]
    weights = [load_file(RunFolder(folder).model / "model.safetensors") for folder in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_batch_that_cannot_be_split_over_the_processes_is_refused(tmp_path, monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 3))
    settings = tiny()
    with pytest.raises(LoopscopeError, match="batch_size 8 cannot be split over 3 processes: choose a multiple"):
        train(settings, open_run(Path(tmp_path / "run"), settings, resume=False))
