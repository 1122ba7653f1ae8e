"""What the commands examine: a trained run, or the loop that an importable function returns."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loopscope.contexts import device_of_loop
from loopscope.errors import LoopscopeError, check_choice, nearest
from loopscope.evaluation import EvaluationConfig, rule_of_split
from loopscope.loop import Loop
from loopscope.models import FixedDepthTransformer, LoopedTransformer, load_model
from loopscope.parsing import add_settings, new_parser, one_line_errors, parse_arguments
from loopscope.stability import Examination, ExaminationConfig, examine
from loopscope.stability.orbits.answers import Answers
from loopscope.tasks import Split, answers_of, task_class
from loopscope.training.run_folder import RunFolder
from loopscope.training.settings import RunSettings
from loopscope.trees import Tree, batch_size, select


@dataclass(frozen=True)
class Subject:
    """A loop and the inputs to examine it on.

    Args:
        loop: the loop.
        inputs: arguments of the loop's ``encode``.
        targets: see ``examine``.
        trained_iterations: largest number of iterations in training, if known.
        answers: see ``examine`` and ``forecast``.
        words: see ``examine``.
    """

    loop: Loop
    inputs: Tree
    targets: Tensor | Callable[[Tensor, Tensor], Tensor] | None = None
    trained_iterations: int | None = None
    answers: Answers | None = None
    words: Sequence[Sequence[str]] | None = None


def device() -> torch.device:
    """Return the device for trained models: the first CUDA GPU if there is one, else the CPU.

    Other accelerators are not used because they lack double precision, which examinations need.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained(run: RunFolder) -> tuple[RunSettings, LoopedTransformer | FixedDepthTransformer]:
    """Return a run's settings and its model, on the GPU if there is one.

    Raises:
        LoopscopeError: the folder holds no run, training has not finished, or the model has other settings.
    """
    settings = run.settings()
    if not run.finished():
        raise LoopscopeError(f"{run.path} has not finished training: continue with  loopscope train ... --resume")
    model = load_model(run.model)
    if model.config != settings.model:
        raise LoopscopeError(f"{run.model} has another config than {run.config}: the folder mixes two runs")
    return settings, model.to(device())


def with_data(settings: RunSettings, given: Mapping[str, str]) -> RunSettings:
    """Return a run's settings with options of its data replaced.

    Args:
        settings: settings of the run.
        given: values by option name, as text from a command line. Path and source are alternatives: if one is given,
            the run's value of the other is dropped.

    Raises:
        LoopscopeError: the run's task has no such option or refuses the value.
    """
    own = settings.to_dict()["data"]
    for name in given:
        if name not in own:
            close = nearest(f"--data.{name}", [f"--data.{known}" for known in own])
            raise LoopscopeError(f"the data of the task {settings.task} have no option --data.{name}{close}")
    dropped = {"path", "source"} if {"path", "source"} & given.keys() else set()
    parser = new_parser()
    add_settings(parser, task_class(settings.task), "data")
    parser.set_defaults({f"data.{name}": value for name, value in own.items() if name not in dropped})
    with one_line_errors():
        parsed = parse_arguments(parser, [f"--data.{name}={value}" for name, value in given.items()])
        return replace(settings, data=parser.instantiate(parsed).data)


def trained_for_evaluation(run: RunFolder) -> tuple[RunSettings, LoopedTransformer | FixedDepthTransformer]:
    """Like ``trained``, but with the step compiled if it was compiled in training.

    Compilation pays off over hundreds of iterations.

    Raises:
        LoopscopeError: see ``trained``.
    """
    settings, model = trained(run)
    if settings.training.compile and isinstance(model, LoopedTransformer):
        model.compile_step()
    return settings, model


def evaluation_of(settings: RunSettings) -> EvaluationConfig:
    """Return the evaluation config of a run. A fixed-depth model is evaluated for one iteration, its single pass."""
    config = settings.evaluation
    return config if settings.model.architecture == "looped" else replace(config, iterations=1, until_settled=False)


