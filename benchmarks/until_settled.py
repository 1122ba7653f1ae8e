"""Evaluation until settled compared to evaluation to the last iteration: the savings, and the answers that change.

    python benchmarks/until_settled.py                                # the models that come with the package
    python benchmarks/until_settled.py --run runs/sudoku --json       # a run of your own

Each run is evaluated on the splits of its own data, once with every example run to the last iteration and once with each
example run only until its state and prediction have settled. The puzzles of the sudoku model are generated the first time,
which takes minutes. Those of the chess model are Lichess's, in a folder that LOOPSCOPE_DATA names. Seconds are processor time
(on a GPU, clock time) of one evaluation. A step is one step of one example. An answer is what the task's rule uses after the
last iteration: each token's largest output, or the chosen tokens. It may change without becoming right or wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from output import print_results
from setting import setting
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
        settled: number of examples whose residual was small at the last iteration of the full evaluation.
        steps: number of steps in the full evaluation.
        steps_saved: fraction of these steps that the evaluation until settled saves.
        seconds: processor time of the full evaluation.
        time_ratio: processor time of the evaluation until settled over ``seconds``.
        answers_changed: number of examples with different answers at the last iteration.
        rights_changed: number of examples that are right at the last iteration in only one of the two evaluations.
        points: accuracy at the last iteration minus that of the full evaluation, in percentage points.
        most_points: largest absolute difference of the accuracies at any iteration, in percentage points.
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
    """Return the model as a loop that records each example's last logits. States carry the number of their row."""
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
    """The result of one evaluation: the curve, the last answers, which of them are right, and the time."""

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
    parser.add_argument("--examples", type=int, help="largest number of examples per split, instead of the run's own")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for run in [args.run] if args.run else [MODELS / name for name in DEFAULT_RUNS]:
        settings, model = trained(RunFolder(run))
        if not isinstance(model, LoopedTransformer):
            raise SystemExit("--run names a model without iterations, expected a run of a looped model")
        examples = args.examples or settings.evaluation.examples
        config = replace(settings.evaluation, iterations=args.iterations, examples=examples, until_settled=False)
        splits = {name: split.first(examples) for name, split in evaluation_splits(settings).items()}
        rows += [compare(run, name, model, settings.data, split, config) for name, split in splits.items()]
    print_results(rows, COLUMNS, setting(iterations=args.iterations), args.json)


if __name__ == "__main__":
    main()
