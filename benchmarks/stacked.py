"""Whether several small models of one shape train faster stacked in one process than one after the other.

    python benchmarks/stacked.py
    python benchmarks/stacked.py --models 2 4 --mode compiled --json > stacked.json

When models are stacked, each parameter is one tensor for all of them (torch.func.stack_module_state), and one training step
runs all models under vmap with batched matrix products. A worker of a study trains one model after the other, on one core.
Both ways run eagerly, and with one iteration compiled, as in studies. They use one thread, the same batches and numbers of
iterations, and AdamW. The comparison is of processor time, which a busy machine disturbs least. A speedup of 1.3 would justify
stacking in studies; eagerly it is below 1, so studies run one process per core.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from output import print_results
from setting import setting
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
        models: number of models trained together.
        width: width of the models.
        batch: examples per model and step.
        free: iterations without gradient.
        gradient: iterations with gradient.
        precision: float32 or bf16.
        compiled: whether one iteration is compiled, in both ways of training.
        alone_ms: median processor milliseconds for one step of every model, one after the other.
        stacked_ms: median processor milliseconds for one step of the stacked models.
        speedup: alone_ms over stacked_ms, as the median of the rounds' ratios.
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
    """Return a step that trains every model, one after the other."""
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
    """A model whose parts (encode, step, read) can be called by name, so that they can run with other weights."""

    def __init__(self, model: LoopedTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, part: str, *arguments: Tensor) -> Tensor:
        """Return the result of a part."""
        return getattr(self.model, part)(*arguments)


def stacked(
    models: list[LoopedTransformer], problems: Tensor, answers: Tensor, options: argparse.Namespace, compiled: bool
) -> Step:
    """Return a step that trains every model at once."""
    several = [Parts(model) for model in models]
    parameters, _ = stack_module_state(several)  # type: ignore[arg-type]
    # Stacked matrices have three dimensions. As in training, only matrices decay.
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
    models[0].positions(problems[0])  # computed once, outside the compiled and mapped code

    def forward() -> Tensor:
        recalled = encode(parameters, problems)
        state = recalled["embedding"].float().detach()  # the first iterations are free, so no gradient reaches it
        with torch.no_grad():
            for _ in range(options.free):
                state = iterate(parameters, state, recalled)
        torch.clear_autocast_cache()  # it holds weights that were cast without a graph
        state.requires_grad_()  # like all later states, so that one compiled graph serves all iterations with gradient
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
    """Return the row of ``count`` models in one mode."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, options.batch, TOKENS)
    device = subjects.device()
    problems = torch.randn(*shape, SHAPES[TOKENS]["inputs"], generator=generator).to(device)
    answers = torch.randint(SHAPES[TOKENS]["outputs"], shape, generator=generator).to(device)
    torch.compiler.reset()  # otherwise the compiler would treat another number of models as a dynamic size
    ways = [
        way(make_models(count, options.width), problems, answers, options, mode == "compiled")
        for way in (alone, stacked)
    ]
    for _ in range(2):  # the first round compiles; the second starts from weights that both ways have changed
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
    parser.add_argument("--models", type=positive, nargs="+", default=[2, 4, 8], metavar="N", help="numbers of models")
    parser.add_argument("--width", type=width, default=64, help="width of the models")
    parser.add_argument("--batch", type=positive, default=128, help="examples per model and step")
    parser.add_argument("--free", type=positive, default=5, help="iterations without gradient")
    parser.add_argument("--gradient", type=positive, default=8, help="iterations with gradient")
    parser.add_argument(
        "--precision", choices=["float32", "bf16"], default=precision_here("auto"), help="precision of both ways"
    )
    modes = ["eager", "compiled"]
    parser.add_argument("--mode", nargs="+", choices=modes, default=modes, help="how one iteration is run")
    parser.add_argument("--repeats", type=positive, default=7, help="number of rounds, whose medians are reported")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure and print."""
    options = read_options()
    torch.set_num_threads(1)
    rows = [measure(count, mode, options) for count, mode in product(options.models, options.mode)]
    print_results(rows, COLUMNS, setting(repeats=options.repeats), options.json)


if __name__ == "__main__":
    main()