def evaluation_splits(settings: RunSettings) -> dict[str, Split]:
    """Return the evaluation splits of a run, on the device that ``device`` returns."""
    return {name: split.to(device()) for name, split in settings.data.evaluation_splits().items()}


def from_run(path: Path, split: str | None = None) -> Subject:
    """Return a run's model with the problems of one of its evaluation splits.

    Args:
        path: the run's folder.
        split: name of the split; the easy one if None.

    Raises:
        LoopscopeError: ``trained`` refuses the run, the model is not a loop, or there is no such split.
    """
    settings, model = trained(RunFolder(path))
    if settings.model.architecture != "looped":
        raise LoopscopeError(f"{path} holds a {settings.model.architecture} model, which has no iterations to examine")
    splits = settings.data.evaluation_splits()
    if split is not None:
        check_choice("the split", split, splits)
    return on_split(model, settings, splits[split or next(iter(splits))])


def on_split(model: Loop, settings: RunSettings, split: Split) -> Subject:
    """Return a run's model with the problems of a split of its task, on the model's device."""
    task, split = settings.data, split.to(device_of_loop(model, split.problems.device))
    rule, trained_iterations = rule_of_split(task, split), settings.training.max_iterations
    return Subject(model, task.inputs(split.problems), rule, trained_iterations, answers_of(task))


@contextmanager
def current_folder_first() -> Iterator[None]:
    """Search for modules in the current folder first."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        # The code that ran in between may have inserted entries of its own.
        if here in sys.path:
            sys.path.remove(here)


def named(name: str) -> Any:
    """Import package.module:name and return what it names, a function or a model.

    The module is searched for in the current folder first. Importing it runs its code.

    Raises:
        LoopscopeError: there is no such module, or nothing of that name in it.
    """
    module_name, _, function_name = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise LoopscopeError(f"{name!r} does not name a function: give package.module:function or the folder of a run")
    with current_folder_first():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise LoopscopeError(
                f"cannot import {module_name}: {error}; give package.module:function or a run's folder"
            ) from error
        found = getattr(module, function_name, None)
        if not callable(found):
            known = [entry for entry in dir(module) if not entry.startswith("_")]
            raise LoopscopeError(f"{module_name} has no function {function_name!r}{nearest(function_name, known)}")
        return found


def imported(name: str) -> Any:
    """Import and call the function package.module:function, and return what it returns.

    Raises:
        LoopscopeError: there is no such module or function, or the name is that of a model.
    """
    function = named(name)
    if isinstance(function, torch.nn.Module) and not isinstance(function, Loop):
        raise LoopscopeError(
            f"{name} is a model, {type(function).__name__}, not a function that returns (loop, inputs): give its inputs with "
            "--inputs FILE, and --at NAME of the call that is one iteration unless its family is known"
        )
    with current_folder_first():
        return function()


def subject_from(name: str, made: Any) -> Subject:
    """Return the subject in what the function of this name returned.

    Raises:
        LoopscopeError: it is something else than a loop with its inputs.
    """
    if not isinstance(made, tuple) or not 2 <= len(made) <= 4 or not isinstance(made[0], Loop):
        raise LoopscopeError(
            f"{name}() returned {type(made).__name__}, expected (loop, inputs), optionally followed by targets and trained "
            "iterations; a loop has encode, start, step and read (FunctionLoop wraps four functions)"
        )
    return Subject(*made)


def from_function(name: str) -> Subject:
    """Import and call the function package.module:function, and return its subject.

    Raises:
        LoopscopeError: see ``imported`` and ``subject_from``.
    """
    return subject_from(name, imported(name))


def first_examples(subject: Subject, examples: int) -> Subject:
    """Return a subject with at most its first ``examples`` inputs."""
    batch_size(subject.inputs)  # refuses inputs that cannot be sliced
    rows, targets = slice(0, examples), subject.targets
    inputs, words = select(subject.inputs, rows), None if subject.words is None else subject.words[rows]
    return replace(
        subject, inputs=inputs, targets=targets[rows] if isinstance(targets, Tensor) else targets, words=words
    )


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
        words=some.words,
    )
