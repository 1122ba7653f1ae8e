"""Cost of an adapted iteration relative to the model's own, for families that `loopscope.adapt` knows.

    python benchmarks/adapters.py --width 256 --tokens 64 --batch 8 --threads 2
    python benchmarks/adapters.py --width 64 --tokens 16 --batch 8 --threads 1 --json
    python benchmarks/adapters.py --readout last --verb examine --width 256 --tokens 128 --batch 64 --words 65536

Weights are random. The time of the model's own iteration is the difference between a forward of nine iterations and one of a
single iteration, divided by eight. The adapted iteration is a step. Both run in turn, without gradient, and the median of the
ratios is reported. `calls` compares the numbers of submodules that compute, which do not depend on the machine: it is 1 if
nothing is computed twice.

With `--readout`, a Dory is examined or forecast instead, read at its last token or at all of them. The times that steps and
readings take are added up, and the peak of the process's memory is reported.
"""

from __future__ import annotations

import argparse
import functools
import resource
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from HRM import HRM
from output import print_results
from setting import setting
from timing import clock_time, in_turn
from tiny_recursive_model import MLPMixer1D, TinyRecursiveModel
from torch import nn
from transformers import DoryConfig, DoryForCausalLM, HrmTextConfig, HrmTextForCausalLM
from x_transformers import Decoder, TransformerWrapper

import loopscope as ls

MORE = 8
"""Number of iterations by which the model's two forwards differ."""
WORDS, HEADS = 1000, 4


@dataclass(frozen=True)
class Row:
    """One family.

    Attributes:
        family: name of the class.
        way: "direct" if the call is the iteration, "rerun" if a part of the forward is run.
        own_ms: median milliseconds of an iteration of the model's own forward.
        step_ms: median milliseconds of an adapted step.
        ratio: step over own, as the median of the rounds' ratios.
        calls: number of submodules that compute in a step, relative to the model's own iteration.
        read_ms: median milliseconds of the readout.
        forward_ms: median milliseconds of the model's own forward of one iteration.
    """

    family: str
    way: str
    own_ms: float
    step_ms: float
    ratio: float
    calls: float
    read_ms: float
    forward_ms: float


COLUMNS: dict[str, Callable[[Row], str]] = {
    "family": lambda row: row.family,
    "way": lambda row: row.way,
    "own iteration, ms": lambda row: f"{row.own_ms:.2f}",
    "adapted, ms": lambda row: f"{row.step_ms:.2f}",
    "ratio": lambda row: f"{row.ratio:.2f}",
    "calls": lambda row: f"{row.calls:.2f}",
    "readout, ms": lambda row: f"{row.read_ms:.2f}",
    "own forward of one, ms": lambda row: f"{row.forward_ms:.2f}",
}


@dataclass(frozen=True)
class ReadoutRow:
    """An examination or a forecast of a language model.

    Attributes:
        verb: examine or forecast.
        positions: which tokens are read.
        seconds: of all.
        stepping: seconds in steps, those inside Jacobian products included.
        reading: seconds in readings.
        readings: how often the readout was called, on the whole batch or on a part of it.
        peak_gb: largest resident memory of the process, in GB.
        said: the verdict or the outlook.
    """

    verb: str
    positions: str
    seconds: float
    stepping: float
    reading: float
    readings: int
    peak_gb: float
    said: str


READOUT_COLUMNS: dict[str, Callable[[ReadoutRow], str]] = {
    "verb": lambda row: row.verb,
    "read at": lambda row: row.positions,
    "all, s": lambda row: f"{row.seconds:.1f}",
    "stepping, s": lambda row: f"{row.stepping:.1f}",
    "reading, s": lambda row: f"{row.reading:.1f}",
    "readings": lambda row: f"{row.readings}",
    "peak, GB": lambda row: f"{row.peak_gb:.2f}",
    "said": lambda row: row.said,
}


def sizes(width: int, tokens: int, words: int = WORDS) -> dict[str, int]:
    return {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": width // HEADS,
        "pad_token_id": 0,
        "max_position_embeddings": tokens,
    }


