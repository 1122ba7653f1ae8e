"""Time of one training step (forward, backward, AdamW), relative to a plain implementation and to the roofline.

    python benchmarks/training_step.py                                    # everything (takes long)
    python benchmarks/training_step.py --width 256 --tokens 81 --batch 32
    python benchmarks/training_step.py --json > training_step.json

It runs on the GPU that CUDA finds, else on the CPU. All variants of a case are timed in turn over several rounds, and medians
are reported, so that a busy machine slows all of them equally. GFLOP/s counts the matrix products that the step needs; a
plain implementation computes more. The roofline is the best rate of one large matrix product in the same precision,
measured in the same run. Rows for bf16 are left out if the machine does not multiply faster in it.
``--precision float32 bf16`` measures them nevertheless, which takes minutes where bf16 is emulated.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import NoReturn

import torch
import torch.nn.functional as F
from output import print_results
from plain import PlainTransformer
from rich.console import Console
from rich.progress import track
from setting import setting
from timing import in_turn, median_ratio
from torch import nn

from loopscope import subjects
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.training.config import TrainingConfig
from loopscope.training.precision import multiplies_bf16
from loopscope.training.trainer import make_optimizer

SHAPES = {
    32: {"grid": (0,), "attention": "local", "kernel_size": 5, "inputs": 1, "outputs": 2},
    64: {"grid": (8, 8), "attention": "full", "inputs": 12, "outputs": 2},
    81: {"grid": (9, 9), "attention": "full", "inputs": 10, "outputs": 10},
}
"""Shapes of the tasks (prefix sums, chess, sudoku) by number of tokens."""

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
ROOFLINE_SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices whose product gives the roofline. They are large for the device."""


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        implementation: loopscope or plain.
        width: width of the model.
        tokens: tokens per example.
        batch: examples per step.
        iterations: iterations with gradient.
        precision: float32 or bf16.
        compiled: whether the step was compiled.
        ms: median milliseconds of a training step.
        gflops: billions of operations per second, counting the matrix products that the step needs.
        roofline_gflops: rate of one large matrix product in this precision.
        roofline_ratio: gflops over roofline_gflops.
        speedup: milliseconds of the plain implementation over ``ms``, as the median of the rounds' ratios.
    """

    implementation: str
    width: int
    tokens: int
    batch: int
    iterations: int
    precision: str
    compiled: bool
    ms: float
    gflops: float
    roofline_gflops: float
    roofline_ratio: float
    speedup: float


@dataclass(frozen=True)
class Variant:
    """One way to run the step.

    Args:
        implementation: loopscope or plain.
        precision: float32 or bf16.
        compiled: whether the step is compiled.
        run: does one training step.
    """

    implementation: str
    precision: str
    compiled: bool
    run: Callable[[], None]


COLUMNS: dict[str, Callable[[Row], str]] = {
    "implementation": lambda row: row.implementation,
    "width": lambda row: str(row.width),
    "tokens": lambda row: str(row.tokens),
    "batch": lambda row: str(row.batch),
    "precision": lambda row: row.precision,
    "mode": lambda row: "compiled" if row.compiled else "eager",
    "ms": lambda row: f"{row.ms:.1f}",
    "GFLOP/s": lambda row: f"{row.gflops:.1f}",
    "roofline": lambda row: f"{row.roofline_gflops:.1f}",
    "ratio": lambda row: f"{row.roofline_ratio:.0%}",
    "x plain": lambda row: f"{row.speedup:.2f}",
}


def forward_operations(config: LoopedTransformerConfig, tokens: int, iterations: int) -> int:
    """Return the number of operations (two per multiplication) in the matrix products of one example's forward."""
    width = config.width
    attended = min(config.kernel_size, tokens) if config.attention == "local" else tokens
    attention = 4 * width * width + 2 * attended * width  # queries, keys, values, output; scores and mixture
    mlp = 2 * config.mlp_ratio * width * width
    recall = 2 * width * width  # W_state, once per sub-layer
    once = (config.inputs + width + width + config.outputs) * width  # embedding, W_input, readout
    return 2 * tokens * (once + iterations * (attention + mlp + recall))


def is_slower(precision: str) -> bool:
    """Return whether this machine multiplies more slowly in a precision than in float32."""
    return precision == "bf16" and not multiplies_bf16()


