"""What can be examined from the command line: a trained run, or the loop that an importable function returns."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from loopscope.contexts import device_of_loop
from loopscope.errors import LoopscopeError, nearest
from loopscope.evaluation import EvaluationConfig, rule_of_split
from loopscope.loop import Loop
from loopscope.models import FixedDepthTransformer, LoopedTransformer, load_model
from loopscope.stability import Examination, ExaminationConfig, examine
from loopscope.stability.orbits.trace import Answers
from loopscope.tasks import Split, answers_of, task_class
from loopscope.training.run_folder import RunFolder
from loopscope.training.settings import RunSettings, one_line_errors
from loopscope.trees import Tree, batch_size, select


@dataclass(frozen=True)
class Subject:
    """A loop, and inputs to examine it on.

    Args:
        loop: the loop.
        inputs: what its ``encode`` takes.
        targets: see ``examine``.
        trained_iterations: most iterations in training, where known.
        answers: see ``examine`` and ``forecast``.
    """

    loop: Loop
    inputs: Tree
    targets: Tensor | Callable[[Tensor, Tensor], Tensor] | None = None
    trained_iterations: int | None = None
    answers: Answers | None = None


def device() -> torch.device:
    """Return where a command puts a trained model: the GPU that CUDA gives first, else the CPU.

    Examinations need double precision, which accelerators of other makes lack.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained(run: RunFolder) -> tuple[RunSettings, LoopedTransformer | FixedDepthTransformer]:
    """Return a run's settings and its model, on the GPU where there is one.

    Raises:
        LoopscopeError: the folder holds no run, it has not finished, or its model is of other settings.
    """
    settings = run.settings()
    if not run.finished():
        raise LoopscopeError(f"{run.path} has not finished training: go on with  loopscope train ... --resume")
    model = load_model(run.model)
    if model.config != settings.model:
        raise LoopscopeError(f"{run.model} was built from another config than {run.config}: the folder mixes two runs")
    return settings, model.to(device())


def with_data(settings: RunSettings, given: Mapping[str, str]) -> RunSettings:
    """Return a run's settings with options of its data replaced.

    Args:
        settings: the run's.
        given: values by the options' names, as text of a command line. Path and source are one choice: where one of
            them is given, the other is not taken from the run.

    Raises:
        LoopscopeError: the run's task has no such option, or refuses the value.
    """
    own = settings.to_dict()["data"]
    for name in given:
        if name not in own:
            close = nearest(f"--data.{name}", [f"--data.{known}" for known in own])
            raise LoopscopeError(f"the data of the task {settings.task} have no option --data.{name}{close}")
    dropped = {"path", "source"} if {"path", "source"} & given.keys() else set()
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(task_class(settings.task), "data")
    parser.set_defaults({f"data.{name}": value for name, value in own.items() if name not in dropped})
    with one_line_errors():
        parsed = parser.parse_args([f"--data.{name}={value}" for name, value in given.items()])
        return replace(settings, data=parser.instantiate(parsed).data)


def trained_for_evaluation(run: RunFolder) -> tuple[RunSettings, LoopedTransformer | FixedDepthTransformer]:
    """Return what ``trained`` does, the iteration compiled where the run's training was.

    Hundreds of iterations repay the compilation.

    Raises:
        LoopscopeError: see ``trained``.
    """
    settings, model = trained(run)
    if settings.training.compile and isinstance(model, LoopedTransformer):
        model.compile_step()
    return settings, model


def evaluation_of(settings: RunSettings) -> EvaluationConfig:
    """Return how a run's model is evaluated: a model of fixed depth has one pass, so one iteration."""
    config = settings.evaluation
    return config if settings.model.architecture == "looped" else replace(config, iterations=1, until_settled=False)


def evaluation_splits(settings: RunSettings) -> dict[str, Split]:
    """Return the splits that a run is evaluated on, where `trained` puts its model."""
    return {name: split.to(device()) for name, split in settings.data.evaluation_splits().items()}


def from_run(path: Path) -> Subject:
    """Return a run's model with the problems of its easy split.

    Raises:
        LoopscopeError: see ``trained``; or it is of a model that is no loop.
    """
    settings, model = trained(RunFolder(path))
    if settings.model.architecture != "looped":
        raise LoopscopeError(f"{path} is of a {settings.model.architecture} model, which has no iterations to examine")
    return on_split(model, settings, next(iter(settings.data.evaluation_splits().values())))


def on_split(model: Loop, settings: RunSettings, split: Split) -> Subject:
    """Return a run's model with the problems of a split of its task, where the model is."""
    task, split = settings.data, split.to(device_of_loop(model, split.problems.device))
    rule, trained_iterations = rule_of_split(task, split), settings.training.max_iterations
    return Subject(model, task.inputs(split.problems), rule, trained_iterations, answers_of(task))


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Have modules looked for in the current folder first."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        # What runs in between may have put entries of its own before it.
        if here in sys.path:
            sys.path.remove(here)


def from_function(name: str) -> Subject:
    """Return what the function named package.module:function returns, looked for from the current folder too.

    Raises:
        LoopscopeError: there is no such module or function, or it returns something else.
    """
    module_name, _, function_name = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise LoopscopeError(f"{name!r} names no function: give package.module:function or a run's folder")
    with _current_folder_first():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise LoopscopeError(
                f"cannot import {module_name}: {error}; give package.module:function or a run's folder"
            ) from error
        function = getattr(module, function_name, None)
        if not callable(function):
            known = [entry for entry in dir(module) if not entry.startswith("_")]
            raise LoopscopeError(f"{module_name} has no function {function_name!r}{nearest(function_name, known)}")
        made = function()
    if not isinstance(made, tuple) or not 2 <= len(made) <= 4 or not isinstance(made[0], Loop):
        raise LoopscopeError(
            f"{name}() returned {type(made).__name__}, expected (loop, inputs), with targets and trained iterations if you "
            "like; a loop has encode, start, step and read (FunctionLoop wraps four functions)"
        )
    return Subject(*made)


def first_examples(subject: Subject, examples: int) -> Subject:
    """Return a subject with no more than its first inputs."""
    batch_size(subject.inputs)  # refuses what cannot be cut
    rows, targets = slice(0, examples), subject.targets
    inputs = select(subject.inputs, rows)
    return replace(subject, inputs=inputs, targets=targets[rows] if isinstance(targets, Tensor) else targets)


def examine_subject(subject: Subject, config: ExaminationConfig, on_part: Callable[[str], None]) -> Examination:
    """Examine a subject on its first ``config.examples`` inputs.

    Raises:
        LoopscopeError: see ``examine``.
    """
    some = first_examples(subject, config.examples)
    return examine(
        some.loop,
        some.inputs,
        some.targets,
        some.trained_iterations,
        config.effort,
        config.seed,
        iterations=config.iterations,
        tolerance=config.tolerance,
        prediction=config.prediction,
        time_limit=config.time_limit,
        on_part=on_part,
        answers=some.answers,
    )
