"""Whether several small models of one shape train faster stacked in one process than one after another.

    python benchmarks/stacked.py
    python benchmarks/stacked.py --models 2 4 --mode compiled --json > stacked.json

Stacked, the models' parameters are one tensor each (torch.func.stack_module_state) and one training step runs all of them
under vmap, their matrix products batched. One after another is what a worker of a study does, on one core. Both ways run
eagerly, and with one iteration compiled, as studies train. They take one thread, the same batches and counts of
iterations, and AdamW; what is compared is processor time, which a busy machine disturbs least. A speedup of 1.3 would pay
for wiring it into studies; eagerly it is below 1, so studies run a process per core.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from setting import setting
from telling import tell
from timing import in_turn, median_ratio, processor_time
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from training_step import SHAPES, OneLineParser, positive, width

from loopscope import subjects
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.training.config import TrainingConfig
from loopscope.training.precision import precision_here
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
        compiled: whether one iteration is compiled, both where models train one after another and stacked.
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
        model = LoopedTransformer(LoopedTransformerConfig(width=size, **SHAPES[TOKENS]))
        models.append(model.to(subjects.device()))
    return models


Step = Callable[[], Tensor]
"""One training step of all models; returns their losses."""


def alone(
    models: list[LoopedTransformer], problems: Tensor, answers: Tensor, options: argparse.Namespace, compiled: bool
) -> Step:
    """Return a step that trains every model, one after another."""
    optimizers = [make_optimizer(model, TrainingConfig()) for model in models]
    for model in models if compiled else []:
        model.compile_step()

    def step() -> Tensor:
        losses = []
        for model, optimizer, inputs, answer in zip(models, optimizers, problems, answers, strict=True):
            with torch.autocast(problems.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
                logits = model(inputs, options.free, options.gradient)
            loss = F.cross_entropy(logits.float().flatten(0, 1), answer.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return torch.stack(losses)

    return step


class Parts(nn.Module):
    """A model whose parts (encode, step, read) can be called by name, and so with the weights of another."""

    def __init__(self, model: LoopedTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, part: str, *arguments: Tensor) -> Tensor:
        """Return what the part returns."""
        return getattr(self.model, part)(*arguments)


def stacked(
    models: list[LoopedTransformer], problems: Tensor, answers: Tensor, options: argparse.Namespace, compiled: bool
) -> Step:
    """Return a step that trains every model at once."""
    several = [Parts(model) for model in models]
    parameters, _ = stack_module_state(several)  # type: ignore[arg-type]
    # Matrices have three dimensions here; only they decay, as in training.
    groups = [
        {"params": [part for part in parameters.values() if part.ndim > 2], "weight_decay": 0.01},
        {"params": [part for part in parameters.values() if part.ndim <= 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=TrainingConfig().learning_rate, fused=True)

    def mapped(part: str) -> Callable[..., Tensor]:
        def one(weights: dict[str, Tensor], *arguments: Tensor) -> Tensor:
            return functional_call(several[0], weights, (part, *arguments))

        return torch.vmap(one)

    encode, iterate, read = map(mapped, ("encode", "step", "read"))
    if compiled:
        iterate = torch.compile(iterate)
    models[0].positions(problems[0])  # made once, outside of what is compiled and mapped

    def forward() -> Tensor:
        recalled = encode(parameters, problems)
        state = recalled["embedding"].float().detach()  # the first iterations are free, so that no gradient reaches it
        with torch.no_grad():
            for _ in range(options.free):
                state = iterate(parameters, state, recalled)
        torch.clear_autocast_cache()  # weights that were cast without a graph
        state.requires_grad_()  # as all later ones: one graph for all iterations with gradient
        for _ in range(options.gradient):
            state = iterate(parameters, state, recalled)
        return read(parameters, state)

    def step() -> Tensor:
        with torch.autocast(problems.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            logits = forward()
        losses = F.cross_entropy(logits.float().flatten(0, 2), answers.flatten(), reduction="none")
        losses = losses.unflatten(0, (len(models), -1)).mean(1)
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return losses.detach()

    return step


def measure(count: int, mode: str, options: argparse.Namespace) -> Row:
    """Return the row of so many models in one mode."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, options.batch, TOKENS)
    device = subjects.device()
    problems = torch.randn(*shape, SHAPES[TOKENS]["inputs"], generator=generator).to(device)
    answers = torch.randint(SHAPES[TOKENS]["outputs"], shape, generator=generator).to(device)
    torch.compiler.reset()  # else the compiler would take another number of models for a dynamic size
    ways = [
        way(make_models(count, options.width), problems, answers, options, mode == "compiled")
        for way in (alone, stacked)
    ]
    for _ in range(2):  # the first compiles; the second begins from weights that both have changed
        first, second = (way() for way in ways)
        torch.testing.assert_close(first, second, rtol=0.02, atol=0.02)  # the same models on the same batches
    apart, together = in_turn(ways, options.repeats, clock=processor_time)
    return Row(
        models=count,
        width=options.width,
        batch=options.batch,
        free=options.free,
        gradient=options.gradient,
        precision=options.precision,
        compiled=mode == "compiled",
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
    parser.add_argument(
        "--precision", choices=["float32", "bf16"], default=precision_here("auto"), help="precision of both ways"
    )
    modes = ["eager", "compiled"]
    parser.add_argument("--mode", nargs="+", choices=modes, default=modes, help="of one iteration, either way")
    parser.add_argument("--repeats", type=positive, default=7, help="rounds; medians are reported")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure and print."""
    options = read_options()
    torch.set_num_threads(1)
    rows = [measure(count, mode, options) for count, mode in product(options.models, options.mode)]
    tell(rows, COLUMNS, setting(repeats=options.repeats), options.json)


if __name__ == "__main__":
    main()
