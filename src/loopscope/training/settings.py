"""The settings of a run, and reading them from a mapping (YAML, a ledger) or a command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from loopscope.errors import LoopscopeError, nearest
from loopscope.evaluation import EvaluationConfig
from loopscope.models.config import LoopedTransformerConfig, current_options
from loopscope.parsing import add_settings, dotted, new_parser, one_line_errors, parse_mapping
from loopscope.tasks import Task, task_class
from loopscope.training.config import TrainingConfig
from loopscope.training.objectives import AT_FIXED_POINT
from loopscope.training.precision import Precision

SECTIONS: dict[str, Any] = {
    "model": LoopedTransformerConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
}

REPLACED = {
    "model.window": "it was replaced by model.kernel_size, the number of positions that a token sees, such as 5"
}
"""Hints for settings of older versions."""


@dataclass(frozen=True)
class RunSettings:
    """All settings of a run.

    Args:
        task: name of the task.
        data: the task, with the options of its data.
        model: config of the model, completed by the task.
        training: config of the training.
        evaluation: config of the evaluation.
    """

    task: str
    data: Task
    model: LoopedTransformerConfig
    training: TrainingConfig
    evaluation: EvaluationConfig

    def __post_init__(self) -> None:
        objective, model = self.training.objective, self.model
        if model.architecture == "fixed-depth" and self.training.checkpoint_every is not None:
            raise LoopscopeError(
                "checkpoint_every was given for a fixed-depth model, which does not iterate: leave it out"
            )
        if model.architecture == "fixed-depth" and self.training.regularized:
            raise LoopscopeError(
                f"{', '.join(self.training.regularized)} was given for a fixed-depth model, which does not iterate: leave it out"
            )
        if self.training.random_starts is not None and model.recall == "none":
            raise LoopscopeError(
                "random_starts was given with recall none: the input enters such a model through its first state only; set "
                "recall to internal or external, or leave random_starts out"
            )
        if objective not in AT_FIXED_POINT:
            return
        if model.architecture == "fixed-depth":
            raise LoopscopeError(
                f"objective {objective} was asked for with a fixed-depth model, which has no fixed point: "
                "set objective to progressive"
            )
        if model.recall == "none":
            raise LoopscopeError(
                f"objective {objective} was asked for with recall none: the gradient at a fixed point reaches the input "
                "through recall only, so the embedding would never be trained; set recall to internal or external, or "
                "objective to progressive"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that ``settings_from`` reads back.

        Options of training that do not apply (None) are left out, as in files older than these options.
        """
        values = asdict(self)
        values["model"] = self.model.to_dict()
        values["training"] = {key: value for key, value in values["training"].items() if value is not None}
        for section in values.values():
            if isinstance(section, dict):
                section.update({key: list(value) for key, value in section.items() if isinstance(value, tuple)})
        return values


def add_sections(parser: ArgumentParser, task: str) -> None:
    """Add the options of the task's data, the model, training and evaluation to a parser."""
    add_settings(parser, task_class(task), "data")
    for name, section in SECTIONS.items():
        add_settings(parser, section, name)


def complete_model(task: Task, config: LoopedTransformerConfig) -> LoopedTransformerConfig:
    """Fill in the options of a model's config that are None with the dimensions of the task.

    Args:
        task: the task.
        config: the config. Options that are given are kept.

    Example:
        >>> from loopscope.tasks import Sudoku
        >>> complete_model(Sudoku(), LoopedTransformerConfig(width=64)).grid
        (9, 9)
    """
    shape = asdict(task.shape)
    attention = config.attention or task.shape.attention
    if attention == "full":
        del shape["kernel_size"]
    return replace(config, **{name: value for name, value in shape.items() if getattr(config, name) is None})


def complete(task: str, parsed: Namespace) -> RunSettings:
    """Return the settings from the result of a parser with ``add_sections``, with the model completed by the task."""
    sections = {name: getattr(parsed, name) for name in SECTIONS}
    model = sections.pop("model")
    completed = complete_model(parsed.data, model).require_complete()
    return RunSettings(task=task, data=parsed.data, model=completed, **sections)


def with_precision(settings: RunSettings, precision: Precision) -> RunSettings:
    """Return the settings with this precision if theirs is auto."""
    if settings.training.precision != "auto":
        return settings
    return replace(settings, training=replace(settings.training, precision=precision))


def option_names(task: str) -> list[str]:
    """Return the dotted names of all settings of a run on this task."""
    sections = {"data": task_class(task), **SECTIONS}
    return [f"{name}.{field.name}" for name, section in sections.items() for field in fields(section)]


def check_keys(task: str, keys: Iterable[str]) -> None:
    """Refuse settings that do not exist.

    Raises:
        LoopscopeError: a key is unknown; the message offers the nearest valid one.
    """
    known = option_names(task)
    for key in keys:
        if key not in known:
            hint = f": {REPLACED[key]}" if key in REPLACED else nearest(key, known)
            raise LoopscopeError(f"unknown setting {key!r} for the task {task}{hint}")


def current_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the settings of a run from older versions (see ``current_options``).

    Raises:
        LoopscopeError: an older setting cannot be translated.
    """
    model = values.get("model")
    return {**values, "model": current_options(model)} if isinstance(model, Mapping) else dict(values)


def settings_from(values: Mapping[str, Any]) -> RunSettings:
    """Build the settings of a run from plain values: ``task`` and the sections data, model, training, evaluation.

    Raises:
        LoopscopeError: there is no task, a key is unknown, or a value is refused.
    """
    # An empty section, which YAML reads as None, takes its defaults.
    values = current_settings({key: {} if value is None else value for key, value in values.items()})
    task = values.pop("task", None)
    if not isinstance(task, str):
        raise LoopscopeError("the settings name no task: give one, such as task: prefix-sums")
    parser = _parser(task)
    check_keys(task, dotted(values))
    with one_line_errors():
        return complete(task, parser.instantiate(parse_mapping(parser, values)))


@cache
def _parser(task: str) -> ArgumentParser:
    """Return the parser of a task's settings, which takes longer to make than to use: a study has hundreds of runs."""
    parser = new_parser()
    add_sections(parser, task)
    return parser


def with_setting(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return plain settings with the value at the dotted ``key`` replaced."""
    section, _, field = key.partition(".")
    return {**values, section: {**values.get(section, {}), field: value}}