def roofline(precision: str) -> float:
    """Return the best rate of one large matrix product, in GFLOP/s."""
    device = subjects.device()
    side = ROOFLINE_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    (seconds,) = in_turn([lambda: left @ right], 5)
    return 2 * side**3 / min(seconds) / 1e9


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, int], iterations: int, precision: str
) -> Callable[[], None]:
    """Return a function that does one step on random inputs of ``shape`` (batch, tokens)."""
    config = model.config
    device = subjects.device()
    inputs = torch.randn(*shape, config.inputs, device=device)
    answers = torch.randint(config.outputs, shape, device=device).flatten()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(inputs, 0, iterations)
        F.cross_entropy(logits.float().flatten(0, 1), answers).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_variants(options: argparse.Namespace, width: int, tokens: int, batch: int) -> list[Variant]:
    """Return all ways to run the step of one case, from the same weights. The plain one comes first."""
    torch.manual_seed(0)
    config = LoopedTransformerConfig(recall="internal", norm="outer", width=width, **SHAPES[tokens])
    original = LoopedTransformer(config).to(subjects.device())

    def variant(model: nn.Module, optimizer: torch.optim.Optimizer, precision: str, compiled: bool) -> Variant:
        name = "plain" if isinstance(model, PlainTransformer) else "loopscope"
        step = training_step(model, optimizer, (batch, tokens), options.iterations, precision)
        return Variant(name, precision, compiled, step)

    plain = PlainTransformer.like(original).to(subjects.device())
    variants = [variant(plain, torch.optim.AdamW(plain.parameters()), "float32", False)]
    for precision, mode in product(options.precision, options.mode):
        model = LoopedTransformer(config).to(subjects.device())
        model.load_state_dict(original.state_dict())
        if mode == "compiled":
            model.compile_step()
        variants.append(variant(model, make_optimizer(model, TrainingConfig()), precision, mode == "compiled"))
    return variants


def measure(options: argparse.Namespace, width: int, tokens: int, batch: int, rates: dict[str, float]) -> list[Row]:
    """Return the rows of one case."""
    torch.compiler.reset()  # otherwise the compiler would treat the next case's sizes as dynamic
    variants = make_variants(options, width, tokens, batch)
    for variant in variants:
        variant.run()
        variant.run()
    seconds = in_turn([variant.run for variant in variants], options.repeats)
    config = LoopedTransformerConfig(width=width, **SHAPES[tokens])
    operations = 3 * batch * forward_operations(config, tokens, options.iterations)  # backward is twice the forward
    return [
        Row(
            implementation=variant.implementation,
            width=width,
            tokens=tokens,
            batch=batch,
            iterations=options.iterations,
            precision=variant.precision,
            compiled=variant.compiled,
            ms=round(1000 * took, 3),
            gflops=round(rate, 2),
            roofline_gflops=round(rates[variant.precision], 2),
            roofline_ratio=round(rate / rates[variant.precision], 4),
            speedup=round(median_ratio(seconds[0], times), 3),
        )
        for variant, times in zip(variants, seconds, strict=True)
        for took in [statistics.median(times)]
        for rate in [operations / took / 1e9]
    ]


class OneLineParser(argparse.ArgumentParser):
    """A parser whose error messages are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error message and exit."""
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def positive(text: str) -> int:
    """Return a whole number above 0 from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def width(text: str) -> int:
    """Return a width that can be split over the model's 8 heads."""
    if positive(text) % 32:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 32 (8 heads, two axes, pairs of features)")
    return int(text)


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = {"nargs": "+", "metavar": "N"}
    parser.add_argument("--width", type=width, default=[64, 256], help="widths of the model", **several)
    parser.add_argument(
        "--tokens",
        type=positive,
        nargs="+",
        default=list(SHAPES),
        choices=list(SHAPES),
        help="32 (prefix sums), 64 (chess), 81 (sudoku)",
    )
    parser.add_argument("--batch", type=positive, default=[32, 128], help="examples per step", **several)
    parser.add_argument(
        "--precision",
        nargs="+",
        default=[name for name in DTYPES if not is_slower(name)],
        choices=list(DTYPES),
        help="float32 and bf16; by default, bf16 only if the machine multiplies faster in it",
    )
    parser.add_argument("--mode", nargs="+", default=["eager", "compiled"], choices=["eager", "compiled"])
    parser.add_argument("--iterations", type=positive, default=15, help="number of iterations, all with gradient")
    parser.add_argument("--repeats", type=positive, default=7, help="number of rounds in which each variant is timed")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    return parser.parse_args(arguments)


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    if any(map(is_slower, options.precision)):
        print(
            "bf16 is slower than float32 on this machine: if it is emulated, its rows will take minutes",
            file=sys.stderr,
        )
    rates = {precision: roofline(precision) for precision in dict.fromkeys(["float32", *options.precision])}
    cases = list(product(options.width, options.tokens, options.batch))
    progress = track(cases, description="cases", console=Console(stderr=True), transient=True)
    rows = [row for case in progress for row in measure(options, *case, rates)]
    ran = setting(iterations=options.iterations, repeats=options.repeats)
    print_results(rows, COLUMNS, ran, options.json)


if __name__ == "__main__":
    main()
