"""Fixed-point solvers of Loopscope, which halts each example on its own, and torchdeq, which halts the whole batch.

    python benchmarks/fixed_points.py                              # the untrained block and the shipped model
    python benchmarks/fixed_points.py --case half-settles          # a model that never settles on half of the strings
    python benchmarks/fixed_points.py --run runs/prefix --json     # a run of your own instead of the shipped model

Each case has 64 inputs of mixed difficulty:

- untrained: z <- 3 u + g T(z), where u is the unit embedding, T an untrained block of 81 tokens x 256, and g a gain for each
  example from 0.5 to 6, which gives contraction rates from about 0.1 to 0.97.
- shipped: the prefix-sums model that comes with the package, on strings of 64 bits of which 0 to 50% are ones. It arrives at
  a fixed point on all of them.
- half-settles: a prefix-sums model that is trained here in 500 steps, which takes a minute or two. On half of the same
  strings, plain iteration finds no fixed point in 300 iterations, so these take all 300 in either library. torchdeq takes 1.71
  steps for each step needed, so halting the others early can bring the ratio of plain iteration to about 1 / 1.71.

Both libraries get the same solver, start, precision, threads and tolerance on the relative residual. Anderson has memory 6.
torchdeq's Broyden remembers all steps, which is its default and the only setting at which it works; ours remembers 16. The
libraries run in turn, and medians are reported. The residuals of the returned states are measured again here for both.
"same point" counts the examples for which plain iteration goes from torchdeq's answer to ours.

This needs ``pip install loopscope[bench]``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from output import print_results
from setting import setting
from timing import in_turn, median_ratio
from torch import Tensor

import loopscope as ls
from loopscope import subjects
from loopscope.fixed_points.plain_comparison import compare_with_plain
from loopscope.loop import FunctionLoop, Loop
from loopscope.shipped import MODELS
from loopscope.trees import Tree

SOLVERS: dict[str, Any] = {
    "plain": ls.PlainIteration(),
    "anderson": ls.Anderson(memory=6),
    "broyden": ls.Broyden(memory=16),
}
THEIRS = {"plain": "fixed_point_iter", "anderson": "anderson", "broyden": "broyden"}
TRAINING_STEPS = 500


@dataclass(frozen=True)
class Case:
    """A loop, its inputs, and the largest number of iterations of each solver."""

    name: str
    loop: Loop
    inputs: Tree
    max_iterations: int


@dataclass(frozen=True)
class Row:
    """One solver on one case in both libraries.

    Attributes:
        case: the case.
        solver: the solver.
        seconds: median time of Loopscope.
        torchdeq_seconds: median time of torchdeq.
        ratio: time of Loopscope over that of torchdeq, as the median of the rounds' ratios.
        needed: steps that Loopscope needed, summed over the examples.
        computed_over_needed: steps that Loopscope computed, divided by ``needed``.
        torchdeq_computed_over_needed: steps that torchdeq computed, divided by ``needed``.
        arrived: number of Loopscope's examples whose measured residual is within the tolerance.
        torchdeq_arrived: number of torchdeq's examples whose measured residual is within the tolerance.
        same_point: number of examples at the same fixed point, out of those that arrived in both libraries.
    """

    case: str
    solver: str
    seconds: float
    torchdeq_seconds: float
    ratio: float
    needed: int
    computed_over_needed: float
    torchdeq_computed_over_needed: float
    arrived: int
    torchdeq_arrived: int
    same_point: str


COLUMNS: dict[str, Callable[[Row], str]] = {
    "case": lambda row: row.case,
    "solver": lambda row: row.solver,
    "ours, s": lambda row: f"{row.seconds:.3g}",
    "torchdeq, s": lambda row: f"{row.torchdeq_seconds:.3g}",
    "ratio": lambda row: f"{row.ratio:.3g}",
    "computed/needed": lambda row: f"{row.computed_over_needed:.3g}",
    "torchdeq's": lambda row: f"{row.torchdeq_computed_over_needed:.3g}",
    "arrived": lambda row: f"{row.arrived}, {row.torchdeq_arrived}",
    "same point": lambda row: row.same_point,
}


def untrained(examples: int, width: int) -> Case:
    config = ls.LoopedTransformerConfig(
        recall="external",
        norm="outer",
        width=width,
        heads=width // 32,
        inputs=10,
        outputs=9,
        grid=(9, 9),
        attention="full",
    )
    torch.manual_seed(0)
    block = ls.LoopedTransformer(config).eval()
    generator = torch.Generator().manual_seed(0)
    digits = torch.randint(0, 10, (examples, 81), generator=generator)
    gain = torch.linspace(0.5, 6, examples).view(-1, 1, 1)[torch.randperm(examples, generator=generator)]
    loop = FunctionLoop(
        encode=lambda x: {
            "block": block.encode(x["problem"]),
            "shift": 3 * torch.nn.functional.rms_norm(block.embed(x["problem"]), (width,)),
            "gain": x["gain"],
        },
        start=lambda e: e["shift"],
        step=lambda z, e: torch.addcmul(e["shift"], e["gain"], block.step(z, e["block"])),
        read=block.read,
    )
    device = subjects.device()
    block.to(device)
    inputs = {"problem": torch.nn.functional.one_hot(digits, 10).float().to(device), "gain": gain.to(device)}
    return Case(f"untrained block, 81 x {width}", loop, inputs, 400)


def train_prefix_sums() -> ls.LoopedTransformer:
    """Train a small model in 500 steps. It solves most strings of 32 bits and settles on half of the longer ones."""
    line = {"grid": (0,), "attention": "banded", "kernel_size": 11}
    config = ls.LoopedTransformerConfig(recall="external", norm="outer", width=64, heads=4, inputs=1, outputs=2, **line)
    torch.manual_seed(0)
    model = ls.LoopedTransformer(config).to(subjects.device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, TRAINING_STEPS, pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(TRAINING_STEPS):
        bits = torch.randint(0, 2, (128, 32), generator=generator).to(subjects.device())
        free = int(torch.randint(0, 30, (), generator=generator))
        counted = int(torch.randint(1, 31 - free, (), generator=generator))
        logits = model(bits.unsqueeze(2) - 0.5, free, counted)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), (bits.cumsum(1) % 2).flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def prefix_sums(name: str, model: ls.LoopedTransformer, examples: int) -> Case:
    if model.config.inputs != 1:
        raise SystemExit(
            f"{name} reads {model.config.inputs} numbers per token, expected a model of prefix sums, which reads 1"
        )
    share = torch.linspace(0, 0.5, examples).view(-1, 1, 1)
    bits = torch.rand(examples, 64, 1, generator=torch.Generator().manual_seed(0)) < share
    device = subjects.device()
    return Case(f"{name}, 64 x {model.config.width}", model.eval().to(device), bits.float().to(device) - 0.5, 300)


CASES: dict[str, Callable[[argparse.Namespace], Case]] = {
    "untrained": lambda args: untrained(args.examples, args.width),
    "shipped": lambda args: prefix_sums(
        args.run or "the model that ships", ls.load_model(args.run or MODELS / "prefix-sums"), args.examples
    ),
    "half-settles": lambda args: prefix_sums("settles on half", train_prefix_sums(), args.examples),
}


@dataclass(frozen=True)
class Answer:
    """The result of either library."""

    state: Tensor
    steps: int
    needed: int


def ours(case: Case, solver: str, tolerance: float) -> Answer:
    found = ls.solve(
        case.loop, case.inputs, solver=SOLVERS[solver], tolerance=tolerance, max_iterations=case.max_iterations
    )
    return Answer(found.state, found.steps_computed, int(found.iterations.sum()))


def torchdeqs(case: Case, solver: str, tolerance: float) -> Answer:
    from torchdeq import get_deq

    calls = 0
    with torch.no_grad():
        recalled = case.loop.encode(case.inputs)
        start = case.loop.start(recalled)

        def step(state: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return case.loop.step(state, recalled)

        deq = get_deq(
            f_solver=THEIRS[solver], f_max_iter=case.max_iterations, f_tol=tolerance, f_stop_mode="rel"
        ).eval()
        (state,), _ = deq(step, start, solver_kwargs={"m": 6} if solver == "anderson" else {})
        case.loop.read(state)
    return Answer(state, calls * len(start), calls * len(start))


def residuals(case: Case, recalled: Tree, state: Tensor) -> Tensor:
    after = case.loop.step(state, recalled)
    sizes = [torch.linalg.vector_norm(part.flatten(1), dim=1) for part in (after - state, after, state)]
    return sizes[0] / torch.maximum(sizes[1], sizes[2])


def compare(case: Case, solver: str, tolerance: float, repeats: int) -> Row:
    answers: dict[str, Answer] = {}
    mine, other = in_turn(
        [
            lambda: answers.update(ours=ours(case, solver, tolerance)),
            lambda: answers.update(theirs=torchdeqs(case, solver, tolerance)),
        ],
        repeats,
    )
    answer, theirs = answers["ours"], answers["theirs"]
    with torch.no_grad():
        recalled = case.loop.encode(case.inputs)
        here = residuals(case, recalled, answer.state) <= tolerance
        # torchdeq returns f(z) for the z whose residual it reports, and f(z) is not always nearer to the fixed point.
        there = residuals(case, recalled, theirs.state) <= 2 * tolerance
        both = here & there
        same, _ = compare_with_plain(
            case.loop, recalled, theirs.state, answer.state, both, tolerance=tolerance, budget=2000
        )
    return Row(
        case=case.name,
        solver=solver,
        seconds=statistics.median(mine),
        torchdeq_seconds=statistics.median(other),
        ratio=median_ratio(mine, other),
        needed=answer.needed,
        computed_over_needed=answer.steps / answer.needed,
        torchdeq_computed_over_needed=theirs.steps / answer.needed,
        arrived=int(here.sum()),
        torchdeq_arrived=int(there.sum()),
        same_point=f"{sum(decision is True for decision in same)}/{int(both.sum())}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder of a run or model of prefix sums, instead of the shipped one")
    parser.add_argument("--case", nargs="+", choices=tuple(CASES), default=["untrained", "shipped"])
    parser.add_argument("--solver", choices=tuple(SOLVERS), help="only this solver")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--width", type=int, default=256, help="width of the untrained block")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    cases = [CASES[name](args) for name in args.case]
    solvers = [args.solver] if args.solver else list(SOLVERS)
    rows = [compare(case, solver, args.tolerance, args.repeats) for case in cases for solver in solvers]
    ran = setting(examples=args.examples, tolerance=args.tolerance, repeats=args.repeats)
    print_results(rows, COLUMNS, ran, args.json)


if __name__ == "__main__":
    main()
