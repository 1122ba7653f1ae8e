"""Time of a compiled iteration without gradient, for a folded model and the model it was folded from.

    python benchmarks/folding.py --width 256 --tokens 81 --batch 32 --threads 2
    python benchmarks/folding.py --width 64 --tokens 32 --batch 128 --threads 1 --json

The models have internal recall and outer normalization, in float32. 81 tokens are a sudoku with full attention; other numbers
are a line with local attention of kernel size 5. Both models run in turn. The median of the ratios is reported, with the
relative distance of their states after all iterations.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from output import print_results
from setting import setting
from timing import in_turn, median_ratio
from torch import Tensor

import loopscope as ls
from loopscope import subjects
from loopscope.loop import iterate

ITERATIONS = 15


@dataclass(frozen=True)
class Row:
    """One shape.

    Attributes:
        width: width of the model.
        tokens: tokens per example.
        batch: number of examples.
        plain_ms: median milliseconds of an iteration of the model.
        folded_ms: median milliseconds of an iteration of the folded model.
        ratio: folded over plain, as the median of the rounds' ratios.
        apart: distance of their last states, relative to the size of the states.
    """

    width: int
    tokens: int
    batch: int
    plain_ms: float
    folded_ms: float
    ratio: float
    apart: float


COLUMNS: dict[str, Callable[[Row], str]] = {
    "width": lambda row: str(row.width),
    "tokens": lambda row: str(row.tokens),
    "batch": lambda row: str(row.batch),
    "plain, ms": lambda row: f"{row.plain_ms:.2f}",
    "folded, ms": lambda row: f"{row.folded_ms:.2f}",
    "ratio": lambda row: f"{row.ratio:.3f}",
    "states apart": lambda row: f"{row.apart:.1e}",
}


@torch.no_grad()
def measure(width: int, tokens: int, batch: int, repeats: int) -> Row:
    torch.manual_seed(0)
    line = {"grid": (0,), "attention": "local", "kernel_size": 5}
    where = {"grid": (9, 9), "attention": "full"} if tokens == 81 else line
    config = ls.LoopedTransformerConfig(
        recall="internal", norm="outer", width=width, heads=width // 16, inputs=10, outputs=9, **where
    )
    plain = ls.LoopedTransformer(config).eval().to(subjects.device())
    models = (plain, plain.fold().compile_step())
    plain.compile_step()
    inputs = torch.randn(batch, tokens, 10, device=subjects.device())

    def run(model: ls.LoopedTransformer) -> Callable[[], Tensor]:
        recalled = model.encode(inputs)
        return lambda: iterate(model, model.start(recalled), recalled, ITERATIONS)

    runs = [run(model) for model in models]
    first, second = (run() for run in runs)  # compiles
    seconds = in_turn(runs, repeats)
    milliseconds = [1000 * statistics.median(times) / ITERATIONS for times in seconds]
    apart = float((first - second).norm() / first.norm())
    return Row(width, tokens, batch, *milliseconds, ratio=median_ratio(seconds[1], seconds[0]), apart=apart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=81)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    row = measure(args.width, args.tokens, args.batch, args.repeats)
    print_results([row], COLUMNS, setting(iterations=ITERATIONS, repeats=args.repeats), args.json)


if __name__ == "__main__":
    main()