def random_dory(width: int, tokens: int, words: int) -> DoryForCausalLM:
    """Return a Dory with random weights: a layer before its loop, two in it and one after it."""
    layers = {"num_hidden_layers": 4, "n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1}
    return DoryForCausalLM(DoryConfig(**sizes(width, tokens, words), **layers)).eval()


def models(width: int, tokens: int) -> list[nn.Module]:
    """Return one model of each family that can be installed."""
    size = sizes(width, tokens)
    layers = {"num_hidden_layers": 6, "n_input_layers": 2, "n_recurrent_layers": 2, "n_output_layers": 2}
    network = {"dim": width, "depth": 2, "heads": HEADS, "attn_dim_head": width // HEADS}
    return [
        DoryForCausalLM(DoryConfig(**size, **layers)),
        HrmTextForCausalLM(HrmTextConfig(**size, num_layers_per_stack=2, H_cycles=2, L_cycles=3)),
        TransformerWrapper(
            num_tokens=WORDS, max_seq_len=tokens, looped=True, attn_layers=Decoder(**network, pre_and_post_norm=True)
        ),
        TinyRecursiveModel(dim=width, num_tokens=WORDS, network=MLPMixer1D(dim=width, depth=2, seq_len=tokens)),
        HRM(networks=[dict(network), dict(network)], dim=width, num_tokens=WORDS),
    ]


def inputs_for(model: nn.Module, batch: int, tokens: int) -> Any:
    ids = torch.randint(1, WORDS, (batch, tokens), generator=torch.Generator().manual_seed(0))
    if isinstance(model, TransformerWrapper):
        return {"x": ids}
    return {"input_ids": ids} if hasattr(model, "config") else ids


def computing(model: nn.Module, action: Callable[[], object]) -> int:
    """Return how many submodules without children compute."""
    made: list[nn.Module] = []

    def counting(part: nn.Module, forward: Callable[..., object]) -> Callable[..., object]:
        return lambda *args, **kwargs: (made.append(part), forward(*args, **kwargs))[1]

    parts = [part for part in model.modules() if not any(part.children())]
    for part in parts:
        part.forward = counting(part, part.forward)  # type: ignore[method-assign]
    action()
    for part in parts:
        del part.forward
    return len(made)


@torch.no_grad()
def measure(model: nn.Module, batch: int, tokens: int, repeats: int) -> Row:
    inputs = inputs_for(model, batch, tokens)
    loop = ls.adapt(model.eval(), inputs)
    recalled = loop.encode(inputs)
    state = loop.step(loop.start(recalled), recalled)
    actions = [
        lambda: loop.run(model, inputs, 1 + MORE),
        lambda: loop.run(model, inputs, 1),
        lambda: [loop.step(state, recalled) for _ in range(MORE)],
        lambda: loop.read(state, recalled),
    ]
    for action in actions:
        action()
    more, one, steps, read = in_turn(actions, repeats)
    own = [max(a - b, 1e-9) for a, b in zip(more, one, strict=True)]
    made = [computing(model, action) for action in actions[:3]]
    return Row(
        family=type(model).__name__,
        way=type(loop).__name__.removesuffix("Loop").lower(),
        own_ms=1000 * statistics.median(own) / MORE,
        step_ms=1000 * statistics.median(steps) / MORE,
        ratio=statistics.median(a / b for a, b in zip(steps, own, strict=True)),
        calls=made[2] / (made[0] - made[1]),
        read_ms=1000 * statistics.median(read),
        forward_ms=1000 * statistics.median(one),
    )


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Return a function that also notes the seconds that each of its calls takes."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        began = clock_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(clock_time() - began)

    return call


def read_largely(
    verb: str, positions: str, width: int, tokens: int, batch: int, words: int, effort: Any, iterations: int
) -> ReadoutRow:
    """Examine or forecast a Dory."""
    model = random_dory(width, tokens, words)
    ids = torch.randint(1, words, (batch, tokens), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    loop = ls.adapt(model, positions=positions)
    steps: list[float] = []
    reads: list[float] = []
    loop.step, loop.read = timed(loop.step, steps), timed(loop.read, reads)  # type: ignore[method-assign]
    began = clock_time()
    if verb == "examine":
        said = ls.examine(loop, inputs, effort=effort, iterations=iterations, trained_iterations=4).verdict.value
    else:
        said = ls.forecast(loop, inputs, trained_iterations=4).outlook.value
    seconds = clock_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return ReadoutRow(verb, positions, seconds, sum(steps), sum(reads), len(reads), peak, said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--readout", choices=["last", "all"], help="measure reading instead, at these tokens")
    parser.add_argument("--verb", choices=["examine", "forecast"], default="examine")
    parser.add_argument("--words", type=int, default=65536, help="vocabulary, with --readout")
    parser.add_argument("--effort", default="standard", help="of examine")
    parser.add_argument("--iterations", type=int, default=500, help="of examine")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.readout:
        names = ("width", "tokens", "batch", "words", "effort", "iterations")
        options = {name: getattr(args, name) for name in names}
        told = setting(**options)
        print_results([read_largely(args.verb, args.readout, **options)], READOUT_COLUMNS, told, args.json)
        return
    rows = [measure(model, args.batch, args.tokens, args.repeats) for model in models(args.width, args.tokens)]
    told = setting(width=args.width, tokens=args.tokens, batch=args.batch, repeats=args.repeats)
    print_results(rows, COLUMNS, told, args.json)


if __name__ == "__main__":
    main()
