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
from loopscope.answers.trust import AnswerSignals, extents, read_signals, significant, unsureness
from loopscope.contexts import device_of_loop, eval_mode
from loopscope.errors import LoopscopeError, check_tolerance
from loopscope.evaluation import SETTLED
from loopscope.files import check_path
from loopscope.fixed_points.residual import relative_residual, smallest_scale
from loopscope.loop import Loop, mask_of, readout
from loopscope.models import LoopedTransformer
from loopscope.subjects import trained
from loopscope.tasks import TASKS
from loopscope.tasks.registry import check_can_be_typed_in, text_format
from loopscope.tasks.task import ShowsAChoice, Task
from loopscope.tasks.text import Frame, ListsChoices, Problem, TextFormat
from loopscope.training.run_folder import RunFolder
from loopscope.trees import flatten, select

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
    evidence: AnswerSignals | None = None
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
        since: iteration at which the answer last changed; 0 if it is still that of the first state.
        alike: similar answers in validation, if the rules cannot decide. None if validation has too few of them or
            none that can be compared.
    """

    line: str
    right: bool | None
    settled: bool
    iterations: int
    residual: float
    unsure: float
    since: int
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
    path = shipped.MODELS / name if name in TASKS and not Path(name).exists() else check_path(name)
    if path.parent == shipped.MODELS and not path.is_dir():
        # For a task whose problems cannot be typed in, asking for a run would mislead.
        check_can_be_typed_in(name)
        names = sorted(folder.name for folder in shipped.MODELS.glob("*") if folder.is_dir())
        raise LoopscopeError(
            f"no model for the task {name} ships with the package, only for {', '.join(names) or 'no task'}: give a run's folder"
        )
    run = RunFolder(path)
    settings, model = trained(run)
    if not isinstance(model, LoopedTransformer):
        raise LoopscopeError(f"{path} holds a {settings.model.architecture} model, which has no iterations to settle")
    # The evidence is valid only for the tolerance that validation used.
    counted = tolerance == SETTLED
    evidence = read_signals(run.trust) if counted and run.trust.is_file() else None
    text, iterations = text_format(settings.task), _validated(run, evidence)
    return Answerer(path, model, settings.data, text, evidence, iterations, tolerance)


def _validated(run: RunFolder, evidence: AnswerSignals | None) -> int:
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
            batch = places[begin : begin + BATCH]
            for moment in _moments(answerer, [problems[place] for place in batch], tolerance, max_iterations):
                for entry in moment.ends.nonzero().squeeze(1).tolist():
                    place = batch[int(moment.rows[entry])]
                    frame = moment.frame(answerer, problems[place], entry)
                    found[place] = answer_of(answerer, problems[place], frame, tolerance)
    return [found[place] for place in range(len(problems))]


def frames(answerer: Answerer, problem: Problem, tolerance: float, max_iterations: int) -> Iterator[Frame]:
    """Yield the frame of every iteration of one problem until its state has settled or is no longer finite."""
    for moment in _moments(answerer, [problem], tolerance, max_iterations):
        yield moment.frame(answerer, problem, 0)


@dataclass(frozen=True)
class _Moment:
    """One iteration of a batch of problems, for those that are still followed.

    Args:
        iteration: number of the iteration, from 1.
        rows: positions of these problems in the batch.
        logits: readouts of their states, on the CPU.
        since: iteration at which each part of each answer last changed.
        residual: relative residuals of the step.
        ends: whether this is the last iteration of a problem.
    """

    iteration: int
    rows: Int[Tensor, "active"]
    logits: Float[Tensor, "active tokens outputs"]
    since: Int[Tensor, "active parts"]
    residual: Float[Tensor, "active"]
    ends: Bool[Tensor, "active"]

    def frame(self, answerer: Answerer, problem: Problem, entry: int) -> Frame:
        """Return the frame of the problem at one entry of ``rows``."""
        logits = self.logits[entry]
        unsure = _unsure(answerer, problem, logits)
        return Frame(self.iteration, logits, self.since[entry], float(self.residual[entry]), unsure)


def _moments(
    answerer: Answerer, problems: Sequence[Problem], tolerance: float, max_iterations: int
) -> Iterator[_Moment]:
    """Yield every iteration of problems of equal length. A problem leaves when its state settles or is not finite."""
    model = answerer.model
    rows = torch.arange(len(problems))
    with eval_mode(model):
        with torch.no_grad():
            recalled = model.encode(_inputs(answerer, torch.stack([problem.tokens for problem in problems])))
            state = model.start(recalled)
            mask = mask_of(model, recalled)
            smallest = smallest_scale(state, mask)
            parts = _parts(answerer, problems, readout(model, state, recalled).cpu())
        since = torch.zeros_like(parts)
        for iteration in range(1, max_iterations + 1):
            with torch.no_grad():
                before, state = state, model.step(state, recalled)
                residual = relative_residual(flatten(before, mask), flatten(state, mask), smallest).cpu()
                logits = readout(model, state, recalled).cpu()
            last, parts = parts, _parts(answerer, [problems[row] for row in rows.tolist()], logits)
            since = torch.where(parts == last, since, iteration)
            goes_on = (residual > tolerance) & residual.isfinite() & (iteration < max_iterations)
            yield _Moment(iteration, rows, logits, since, residual, ~goes_on)
            if not bool(goes_on.any()):
                return
            if not bool(goes_on.all()):
                kept = goes_on.nonzero().squeeze(1)
                rows, parts, since = rows[kept], parts[kept], since[kept]
                kept = kept.to(smallest.device)
                state, recalled, smallest = select(state, kept), select(recalled, kept), smallest[kept]
                mask = None if mask is None else mask[kept]


def _parts(
    answerer: Answerer, problems: Sequence[Problem], logits: Float[Tensor, "batch tokens outputs"]
) -> Int[Tensor, "batch parts"]:
    """Return the parts of each answer as numbers."""
    return torch.stack([answerer.text.parts(problem, own) for problem, own in zip(problems, logits, strict=True)])


def answer_of(answerer: Answerer, problem: Problem, frame: Frame, tolerance: float) -> Answer:
    """Return the answer that a frame shows, with the similar answers of validation."""
    settled, right = frame.residual <= tolerance, answerer.text.right(problem, frame.logits)
    # In validation every answer had the same number of iterations to settle. An answer cut off earlier is not comparable.
    comparable = right is None and (settled or frame.iteration >= answerer.iterations)
    return Answer(
        line=answerer.text.line(problem, frame.logits),
        right=right,
        settled=settled,
        iterations=frame.iteration,
        residual=frame.residual,
        unsure=frame.unsure,
        since=int(frame.since.max()),
        alike=answerer.calibrations.alike(settled, frame.unsure) if comparable else None,
    )


def _unsure(answerer: Answerer, problem: Problem, logits: Float[Tensor, "tokens outputs"]) -> float:
    """Return one minus the confidence of the answer that is shown."""
    if isinstance(answerer.task, ShowsAChoice) and isinstance(answerer.text, ListsChoices):
        _, unsure = answerer.task.shown(logits[None], answerer.text.choices(problem))
    else:
        unsure = unsureness(logits[None])
    return float(significant(unsure)[0])
