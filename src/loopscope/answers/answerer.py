"""Answering problems that a user types in, with a trained model: settled or not, confirmed by the rules or not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope import shipped
from loopscope.answers.trust import Evidence, extents, read_evidence, significant, unsureness
from loopscope.contexts import device_of_loop, eval_mode
from loopscope.errors import LoopscopeError, check_tolerance
from loopscope.evaluation import SETTLED
from loopscope.fixed_points import solve
from loopscope.fixed_points.residual import relative_residual, smallest_scale
from loopscope.loop import Loop
from loopscope.models import LoopedTransformer
from loopscope.subjects import trained
from loopscope.tasks import TASKS
from loopscope.tasks.registry import check_can_be_typed_in, text_format
from loopscope.tasks.task import Task
from loopscope.tasks.text import Problem, TextFormat
from loopscope.training.run_folder import RunFolder
from loopscope.trees import flatten

BATCH = 256


@dataclass(frozen=True)
class Record:
    """How often answers were right in validation, over all splits, by whether their states had settled.

    Args:
        settled: answers whose residual was within the tolerance at the last iteration.
        settled_right: those of them that were right.
        others: the other answers.
        others_right: those of them that were right.
    """

    settled: int
    settled_right: int
    others: int
    others_right: int


@dataclass(frozen=True)
class Answerer:
    """A trained model, ready to answer.

    Args:
        path: its run folder.
        model: the model, or any loop that reads the task's inputs and gives its logits.
        task: its task.
        text: how its problems and answers are written.
        record: how its answers fared in validation; None where the run was not evaluated, or where answers settle at
            another tolerance than there.
        evidence: the same, example by example, of all splits; None where ``loopscope trust`` did not measure it, or
            where answers settle at another tolerance than there.
        iterations: the iterations that validation gave each answer.
        tolerance: the relative residual at which answers settle.
    """

    path: Path
    model: Loop
    task: Task
    text: TextFormat
    record: Record | None
    evidence: Evidence | None = None
    iterations: int = 0
    tolerance: float = SETTLED


@dataclass(frozen=True)
class Answer:
    """One answer.

    Args:
        line: the answer on one line.
        right: whether the rules confirm it; None where they cannot tell.
        settled: whether the state arrived at a fixed point, within the tolerance.
        iterations: evaluations of the step.
        residual: relative residual at the end.
        unsure: one minus the softmax confidence (``loopscope.answers.trust.unsureness``).
    """

    line: str
    right: bool | None
    settled: bool
    iterations: int
    residual: float
    unsure: float


def open_answerer(name: str, tolerance: float = SETTLED) -> Answerer:
    """Return the answerer of a run's folder, or of the model that ships with the package for a task's name.

    Args:
        name: the folder or the task.
        tolerance: the relative residual at which its answers are to settle.

    Raises:
        LoopscopeError: the tolerance is not between 0 and 1; there is no such run or shipped model; its model has no
            iterations; or nobody types in problems
            of its task.
    """
    check_tolerance(tolerance)
    path = shipped.MODELS / name if name in TASKS and not Path(name).exists() else Path(name)
    if path.parent == shipped.MODELS and not path.is_dir():
        # Where no run of the task could be solved either, asking for one would mislead.
        check_can_be_typed_in(name)
        names = sorted(folder.name for folder in shipped.MODELS.glob("*") if folder.is_dir())
        raise LoopscopeError(
            f"no model ships for the task {name} ({', '.join(names) or 'none ships at all'}): give a run's folder"
        )
    run = RunFolder(path)
    settings, model = trained(run)
    if not isinstance(model, LoopedTransformer):
        raise LoopscopeError(f"{path} is of a {settings.model.architecture} model, which has no iterations to settle")
    # What was counted in validation holds for its own tolerance alone.
    counted = tolerance == SETTLED
    record = read_record(run) if counted and run.evaluation.is_file() else None
    evidence = read_evidence(run.trust) if counted and run.trust.is_file() else None
    text, iterations = text_format(settings.task), _validated(run, evidence)
    return Answerer(path, model, settings.data, text, record, evidence, iterations, tolerance)


def _validated(run: RunFolder, evidence: Evidence | None) -> int:
    """Return the iterations that validation gave each answer, 0 without one."""
    if evidence is None:
        return max((len(curve["answer_accuracy"]) for curve in run.curves().values()), default=0)
    return max(iterations for _, iterations in extents(run.trust).values())


def read_record(run: RunFolder) -> Record | None:
    """Return the record that a run's evaluation holds, or None where it was made without.

    Raises:
        LoopscopeError: the evaluation is damaged.
    """
    counts = [0, 0, 0, 0]
    for curve in run.curves().values():
        settled: dict[str, Any] | None = curve.get("settled")
        if settled is None:
            return None
        examples = curve["examples"]
        right = round(curve["last"] * examples)
        for place, count in enumerate(
            (settled["examples"], settled["right"], examples - settled["examples"], right - settled["right"])
        ):
            counts[place] += count
    return Record(*counts)


def _inputs(answerer: Answerer, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens features"]:
    """Return what the answerer's model reads of problems, where the model is."""
    return answerer.task.inputs(tokens.to(device_of_loop(answerer.model, tokens.device)))


