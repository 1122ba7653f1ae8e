"""The training-step benchmark: its plain implementation is the same function, and it counts and prints what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.training.precision import multiplies_bf16

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "training_step.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import training_step

    return training_step


def make_model(benchmark, tokens: int) -> tuple[LoopedTransformer, torch.Tensor]:
    torch.manual_seed(0)
    model = LoopedTransformer(LoopedTransformerConfig(width=32, **benchmark.SHAPES[tokens]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, torch.randn(2, tokens, model.config.inputs)


@pytest.mark.parametrize("tokens", [32, 64, 81])
def test_the_plain_implementation_is_the_same_function(benchmark, tokens):
    model, inputs = make_model(benchmark, tokens)
    plain = benchmark.PlainTransformer.like(model)
    ours, theirs = model(inputs, 0, 4), plain(inputs, 0, 4)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    for logits in (ours, theirs):
        logits.square().mean().backward()
    joined = torch.cat([part.weight.grad for part in (plain.query, plain.key, plain.value)])
    torch.testing.assert_close(joined, model.blocks[0].attention.query_key_value.weight.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(plain.recall_input.weight.grad, model.recall.input.weight.grad, rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("tokens", [64, 81])
def test_operations_are_those_that_pytorch_counts(benchmark, tokens):
    model, inputs = make_model(benchmark, tokens)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(inputs, 0, 3)
    assert counter.get_total_flops() == 2 * benchmark.forward_operations(model.config, tokens, 3)


def run(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=200)


def test_rows_for_machines():
    subset = ["--width", "32", "--tokens", "32", "--batch", "2", "--mode", "eager", "--iterations", "2"]
    done = run("--json", "--repeats", "3", "--threads", "1", *subset)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    named = [(row["implementation"], row["precision"], row["compiled"]) for row in rows]
    bf16 = [("loopscope", "bf16", False)] if multiplies_bf16() else []
    assert named == [("plain", "float32", False), ("loopscope", "float32", False), *bf16]
    assert rows[0]["speedup"] == 1
    for row in rows:
        assert [row[name] for name in ("width", "tokens", "batch", "iterations")] == [32, 32, 2, 2]
        assert row["ms"] > 0
        assert row["roofline_ratio"] == pytest.approx(row["gflops"] / row["roofline_gflops"], rel=0.1, abs=0.001)


@pytest.mark.parametrize("faster", [True, False])
def test_a_slower_precision_is_left_out_unless_asked_for(benchmark, monkeypatch, faster):
    monkeypatch.setattr(benchmark, "multiplies_bf16", lambda: faster)
    assert benchmark.read_options([]).precision == (["float32", "bf16"] if faster else ["float32"])
    assert benchmark.read_options(["--precision", "bf16"]).precision == ["bf16"]


def test_a_speedup_is_the_median_of_the_rounds_ratios(benchmark, monkeypatch):
    def in_turn(actions, rounds):
        return [[1.0, 10.0, 100.0]] + [[1.0, 5.0, 200.0]] * (len(actions) - 1)

    monkeypatch.setattr(benchmark, "in_turn", in_turn)
    few = ["--mode", "eager", "--precision", "float32", "--iterations", "1"]
    plain, ours = benchmark.measure(benchmark.read_options(few), 32, 32, 2, {"float32": 1.0})
    assert (plain.ms, ours.ms) == (10_000, 5_000)
    assert (plain.speedup, ours.speedup) == (1, 1)


def test_a_wrong_value_is_one_line(benchmark, capsys):
    for options in (["--width", "20"], ["--tokens", "7"], ["--batch", "many"], ["--precision", "fp16"], ["--bogus"]):
        with pytest.raises(SystemExit, match="2"):
            benchmark.read_options(options)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_the_cells_of_a_row(benchmark):
    row = benchmark.Row("plain", 64, 32, 128, 15, "float32", False, 12.5, 30.0, 60.0, 0.5, 1.0)
    cells = [cell(row) for cell in benchmark.COLUMNS.values()]
    assert cells == ["plain", "64", "32", "128", "float32", "eager", "12.5", "30.0", "60.0", "50%", "1.00"]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_stacked_models_take_the_steps_of_models_one_after_another(monkeypatch, precision):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import stacked

    sizes = ["--width", "32", "--batch", "2", "--free", "1", "--gradient", "2", "--repeats", "1"]
    options = stacked.read_options(["--models", "2", *sizes, "--precision", precision])
    generator = torch.Generator().manual_seed(0)
    problems = torch.randn(2, 2, stacked.TOKENS, 1, generator=generator)
    answers = torch.randint(2, (2, 2, stacked.TOKENS), generator=generator)
    apart, together = (
        way(stacked.make_models(2, 32), problems, answers, options, compiled=False)
        for way in (stacked.alone, stacked.stacked)
    )
    tolerance = 1e-4 if precision == "float32" else 0.02
    for _ in range(3):  # later losses show that the steps are the same
        torch.testing.assert_close(together(), apart(), rtol=tolerance, atol=tolerance)
    row = stacked.measure(2, "eager", options)
    assert row.speedup == pytest.approx(row.alone_ms / row.stacked_ms, rel=0.1)  # of one round
