"""Cost of an examination on sudoku-sized states: total seconds, seconds by part, and peak memory.

    python benchmarks/examination.py                                     # untrained blocks, 64 inputs of 81 x 256 numbers
    python benchmarks/examination.py --model runs/sudoku/model --json    # a trained one, as JSON

Each examination runs in its own process, so that its peak memory is measured separately. There are untrained blocks that
settle within a hundred iterations (external recall with a strong input map, outer normalization), that settle slowly (the same
with the usual input map), and that never settle (internal recall; pre normalization without recall, whose directions are
examined as well). Limits on two cores: 120 seconds and 4 GB with effort standard, 20 seconds with effort quick.
``--repeats 3`` gives medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from output import print_results
from setting import setting

from loopscope import subjects
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.stability import examine

BARS = {"quick": (20.0, None), "standard": (120.0, 4.0)}
"""Largest seconds and gigabytes of an examination."""
BLOCKS = {
    "settles": ("external", "outer", 4.0),
    "settles slowly": ("external", "outer", 1.0),
    "never settles": ("internal", "outer", 1.0),
    "drifts": ("none", "pre", 1.0),
}
"""Untrained blocks: recall, normalization, and the factor on the initial input map of the recall."""
TOKENS = 81


@dataclass(frozen=True)
class Row:
    """One examination: its verdict, median seconds, largest peak memory, and seconds by part."""

    model: str
    effort: str
    verdict: str
    arrived: int
    seconds: float
    gigabytes: float
    within_bars: bool
    parts: dict[str, float]


def largest_parts(row: Row) -> str:
    parts = sorted(((took, part) for part, took in row.parts.items() if part != "total"), reverse=True)
    return ", ".join(f"{part} {took:.1f}" for took, part in parts[:5])


COLUMNS: dict[str, Callable[[Row], str]] = {
    "model": lambda row: row.model,
    "effort": lambda row: row.effort,
    "verdict": lambda row: row.verdict,
    "arrived": lambda row: str(row.arrived),
    "seconds": lambda row: f"{row.seconds:.1f}",
    "GB": lambda row: f"{row.gigabytes:.2f}",
    "within bars": lambda row: "yes" if row.within_bars else "no",
    "largest parts": largest_parts,
}


def model_of(name: str, width: int) -> LoopedTransformer:
    """Return an untrained block by its name, or the model in a folder."""
    if name not in BLOCKS:
        return LoopedTransformer.from_pretrained(name)
    recall, norm, factor = BLOCKS[name]
    torch.manual_seed(0)
    model = LoopedTransformer(
        LoopedTransformerConfig(
            width=width, heads=8, recall=recall, norm=norm, inputs=10, outputs=9, grid=(9, 9), attention="full"
        )
    )
    if recall != "none":
        with torch.no_grad():
            model.recall.input.weight.mul_(factor)
    return model


def peak() -> int:
    """Return the peak memory of this process in bytes: of the GPU if one is used, else of the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10


def one(name: str, effort: str, inputs: int, width: int) -> dict[str, object]:
    """Examine once in this process."""
    model = model_of(name, width).to(subjects.device())
    digits = torch.randint(0, model.config.inputs, (inputs, TOKENS), generator=torch.Generator().manual_seed(0))
    problems = torch.nn.functional.one_hot(digits, model.config.inputs).float().to(subjects.device())
    found = examine(model, problems, trained_iterations=30, effort=effort)
    return {
        "verdict": found.verdict,
        "arrived": sum(found.reachability.arrived),
        "seconds": found.seconds["total"],
        "gigabytes": peak() / 2**30,
        "parts": found.seconds,
    }


def measure(name: str, effort: str, options: argparse.Namespace) -> Row:
    """Examine in fresh processes."""
    sizes = {"--inputs": options.inputs, "--width": options.width, "--threads": options.threads}
    command = [sys.executable, __file__, "--one", name, effort, *(str(part) for pair in sizes.items() for part in pair)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(options.repeats)]
    seconds = statistics.median(run["seconds"] for run in runs)
    gigabytes = max(run["gigabytes"] for run in runs)
    most_seconds, most_gigabytes = BARS[effort]
    return Row(
        model=name,
        effort=effort,
        verdict=runs[0]["verdict"],
        arrived=runs[0]["arrived"],
        seconds=seconds,
        gigabytes=round(gigabytes, 2),
        within_bars=seconds <= most_seconds and (most_gigabytes is None or gigabytes <= most_gigabytes),
        parts=runs[0]["parts"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model that reads 81 tokens, such as runs/sudoku/model")
    parser.add_argument("--block", nargs="+", default=list(BLOCKS), choices=list(BLOCKS), help="untrained blocks")
    parser.add_argument("--effort", nargs="+", default=list(BARS), choices=list(BARS))
    parser.add_argument("--inputs", type=int, default=64)
    parser.add_argument("--width", type=int, default=256, help="width of the untrained blocks, a multiple of 32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--repeats", type=int, default=1, help="number of examinations of each kind, whose median is reported"
    )
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "EFFORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(one(*options.one, options.inputs, options.width)))
        return
    models = [options.model] if options.model else options.block
    rows = [measure(name, effort, options) for name, effort in product(models, options.effort)]
    ran = setting(inputs=options.inputs, width=options.width, repeats=options.repeats)
    print_results(rows, COLUMNS, ran, options.json)


if __name__ == "__main__":
    main()
