"""Evaluation until settled against evaluation to the last iteration: what is saved, and which answers change.

    python benchmarks/until_settled.py                                # the models that come with the package
    python benchmarks/until_settled.py --run runs/sudoku --json       # a run of yours

Each run is evaluated on the splits of its own data, once with every example run to the last iteration and once with each
only until its state and prediction have settled. The sudoku model's puzzles are generated the first time, in minutes; the
chess model's are Lichess's: a folder with the file is named by LOOPSCOPE_DATA. Seconds are the processor's (on a GPU
the clock's), of one evaluation each; a step is one example's. An answer is what the task's rule looks at after the last
iteration: each token's largest output, or the tokens chosen. It may change without becoming right or wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from setting import setting
from telling import tell
from timing import processor_time
from torch import Tensor

from loopscope.evaluation import AccuracyCurve, EvaluationConfig, decisions, evaluate_split
from loopscope.loop import FunctionLoop
from loopscope.models import LoopedTransformer
from loopscope.shipped import MODELS
from loopscope.subjects import evaluation_splits, trained
from loopscope.tasks.task import Split, Task, answers_of
from loopscope.training.run_folder import RunFolder
from loopscope.trees import Tree

DEFAULT_RUNS = ("prefix-sums", "sudoku", "chess")


@dataclass(frozen=True)
class Row:
    """One split of one run.

    Attributes:
        run: the run's folder.
        split: the split's name.
        examples: number of examples.
        settled: those whose residual was small at the last iteration of the full evaluation.
        steps: steps that the full evaluation computes.
        steps_saved: fraction of them that the other does not.
        seconds: processor time of the full evaluation.
        time_ratio: that of the other over it.
        answers_changed: examples whose answer at the last iteration is another.
        rights_changed: examples that are right at the last iteration in one of the two alone.
        points: accuracy at the last iteration less that of the full evaluation, in points of percent.
        most_points: the largest such difference at any iteration, without its sign.
    """

    run: str
    split: str
    examples: int
    settled: int
    steps: int
    steps_saved: float
    seconds: float
    time_ratio: float
    answers_changed: int
    rights_changed: int
    points: float
    most_points: float


COLUMNS: dict[str, Callable[[Row], str]] = {
    "run, split": lambda row: f"{Path(row.run).name}, {row.split}",
    "examples": lambda row: str(row.examples),
    "settled": lambda row: str(row.settled),
    "steps saved": lambda row: f"{row.steps_saved:.1%}",
    "full, s": lambda row: f"{row.seconds:.1f}",
    "time ratio": lambda row: f"{row.time_ratio:.2f}",
    "changed": lambda row: str(row.answers_changed),
    "right": lambda row: str(row.rights_changed),
    "points": lambda row: f"{row.points:+.2f}",
    "most points": lambda row: f"{row.most_points:.2f}",
}


def recorded(model: LoopedTransformer, logits: Tensor) -> FunctionLoop:
    """The model, writing each example's last logits into a row of its own: states carry the row's number."""
    free = iter(range(len(logits)))

    def encode(inputs: Tensor) -> Tree:
        return {"row": torch.tensor([next(free) for _ in inputs], device=logits.device), "own": model.encode(inputs)}

    def read(state: Tree) -> Tensor:
        logits[state["row"]] = said = model.read(state["own"])
        return said

    return FunctionLoop(
        encode=encode,
        start=lambda recalled: {"row": recalled["row"], "own": model.start(recalled["own"])},
        step=lambda state, recalled: {"row": state["row"], "own": model.step(state["own"], recalled["own"])},
        read=read,
    )


@dataclass(frozen=True)
class Found:
    """What one evaluation found: its curve, the last answers, which of them are right, and the time."""

    curve: AccuracyCurve
    answers: Int[Tensor, "examples columns"]
    right: Bool[Tensor, "examples"]
    seconds: float


def found(model: LoopedTransformer, task: Task, split: Split, config: EvaluationConfig) -> Found:
    assert model.config.outputs is not None
    logits = torch.empty(len(split), split.problems.shape[1], model.config.outputs, device=split.problems.device)
    loop = recorded(model.eval(), logits)
    began = processor_time()
    curve = evaluate_split(loop, task, split, config)
    seconds = processor_time() - began
    right = task.correct(logits, split.problems, split.answers).all(1)
    return Found(curve, (answers_of(task) or decisions)(logits), right, seconds)


def compare(run: Path, name: str, model: LoopedTransformer, task: Task, split: Split, config: EvaluationConfig) -> Row:
    full = found(model, task, split, config)
    early = found(model, task, split, replace(config, until_settled=True))
    steps, settled = early.curve.steps, full.curve.settled
    assert steps is not None
    assert settled is not None
    differences = [100 * (a - b) for a, b in zip(early.curve.answer_accuracy, full.curve.answer_accuracy, strict=True)]
    return Row(
        run=str(run),
        split=name,
        examples=len(split),
        settled=settled.examples,
        steps=steps.full,
        steps_saved=1 - steps.computed / steps.full,
        seconds=full.seconds,
        time_ratio=early.seconds / full.seconds,
        answers_changed=int((full.answers != early.answers).any(1).sum()),
        rights_changed=int((full.right != early.right).sum()),
        points=differences[-1],
        most_points=max(map(abs, differences)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a trained run, instead of the models of the package")
    parser.add_argument("--examples", type=int, help="most examples of a split, instead of the run's own number")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for run in [args.run] if args.run else [MODELS / name for name in DEFAULT_RUNS]:
        settings, model = trained(RunFolder(run))
        if not isinstance(model, LoopedTransformer):
            raise SystemExit("--run: expected a run of a looped model")
        examples = args.examples or settings.evaluation.examples
        config = replace(settings.evaluation, iterations=args.iterations, examples=examples, until_settled=False)
        splits = {name: split.first(examples) for name, split in evaluation_splits(settings).items()}
        rows += [compare(run, name, model, settings.data, split, config) for name, split in splits.items()]
    tell(rows, COLUMNS, setting(iterations=args.iterations), args.json)


if __name__ == "__main__":
    main()
