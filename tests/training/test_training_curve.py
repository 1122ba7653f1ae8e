"""Trained step by step, three implementations lose the same: the plain one of the benchmarks, the package's, and it compiled.

In a process of its own, because the compiler cannot trace the checks of shapes that tests switch on. In float64, so that
what remains between them is rounding alone, and anything else would show.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 40

CURVES = """
import json
import sys

import torch
import torch.nn.functional as F
from plain import PlainTransformer

from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.training.config import TrainingConfig
from loopscope.training.trainer import make_optimizer

torch.set_num_threads(1)
torch.manual_seed(0)
line = {"grid": (0,), "attention": "local", "kernel_size": 5}
config = LoopedTransformerConfig(
    recall="internal", norm="outer", width=32, heads=2, inputs=1, outputs=2, **line
)
original = LoopedTransformer(config).double()


def copy():
    model = LoopedTransformer(config).double()
    model.load_state_dict(original.state_dict())
    return model


def losses(model):
    optimizer = make_optimizer(model, TrainingConfig(learning_rate=3e-3))
    generator = torch.Generator().manual_seed(0)
    for _ in range(int(sys.argv[1])):
        bits = torch.randint(0, 2, (32, 6), generator=generator)
        logits = model(bits.unsqueeze(2).double() - 0.5, 0, 6)
        loss = F.cross_entropy(logits.flatten(0, 1), (bits.cumsum(1) % 2).flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


models = {"plain": PlainTransformer.like(original).double(), "eager": copy(), "compiled": copy().compile_step()}
print(json.dumps({name: list(losses(model)) for name, model in models.items()}))
"""


@pytest.fixture(scope="module")
def curves():
    done = subprocess.run(
        [sys.executable, "-c", CURVES, str(STEPS)], cwd=BENCHMARKS, check=True, capture_output=True, timeout=200
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("implementation", ["eager", "compiled"])
def test_the_curve_of_losses_is_that_of_the_plain_implementation(curves, implementation):
    assert len(curves["plain"]) == STEPS
    assert curves[implementation] == pytest.approx(curves["plain"], rel=1e-10, abs=0)


def test_the_curve_falls(curves):
    first, *_, last = curves["plain"]
    assert last < 0.9 * first
