"""One iteration is compiled once with gradient and once without, whatever the counts and batches, lines beyond 64 tokens apart.

In processes of their own, because the compiler cannot trace the checks of shapes that tests switch on. Graphs are
counted with a backend that runs them as they are: what is compiled, and how often, does not depend on the backend.
"""

import subprocess
import sys

import pytest

COUNTED = """
import sys
from functools import partial

import torch
from torch._dynamo.testing import CompileCounter

import loopscope as ls
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.training.config import TrainingConfig
from loopscope.training.samplers import IterationCounts
from loopscope.training.trainer import make_objective

half, line = sys.argv[1] == "bf16", {"grid": (0,), "attention": "local", "kernel_size": 5}
autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=half)
torch_compile = torch.compile


def fresh(**options):
    torch.compiler.reset()
    counter = CompileCounter()
    torch.compile = partial(torch_compile, backend=counter)
    torch.manual_seed(0)
    return LoopedTransformer(LoopedTransformerConfig(width=16, heads=2, inputs=3, outputs=4, **options)), counter


def train(run, batch, tokens):
    with autocast():
        logits = run(torch.randn(batch, tokens, 3))
    logits.float().square().sum().backward()


# Training: counts of iterations, with and without recomputing, batches down to one, lengths; then looking on.
for options in (line, {"grid": (3, 4), "attention": "full", "recall": "none", "norm": "pre"}):
    model, counter = fresh(**options)
    model.compile_step()
    seen = []
    passes = [(1, 0, 1, None), (4, 0, 3, None), (7, 5, 1, None), (4, 2, 4, None), (4, 1, 5, 2), (1, 3, 2, 1)]
    for number, (batch, *counts) in enumerate(passes):
        tokens = 12 if options["grid"] == (3, 4) else 12 + 7 * (number % 3)
        train(lambda inputs: model(inputs, *counts), batch, tokens)
        seen.append(counter.frame_count)
    assert seen[0] == 1, seen
    assert seen[-1] == 2, seen
    with torch.no_grad(), autocast():
        for batch in (1, 5):
            model(torch.randn(batch, 12, 3), 3, 2)
    assert counter.frame_count == 2, counter.frame_count

# Lines of several strips are compiled apart from shorter ones, once with gradient and once without.
model, counter = fresh(**line)
model.compile_step()
for batch, tokens in ((4, 100), (3, 65), (1, 130)):
    train(lambda inputs: model(inputs, 2, 2), batch, tokens)
assert counter.frame_count == 2, counter.frame_count
with torch.no_grad(), autocast():
    for tokens in (12, 64, 65, 200):
        model(torch.randn(2, tokens, 3), 2, 1)
assert counter.frame_count == 3, counter.frame_count
for tokens in (12, 64):
    train(lambda inputs: model(inputs, 2, 2), 4, tokens)
assert counter.frame_count == 4, counter.frame_count

# Each precision is compiled apart.
model, counter = fresh(**line)
model.compile_step()
for autocast in (autocast, partial(torch.autocast, "cpu", torch.bfloat16, enabled=not half)) * 2:
    train(lambda inputs: model(inputs, 2, 2), 4, 12)
assert counter.frame_count == 4, counter.frame_count
autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=half)

# Solving: examples leave the batch as they arrive, down to the last one.
model, counter = fresh(**line)
inputs = torch.randn(9, 12, 3)
eager = ls.solve(model, inputs, tolerance=1e-4, max_iterations=300)
compiled, sizes = model.compile_step()._run_iteration, set()
model._run_iteration = lambda state, *rest: sizes.add(len(state)) or compiled(state, *rest)
solution = ls.solve(model, inputs, tolerance=1e-4, max_iterations=300)
assert {1, 9} < sizes, sizes
assert torch.equal(solution.iterations, eager.iterations)
torch.testing.assert_close(solution.state, eager.state)
assert counter.frame_count == 1, counter.frame_count

# Training at the fixed point: the solve of the implicit gradient is not compiled.
for objective, last in (("implicit", None), ("truncated", 3), ("phantom", 3)):
    model, counter = fresh(**line)
    config = TrainingConfig(objective=objective, max_iterations=60, tolerance=1e-2, gradient_iterations=last)
    run = make_objective(model.compile_step(), config)
    for batch in (9, 4):
        train(lambda inputs: run(inputs, IterationCounts(0, 60)), batch, 12)
    assert counter.frame_count == 2, (objective, counter.frame_count)
"""


SHAPES_AND_COPIES = """
from copy import deepcopy
from functools import partial

import torch
from torch._dynamo.testing import CompileCounter

import loopscope as ls
from loopscope.jacobian import step_jacobian
from loopscope.models import LoopedTransformer, LoopedTransformerConfig

torch.set_num_threads(1)
torch.manual_seed(0)
torch_compile = torch.compile


def fresh(width):
    shape = {"grid": (3, 4), "attention": "full"}
    return LoopedTransformer(LoopedTransformerConfig(width=width, heads=2, inputs=3, outputs=4, **shape))


# Models of many shapes in one process are compiled all: the compiler alone would give up at eight.
counter = CompileCounter()
torch.compile = partial(torch_compile, backend=counter)
for width in range(16, 16 + 9 * 8, 8):
    with torch.no_grad():
        fresh(width).compile_step()(torch.randn(2, 12, 3), 1, 1)
assert counter.frame_count == 9, counter.frame_count

# Several products go through the Jacobian of a compiled step; they are those of the step that was not compiled.
model = fresh(16)
inputs = torch.randn(3, 12, 3)
recalled = model.encode(inputs)
state, vectors = model.start(recalled), torch.randn(3, 12 * 16)
plain = step_jacobian(model, state, recalled)
torch.compile = partial(torch_compile, backend="aot_eager")
compiled = step_jacobian(model.compile_step(), state, recalled)
for product in ("vjp", "jvp", "vjp"):
    torch.testing.assert_close(getattr(compiled, product)(vectors), getattr(plain, product)(vectors))
assert compiled.product == plain.product
assert not ls.examine(model, inputs, trained_iterations=4, effort="quick", iterations=40).unknown

# A copy has weights of its own, and is not compiled.
copied = deepcopy(model)
with torch.no_grad():
    for parameter in copied.parameters():
        parameter.mul_(3)
    other = LoopedTransformer(model.config)
    other.load_state_dict(copied.state_dict())
    assert torch.equal(copied.step(state, recalled), other.step(state, recalled))
    assert not torch.equal(copied.step(state, recalled), model.step(state, recalled))
assert step_jacobian(model, state, recalled, dtype=torch.float64).vjp(vectors).dtype == torch.float64
"""


def test_models_of_many_shapes_and_their_jacobians_and_copies():
    subprocess.run([sys.executable, "-c", SHAPES_AND_COPIES], check=True, timeout=200)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_an_iteration_is_compiled_at_most_twice(precision):
    subprocess.run([sys.executable, "-c", COUNTED, precision], check=True, timeout=200)
