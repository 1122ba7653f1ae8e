"""A folded model against the one it was folded from: the time of an iteration without gradient, compiled.

    python benchmarks/folding.py --width 256 --tokens 81 --batch 32 --threads 2
    python benchmarks/folding.py --width 64 --tokens 32 --batch 128 --threads 1 --json

Internal recall, outer normalization, float32; 81 tokens are a sudoku under full attention, other numbers a line with a
window of 5. Both run in turn; the median of the ratios is reported, and how far their states are apart after all
iterations, relative to their size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from setting import setting

import loopscope as ls
from loopscope.loop import Tree, iterate

ITERATIONS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=81)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    where = (
        {"grid": (9, 9), "attention": "full"}
        if args.tokens == 81
        else {"grid": (0,), "attention": "local", "window": 5}
    )
    config = ls.LoopedTransformerConfig(
        recall="internal", norm="outer", width=args.width, heads=args.width // 16, inputs=10, outputs=9, **where
    )
    plain = ls.LoopedTransformer(config).eval()
    models = {"plain": plain, "folded": plain.fold().compile_step()}
    plain.compile_step()
    inputs = torch.randn(args.batch, args.tokens, 10)
    states: dict[str, Tree] = {}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for repeat in range(args.repeats + 1):
            for name, model in models.items():
                recalled = model.encode(inputs)
                began = time.perf_counter()
                states[name] = iterate(model, model.start(recalled), recalled, ITERATIONS)
                if repeat:  # the first compiles
                    seconds[name].append((time.perf_counter() - began) / ITERATIONS)
    found = {f"{name}_ms": 1000 * statistics.median(times) for name, times in seconds.items()}
    found["ratio"] = statistics.median(
        folded / plain for plain, folded in zip(seconds["plain"], seconds["folded"], strict=True)
    )
    found["apart"] = float((states["plain"] - states["folded"]).norm() / states["plain"].norm())
    ran = setting(**{name: getattr(args, name) for name in ("width", "tokens", "batch", "repeats")})
    if args.json:
        print(json.dumps({"setting": ran, **found}, indent=2, allow_nan=False))
        return
    print(", ".join(f"{name} {value}" for name, value in ran.items()))
    print(
        f"an iteration: plain {found['plain_ms']:.1f} ms, folded {found['folded_ms']:.1f} ms, ratio {found['ratio']:.3f}; "
        f"states apart {found['apart']:.1e}"
    )


if __name__ == "__main__":
    main()
