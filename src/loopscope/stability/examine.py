"""Examine a loop: follow its orbits, measure the parts, judge the three axes, and return one verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from loopscope.checks import check_is_loop, check_not_empty
from loopscope.contexts import eval_mode, interruptible, random_state_kept, without_autocast
from loopscope.errors import LoopscopeError, StoppedError, check_count
from loopscope.loop import Loop, answers_per
from loopscope.stability.advice import advise
from loopscope.stability.axes import judge_axes
from loopscope.stability.config import ExaminationConfig
from loopscope.stability.examination import Examination
from loopscope.stability.language.part import measure_language
from loopscope.stability.language.tokens import checked_words
from loopscope.stability.nonautonomous.examination import judge_nonautonomous
from loopscope.stability.nonautonomous.results import KindResult
from loopscope.stability.nonautonomous.view import view_of
from loopscope.stability.orbits.answers import Answers
from loopscope.stability.orbits.classify import Orbits, classify
from loopscope.stability.orbits.portrait import portrait
from loopscope.stability.orbits.trace import Trajectory, trace
from loopscope.stability.parts.directions import judge_directions
from loopscope.stability.parts.measure import measure
from loopscope.stability.parts.noise_floor import measure_floor, unmeasured_floor
from loopscope.stability.parts.progress import Progress
from loopscope.stability.parts.reachability import answers as final_answers
from loopscope.stability.parts.reachability import curves, reachability, settled_tokens
from loopscope.stability.parts.sample import Sample, orbit_budget
from loopscope.stability.precision.spoiled import warn_if_spoiled
from loopscope.stability.results import Effort, PortraitResult, Settings
from loopscope.stability.targets import Targets, check_readout, check_targets, rule_of
from loopscope.stability.verdict import Status, is_provisional, verdict
from loopscope.trees import Tree, device_of, flatten, floating_leaves, select


def examine(
    loop: Loop,
    inputs: Tree,
    targets: Targets | None = None,
    trained_iterations: int | None = None,
    effort: Effort = "standard",
    seed: int = 0,
    *,
    iterations: int = 500,
    tolerance: float = 1e-4,
    prediction: bool = False,
    time_limit: float | None = None,
    on_part: Callable[[str], None] | None = None,
    answers: Answers | None = None,
    words: Sequence[Sequence[str]] | None = None,
) -> Examination:
    """Examine a looped model on a batch of inputs.

    A module's mode, its gradients and the global random state are left as they were. The state's own precision is used
    (float32 or float64), without autocast. A warning says where the precision of products in force (TF32, autocast inside the
    step) spoils the numbers.

    Args:
        loop: any loop, such as a model of this package or a ``FunctionLoop`` around your own.
        inputs: what ``loop.encode`` takes, batch first; at least two inputs for the swap test.
        targets: class indices of the shape of the logits without their last dimension (0 and 1 where there is a single
            logit, by its sign), where padding is ignored; or a function (logits, rows) -> which of these rows are right.
            Without targets the best verdict is "stable".
        trained_iterations: largest number of iterations in training. Prediction mode needs it; otherwise reports show it.
        effort: quick, standard or thorough.
        seed: seed of every random start and direction.
        iterations: budget of every orbit, including the one that gradients pass.
        tolerance: relative residual within which a state may count as arrived.
        prediction: prediction mode, in which no orbit goes beyond ``trained_iterations``, including swapped and perturbed ones.
        time_limit: seconds after which orbits end where they are, and all further parts are left out, also one that has
            begun; ``unknown`` names them.
        on_part: called with the name of each part as it begins.
        answers: what a readout predicts, one row per input, to tell whether an answer stands. By default the place of the
            largest logit, or the sign of a single one.
        words: the text of each token of each input, padding left out, for the report of a language model.

    Raises:
        LoopscopeError: an option is out of range, targets have the wrong shape, or the loop is refused, for example because its
            step is random, writes over its state or changes its structure, its mask fits no part of the state, or its readout
            has no outputs.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z / 2 + e, read=lambda z: z
        ... )
        >>> ls.examine(loop, torch.eye(4), effort="quick", iterations=60).verdict
        <Verdict.STABLE: 'stable'>
    """
    check_is_loop(loop)
    config = ExaminationConfig(effort, check_not_empty(inputs), iterations, tolerance, prediction, seed, time_limit)
    if prediction and trained_iterations is None:
        raise LoopscopeError("prediction needs trained_iterations: give the largest number of iterations in training")
    if trained_iterations is not None:
        check_count(trained_iterations=trained_iterations)
    check_targets(targets, config.examples)
    words = checked_words(words, config.examples)
    progress = Progress(time_limit, on_part)
    with eval_mode(loop), without_autocast(), random_state_kept(device_of(inputs)):
        sample, kind, orbits = progress.timed(
            "orbits", lambda: _follow(loop, inputs, targets, trained_iterations, config, answers, progress)
        )
        if orbits is None:
            examination = judge_nonautonomous(sample, kind, _settings(sample, _accuracy(sample)), answers, progress)
        else:
            examination = _examination(sample, orbits, kind, answers, progress)
        some = targets[: config.budget.orbits] if isinstance(targets, Tensor) else targets
        found = measure_language(sample, some, words, progress)
        progress.end()
        return examination if found is None else replace(examination, language=found)


def _follow(
    loop: Loop,
    inputs: Tree,
    targets: Targets | None,
    trained: int | None,
    config: ExaminationConfig,
    answers: Answers | None,
    progress: Progress,
) -> tuple[Sample, KindResult, Orbits | None]:
    """Check the loop and tell its kind, then follow the orbits of the inputs that the effort takes, and label them.

    There are no labels for a loop that has no fixed points.
    """
    rows = slice(0, config.budget.orbits)
    inputs, targets = select(inputs, rows), targets[rows] if isinstance(targets, Tensor) else targets
    with torch.no_grad():
        view = view_of(loop, inputs, config.seed)
        loop, ready = view.loop, view.ready
        warn_if_spoiled(loop, ready.start, ready.recalled)
    check_readout(loop, ready.start, ready.recalled, targets, answers)
    recalled, start = ready.recalled, ready.start
    budget = orbit_budget(config, trained)
    measured = (
        unmeasured_floor(start)
        if view.kind.undefined
        else measure_floor(loop, recalled, start, iterations=budget, is_late=progress.late, seed=config.seed)
    )
    trajectory = trace(
        loop,
        recalled,
        iterations=budget,
        start=start,
        tolerance=config.tolerance,
        correct=rule_of(targets, ready.mask, answers_per(loop)),
        stop=progress.late,
        answers=answers,
        floor=measured.floor,
        until="end" if view.kind.undefined or view.kind.reads_history else "rounding",
    )
    progress.note_cut(trajectory)
    sample = Sample(loop, inputs, recalled, start, trajectory, config, trained, measured)
    orbits = None if view.kind.undefined else _classified(loop, recalled, trajectory, config, progress)
    return sample, view.kind, orbits


def _accuracy(sample: Sample) -> float | None:
    solved = sample.trajectory.solved
    return None if solved is None else float(solved[-1].double().mean())


def _classified(
    loop: Loop, recalled: Tree, trajectory: Trajectory, config: ExaminationConfig, progress: Progress
) -> Orbits:
    """Return the labels of the orbits, from their histories alone if there is no time to follow them further."""
    window = 0 if config.prediction else config.budget.window
    try:
        with interruptible(progress.late):
            return classify(
                loop, recalled, trajectory, window=window, at_most=config.budget.jacobians, seed=config.seed
            )
    except StoppedError:
        return classify(loop, recalled, trajectory, window=0, at_most=0, seed=config.seed)


def _examination(
    sample: Sample, orbits: Orbits, kind: KindResult, answers: Answers | None, progress: Progress
) -> Examination:
    """Measure the parts and judge them."""
    trajectory, accuracy = sample.trajectory, _accuracy(sample)
    measured, reached = measure(sample, progress), reachability(trajectory, orbits)
    axes = judge_axes(trajectory, orbits, measured)
    if axes[0].status is Status.UNKNOWN and (hidden := sample.measured_floor.hides(trajectory)):
        progress.skip(["reachability"], hidden)
    normalized_axes = judge_directions(sample, orbits, answers, progress)
    picture = progress.run("portrait", lambda: _portrait(sample))
    decided = verdict(*axes, accuracy)
    progress.end()
    return Examination(
        verdict=decided,
        provisional=is_provisional(*axes, easy_accuracy=accuracy),
        advice=advise(decided, axes, reached, sample.trained, accuracy, sample.config.prediction, progress.unknown),
        axes=axes,
        normalized_axes=normalized_axes,
        settings=_settings(sample, accuracy),
        curves=curves(trajectory),
        reachability=reached,
        spectrum=measured.spectrum,
        basin=measured.basin,
        input_dependence=measured.input_dependence,
        geometry=measured.geometry,
        tokens=settled_tokens(trajectory),
        portrait=picture,
        unknown=progress.unknown,
        seconds=progress.seconds,
        answers=final_answers(trajectory),
        kind=kind,
    )


def _portrait(sample: Sample) -> PortraitResult:
    """Return the orbit of the first input that arrived or, if none did, of the first input."""
    first = int(sample.trajectory.arrived.int().argmax())
    return portrait(
        sample.loop,
        sample.recalled,
        sample.start,
        first,
        iterations=sample.iterations,
        tolerance=sample.config.tolerance,
        seed=sample.config.seed,
        floor=sample.floor,
    )


def _settings(sample: Sample, accuracy: float | None) -> Settings:
    config, budget, state = sample.config, sample.budget, sample.trajectory.state
    inputs = len(sample.trajectory.arrived)
    return Settings(
        effort=config.effort,
        inputs=inputs,
        given=config.examples,
        swapped=min(budget.swapped, inputs),
        jacobians=min(budget.jacobians, inputs),
        iterations=sample.iterations,
        tolerance=config.tolerance,
        prediction=config.prediction,
        trained_iterations=sample.trained,
        seed=config.seed,
        dtype=str(floating_leaves(state)[0].dtype).removeprefix("torch."),
        numbers_per_state=flatten(select(state, slice(0, 1))).shape[1],
        accuracy=accuracy,
        answers_per=sample.trajectory.answers_per,
        noise_floor=sample.measured_floor.result(),
    )
