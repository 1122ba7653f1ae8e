"""Whether several small models of one shape train faster stacked in one process than one after another.

    python benchmarks/stacked.py
    python benchmarks/stacked.py --models 2 4 --json > stacked.json

Stacked, the models' parameters are one tensor each (torch.func.stack_module_state) and one training step runs all of them
under vmap, their matrix products batched. One after another is what a worker of a study does, on one core. Both take one
thread, the same batches and counts of iterations, and AdamW; what is compared is processor time, which a busy machine
disturbs least. A speedup of 1.3 would pay for wiring it into studies; it is below 1, so studies run a process per core.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from setting import setting
from telling import tell
from timing import in_turn, median_ratio
from torch import Tensor
from torch.func import functional_call, stack_module_state
from training_step import SHAPES, OneLineParser, positive, width

from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.training.config import TrainingConfig
from loopscope.training.trainer import make_optimizer

TOKENS = 32


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        models: models trained together.
        width: their width.
        batch: examples of each model per step.
        free: iterations without gradient.
        gradient: iterations with gradient.
        precision: float32 or bf16.
        compiled: whether the iteration is compiled where models train one after another; vmap runs eagerly.
        alone_ms: median processor milliseconds for one step of every model, one after another.
        stacked_ms: the same, stacked.
        speedup: alone_ms over stacked_ms, the median of the rounds' ratios.
    """

    models: int
    width: int
    batch: int
    free: int
    gradient: int
    precision: str
    compiled: bool
    alone_ms: float
    stacked_ms: float
    speedup: float


COLUMNS: dict[str, Callable[[Row], str]] = {
    "models": lambda row: str(row.models),
    "width": lambda row: str(row.width),
    "batch": lambda row: str(row.batch),
    "iterations": lambda row: f"{row.free} + {row.gradient}",
    "precision": lambda row: row.precision,
    "mode": lambda row: "compiled" if row.compiled else "eager",
    "one after another, ms": lambda row: f"{row.alone_ms:.0f}",
    "stacked, ms": lambda row: f"{row.stacked_ms:.0f}",
    "speedup": lambda row: f"{row.speedup:.2f}",
}


def make_models(count: int, size: int) -> list[LoopedTransformer]:
    """Return models of one shape, each with its own weights."""
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        models.append(LoopedTransformer(LoopedTransformerConfig(width=size, **SHAPES[TOKENS])))
    return models


def alone(models: list[LoopedTransformer], problems: Tensor, answers: Tensor, options: argparse.Namespace) -> Callable:
    """Return a function that takes one step of every model, one after another; it returns the losses."""
    optimizers = [make_optimizer(model, TrainingConfig()) for model in models]

    def step() -> Tensor:
        losses = []
        for model, optimizer, inputs, answer in zip(models, optimizers, problems, answers, strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
                logits = model(inputs, options.free, options.gradient)
            loss = F.cross_entropy(logits.float().flatten(0, 1), answer.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return torch.stack(losses)

    return step


def stacked(
    models: list[LoopedTransformer], problems: Tensor, answers: Tensor, options: argparse.Namespace
) -> Callable:
    """Return a function that takes one step of every model at once; it returns the losses."""
    parameters, _ = stack_module_state(models)  # type: ignore[arg-type]
    # Matrices have three dimensions here; only they decay, as in training.
    groups = [
        {"params": [part for part in parameters.values() if part.ndim > 2], "weight_decay": 0.01},
        {"params": [part for part in parameters.values() if part.ndim <= 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=TrainingConfig().learning_rate, fused=True)

    def loss_of(weights: dict[str, Tensor], inputs: Tensor, answer: Tensor) -> Tensor:
        logits = functional_call(models[0], weights, (inputs, options.free, options.gradient))
        return F.cross_entropy(logits.float().flatten(0, 1), answer.flatten())

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            losses: Tensor = torch.vmap(loss_of)(parameters, problems, answers)
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return losses.detach()

    return step


def measure(count: int, options: argparse.Namespace) -> Row:
    """Return the row of so many models."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, options.batch, TOKENS)
    problems = torch.randn(*shape, SHAPES[TOKENS]["inputs"], generator=generator)
    answers = torch.randint(SHAPES[TOKENS]["outputs"], shape, generator=generator)
    one, other = make_models(count, options.width), make_models(count, options.width)
    if options.mode == "compiled":
        for model in one:
            model.compile_step()
    ways = [alone(one, problems, answers, options), stacked(other, problems, answers, options)]
    first, second = (way() for way in ways)
    torch.testing.assert_close(first, second, rtol=0.02, atol=0.02)  # the same models on the same batches
    apart, together = in_turn(ways, options.repeats, clock=time.process_time)
    return Row(
        models=count,
        width=options.width,
        batch=options.batch,
        free=options.free,
        gradient=options.gradient,
        precision=options.precision,
        compiled=options.mode == "compiled",
        alone_ms=round(1000 * statistics.median(apart), 1),
        stacked_ms=round(1000 * statistics.median(together), 1),
        speedup=round(median_ratio(apart, together), 3),
    )


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=positive, nargs="+", default=[2, 4, 8], metavar="N", help="models at once")
    parser.add_argument("--width", type=width, default=64, help="width of the models")
    parser.add_argument("--batch", type=positive, default=128, help="examples of each model per step")
    parser.add_argument("--free", type=positive, default=5, help="iterations without gradient")
    parser.add_argument("--gradient", type=positive, default=8, help="iterations with gradient")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="bf16", help="precision of both ways")
    parser.add_argument("--mode", choices=["eager", "compiled"], default="compiled", help="of one after another")
    parser.add_argument("--repeats", type=positive, default=7, help="rounds; medians are reported")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure and print."""
    options = read_options()
    torch.set_num_threads(1)
    rows = [measure(count, options) for count in options.models]
    tell(rows, COLUMNS, setting(repeats=options.repeats), options.json)


if __name__ == "__main__":
    main()
