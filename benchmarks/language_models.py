"""Seconds and memory per 1,000 tokens of measurements on a looped language model with random weights.

    python benchmarks/language_models.py --verb examine --positions last --threads 1
    python benchmarks/language_models.py --verb exits --positions all --texts 16 --threads 1
    python benchmarks/language_models.py --verb forecast --positions last --threads 1 --json

The model is a Dory with a layer before its loop, two in it and one after it. Run one measurement per process: the peak of memory is
that of the process, less what it held once the model was made.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from adapters import random_dory
from output import print_results
from setting import setting
from timing import clock_time, processor_time

import loopscope as ls

LOOPS = 4
"""Loops of training, which the measurements are told."""
THOUSAND = 1000

Verb = Literal["examine", "exits", "forecast"]


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        verb: what was measured.
        positions: the tokens that are read.
        tokens: tokens of all texts.
        seconds: of a clock, in all.
        seconds_per_1000: the same for 1,000 tokens.
        processor_per_1000: processor seconds for 1,000 tokens.
        memory_mb: largest resident memory, in MB, above that of the process with the model.
        memory_mb_per_1000: the same for 1,000 tokens.
        said: the verdict, the recommended rule or the outlook.
    """

    verb: str
    positions: str
    tokens: int
    seconds: float
    seconds_per_1000: float
    processor_per_1000: float
    memory_mb: float
    memory_mb_per_1000: float
    said: str


COLUMNS: dict[str, Callable[[Row], str]] = {
    "verb": lambda row: row.verb,
    "read at": lambda row: row.positions,
    "tokens": lambda row: f"{row.tokens}",
    "seconds": lambda row: f"{row.seconds:.1f}",
    "s / 1,000 tokens": lambda row: f"{row.seconds_per_1000:.2f}",
    "processor s / 1,000": lambda row: f"{row.processor_per_1000:.2f}",
    "memory, MB": lambda row: f"{row.memory_mb:.0f}",
    "MB / 1,000 tokens": lambda row: f"{row.memory_mb_per_1000:.0f}",
    "said": lambda row: row.said,
}


def peak_mb() -> float:
    """Return the largest resident memory of the process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def done(verb: Verb, loop: ls.Loop, inputs: Any, effort: Any, iterations: int) -> str:
    """Make one measurement, and return its result in a word or two."""
    if verb == "examine":
        return ls.examine(loop, inputs, effort=effort, iterations=iterations, trained_iterations=LOOPS).verdict.value
    if verb == "exits":
        best = ls.exits(loop, inputs, trained_iterations=LOOPS).recommendation
        return "none recommended" if best is None else best.rule
    return ls.forecast(loop, inputs, trained_iterations=LOOPS).outlook.value


def measure(
    verb: Verb, positions: Any, width: int, tokens: int, texts: int, words: int, effort: str, iterations: int
) -> Row:
    """Return what one measurement takes."""
    torch.manual_seed(0)
    model = random_dory(width, tokens, words)
    ids = torch.randint(1, words, (texts, tokens), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    loop = ls.adapt(model, {name: value[:1] for name, value in inputs.items()}, positions=positions)
    held, began, spent = peak_mb(), clock_time(), processor_time()
    said = done(verb, loop, inputs, effort, iterations)
    seconds, processor, memory = clock_time() - began, processor_time() - spent, peak_mb() - held
    share = THOUSAND / (texts * tokens)
    return Row(
        verb, positions, texts * tokens, seconds, share * seconds, share * processor, memory, share * memory, said
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verb", choices=["examine", "exits", "forecast"], default="exits")
    parser.add_argument("--positions", choices=["last", "all"], default="last", help="tokens that are read")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--words", type=int, default=8192, help="vocabulary")
    parser.add_argument("--effort", default="quick", help="of examine")
    parser.add_argument("--iterations", type=int, default=100, help="of examine")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = ("width", "tokens", "texts", "words", "effort", "iterations")
    options = {name: getattr(args, name) for name in names}
    row = measure(args.verb, args.positions, **options)
    print_results([row], COLUMNS, setting(**options), args.json)


if __name__ == "__main__":
    main()
