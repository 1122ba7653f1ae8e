"""Answer problems that a user types in, and report whether each answer settled and whether the rules confirm it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope import shipped
from loopscope.answers.calibration import Alike, Calibrations, calibrations
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
from loopscope.tasks.task import ShowsAChoice, Task
from loopscope.tasks.text import ListsChoices, Problem, TextFormat
from loopscope.training.run_folder import RunFolder
from loopscope.trees import flatten

BATCH = 256


@dataclass(frozen=True)
class Answerer:
    """A trained model, ready to answer.

    Args:
        path: run folder of the model.
        model: the model, or any loop that takes the task's inputs and returns its logits.
        task: task of the model.
        text: how the task's problems and answers are written.
        evidence: validation results of every example of all splits. None if ``loopscope trust`` was not run, or if
            ``tolerance`` differs from the one used there.
        iterations: number of iterations that each answer had in validation.
        tolerance: relative residual at which an answer counts as settled.
    """

    path: Path
    model: Loop
    task: Task
    text: TextFormat
    evidence: Evidence | None = None
    iterations: int = 0
    tolerance: float = SETTLED

    @cached_property
    def calibrations(self) -> Calibrations:
        """The calibrations from validation; empty without evidence."""
        return Calibrations(None, None) if self.evidence is None else calibrations(self.evidence)


@dataclass(frozen=True)
class Answer:
    """One answer.

    Args:
        line: the answer on one line.
        right: whether the rules confirm the answer; None if they cannot decide.
        settled: whether the state arrived at a fixed point, within the tolerance.
        iterations: number of evaluations of the step.
        residual: relative residual of the last step.
        unsure: one minus the confidence. The confidence is the softmax probability of the least certain token
            (`loopscope.answers.trust.unsureness`), or that of the choice among legal answers.
        alike: similar answers in validation, if the rules cannot decide. None if validation has too few of them or
            none that can be compared.
    """

    line: str
    right: bool | None
    settled: bool
    iterations: int
    residual: float
    unsure: float
    alike: Alike | None = None


def open_answerer(name: str, tolerance: float = SETTLED) -> Answerer:
    """Open a run's folder, or the model for a task that ships with the package.

    Args:
        name: folder of a run, or name of a task.
        tolerance: relative residual at which an answer counts as settled.

    Raises:
        LoopscopeError: the tolerance is not between 0 and 1, there is no such run or shipped model, the model has no
            iterations, or problems of its task cannot be typed in.
    """
    check_tolerance(tolerance)
    path = shipped.MODELS / name if name in TASKS and not Path(name).exists() else Path(name)
    if path.parent == shipped.MODELS and not path.is_dir():
        # For a task whose problems cannot be typed in, asking for a run would mislead.
        check_can_be_typed_in(name)
        names = sorted(folder.name for folder in shipped.MODELS.glob("*") if folder.is_dir())
        raise LoopscopeError(
            f"no model ships for the task {name} ({', '.join(names) or 'none ships at all'}): give a run's folder"
        )
    run = RunFolder(path)
    settings, model = trained(run)
    if not isinstance(model, LoopedTransformer):
        raise LoopscopeError(f"{path} holds a {settings.model.architecture} model, which has no iterations to settle")
    # The evidence is valid only for the tolerance that validation used.
    counted = tolerance == SETTLED
    evidence = read_evidence(run.trust) if counted and run.trust.is_file() else None
    text, iterations = text_format(settings.task), _validated(run, evidence)
    return Answerer(path, model, settings.data, text, evidence, iterations, tolerance)


def _validated(run: RunFolder, evidence: Evidence | None) -> int:
    """Return the number of iterations that each answer had in validation, or 0 without evidence."""
    if evidence is None:
        return 0
    return max(iterations for _, iterations in extents(run.trust).values())


def _inputs(answerer: Answerer, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens features"]:
    """Return the model's inputs for some problems, on the model's device."""
    return answerer.task.inputs(tokens.to(device_of_loop(answerer.model, tokens.device)))


def answer_all(answerer: Answerer, problems: Sequence[Problem], tolerance: float, max_iterations: int) -> list[Answer]:
    """Answer problems, in batches of equal length, and return the answers in the order of the problems.

    Args:
        answerer: the model.
        problems: the problems, possibly of different lengths.
        tolerance: relative residual at which an answer counts as settled.
        max_iterations: largest number of evaluations of the step per problem.
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
            logits = _read_after_step(
                answerer.model, inputs, solution.last_state
            ).cpu()  # the rules are applied on the CPU
            for row, place in enumerate(rows):
                found[place] = _answer(
                    answerer,
                    problems[place],
                    logits[row],
                    settled=bool(solution.arrived[row]),
                    iterations=int(solution.iterations[row]),
                    residual=float(solution.last_residual[row]),
                )
    return [found[place] for place in range(len(problems))]


def _read_after_step(model: Loop, inputs: Tensor, state: Tensor) -> Float[Tensor, "batch tokens outputs"]:
    """Return the readout one step later: a solution is the state before its last step, an answer is read after it."""
    with eval_mode(model), torch.no_grad():
        return model.read(model.step(state, model.encode(inputs)))


@dataclass(frozen=True)
class Frame:
    """One iteration of a problem that is being solved.

    Args:
        iteration: number of the iteration, from 1.
        logits: readout of the state.
        since: iteration at which each token's answer last changed. A token with a single output has no answer of its
            own; it gets the iteration at which the whole answer last changed.
        residual: relative residual of the step that led to this state.
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
    """Yield the frame of every iteration of one problem until its state has settled."""
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
    settled = frame.residual <= tolerance
    return _answer(answerer, problem, frame.logits, settled, frame.iteration, frame.residual)


def _answer(
    answerer: Answerer,
    problem: Problem,
    logits: Float[Tensor, "tokens outputs"],
    settled: bool,
    iterations: int,
    residual: float,
) -> Answer:
    """Return the answer in the logits, with its confidence and the similar answers of validation."""
    unsure = _unsure(answerer, problem, logits)
    right = answerer.text.right(problem, logits)
    # In validation every answer had the same number of iterations to settle. An answer cut off earlier is not comparable.
    comparable = right is None and (settled or iterations >= answerer.iterations)
    alike = answerer.calibrations.alike(settled, unsure) if comparable else None
    return Answer(answerer.text.line(problem, logits), right, settled, iterations, residual, unsure, alike)


def _unsure(answerer: Answerer, problem: Problem, logits: Float[Tensor, "tokens outputs"]) -> float:
    """Return one minus the confidence of the answer that is shown."""
    if isinstance(answerer.task, ShowsAChoice) and isinstance(answerer.text, ListsChoices):
        _, unsure = answerer.task.shown(logits[None], answerer.text.choices(problem))
    else:
        unsure = unsureness(logits[None])
    return float(significant(unsure)[0])