def answer_all(answerer: Answerer, problems: Sequence[Problem], tolerance: float, max_iterations: int) -> list[Answer]:
    """Answer problems in batches of equal length; return the answers in order.

    Args:
        answerer: the model.
        problems: any number of problems.
        tolerance: on the relative residual.
        max_iterations: evaluations of the step that a problem may take.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, problem in enumerate(problems):
        by_length[len(problem.tokens)].append(place)
    found: dict[int, Answer] = {}
    for places in by_length.values():
        for begin in range(0, len(places), BATCH):
            rows = places[begin : begin + BATCH]
            inputs = _inputs(answerer, torch.stack([problems[place].tokens for place in rows]))
            solution = solve(answerer.model, inputs, tolerance=tolerance, max_iterations=max_iterations)
            logits = _read_after_step(answerer.model, inputs, solution.last_state).cpu()  # the rules are read there
            unsure = significant(unsureness(logits))
            for row, place in enumerate(rows):
                found[place] = Answer(
                    line=answerer.text.line(problems[place], logits[row]),
                    right=answerer.text.right(problems[place], logits[row]),
                    settled=bool(solution.arrived[row]),
                    iterations=int(solution.iterations[row]),
                    residual=float(solution.last_residual[row]),
                    unsure=float(unsure[row]),
                )
    return [found[place] for place in range(len(problems))]


def _read_after_step(model: Loop, inputs: Tensor, state: Tensor) -> Float[Tensor, "batch tokens outputs"]:
    """Return what is read one step on: a solution is the state before the last step, an iteration's answer that after it."""
    with eval_mode(model), torch.no_grad():
        return model.read(model.step(state, model.encode(inputs)))


@dataclass(frozen=True)
class Frame:
    """One iteration of a problem that is being solved.

    Args:
        iteration: its number, from 1 on.
        logits: what the state reads.
        since: the iteration after which each token's answer last changed; where a token has one output, and so no
            answer of its own, that after which the answer's line did.
        residual: relative residual of the step that led here.
    """

    iteration: int
    logits: Float[Tensor, "tokens outputs"]
    since: Int[Tensor, "tokens"]
    residual: float


def _changed(
    answerer: Answerer,
    problem: Problem,
    before: Float[Tensor, "tokens outputs"],
    after: Float[Tensor, "tokens outputs"],
) -> Bool[Tensor, "tokens"]:
    """Return which tokens' answers changed (see ``Frame``)."""
    if after.shape[-1] > 1:
        return before.argmax(-1) != after.argmax(-1)
    line = answerer.text.line
    return torch.full(after.shape[:1], line(problem, before) != line(problem, after), device=after.device)


def frames(answerer: Answerer, problem: Problem, tolerance: float, max_iterations: int) -> Iterator[Frame]:
    """Yield every iteration of one problem, until its state has settled."""
    model = answerer.model
    with eval_mode(model):
        with torch.no_grad():
            recalled = model.encode(_inputs(answerer, problem.tokens[None]))
            state = model.start(recalled)
            smallest = smallest_scale(state, None)
            logits = model.read(state)[0].cpu()
        since = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        for iteration in range(1, max_iterations + 1):
            with torch.no_grad():
                before, state = state, model.step(state, recalled)
                residual = float(relative_residual(flatten(before), flatten(state), smallest))
                last, logits = logits, model.read(state)[0].cpu()
            since = torch.where(_changed(answerer, problem, last, logits), iteration, since)
            yield Frame(iteration, logits, since, residual)
            if residual <= tolerance:
                return


def answer_of(answerer: Answerer, problem: Problem, frame: Frame, tolerance: float) -> Answer:
    """Return the answer that a frame shows."""
    return Answer(
        line=answerer.text.line(problem, frame.logits),
        right=answerer.text.right(problem, frame.logits),
        settled=frame.residual <= tolerance,
        iterations=frame.iteration,
        residual=frame.residual,
        unsure=float(significant(unsureness(frame.logits[None]))[0]),
    )
