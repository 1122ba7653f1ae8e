"""A study's plan: a YAML grid, turned into runs with names and full settings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from loopscope.errors import LoopscopeError, check_positive, nearest
from loopscope.files import read_yaml_mapping
from loopscope.stability import ExaminationConfig
from loopscope.training.settings import RunSettings, check_keys, settings_from, with_setting

KEYS = ("name", "title", "task", "data", "model", "training", "evaluation", "examination", "grid", "also", "workers")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Args:
        name: its name, made of the values in which the study's runs differ; also its folder's.
        settings: all of its settings.
    """

    name: str
    settings: RunSettings


@dataclass(frozen=True)
class StudyPlan:
    """Everything that a study does.

    Args:
        name: the study's name, and its folder's.
        title: a line for people.
        varied: dotted names of the settings in which runs differ, in the order of the grid.
        runs: the runs, in order.
        examination: how each trained model is examined.
        workers: processes that run at once, unless the command says otherwise.
        source: the file that it was read from.
    """

    name: str
    title: str
    varied: tuple[str, ...]
    runs: tuple[PlannedRun, ...]
    examination: ExaminationConfig
    workers: int
    source: Path


def _slug(key: str, value: Any) -> str:
    """Return a value as part of a run's name: words stand alone, numbers carry their option's name."""
    field = key.rpartition(".")[2].replace("_", "-")
    text = str(value) if isinstance(value, str) else f"{field}{value}"
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text)


def _grid_cells(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _check_grid(source: Path, grid: Any) -> dict[str, list[Any]]:
    if not isinstance(grid, dict) or not grid:
        raise LoopscopeError(
            f"{source}: grid is {grid!r}, expected settings with lists, such as model.norm: [pre, outer]"
        )
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise LoopscopeError(f"{source}: grid {key} is {values!r}, expected a list of at least one value")
    return grid


def _examination(source: Path, values: Any) -> ExaminationConfig:
    known = [field.name for field in fields(ExaminationConfig)]
    for key in values:
        if key not in known:
            raise LoopscopeError(f"{source}: unknown examination option {key!r}{nearest(key, known)}")
    return ExaminationConfig(**values)


def read_plan(source: Path) -> StudyPlan:
    """Read a study's YAML file.

    Keys: ``name``, ``title``, ``task``; base settings in ``data``, ``model``, ``training``, ``evaluation``,
    ``examination``; ``grid``, settings by dotted name with the list of values to combine; ``also``, a list of further
    runs, each a mapping of dotted settings; ``workers``.

    Raises:
        LoopscopeError: not YAML, an unknown key, a refused value, or two runs of the same name.
    """
    values = read_yaml_mapping(source)
    for key in values:
        if key not in KEYS:
            raise LoopscopeError(f"{source}: unknown key {key!r}{nearest(str(key), KEYS)}, expected {', '.join(KEYS)}")
    grid = _check_grid(source, values.get("grid"))
    also = values.get("also", [])
    if not isinstance(also, list) or not all(isinstance(entry, dict) for entry in also):
        raise LoopscopeError(f"{source}: also is {also!r}, expected a list of settings")
    task = values.get("task")
    base = {key: values.get(key) or {} for key in ("data", "model", "training", "evaluation")}
    runs = []
    for cell in [*_grid_cells(grid), *also]:
        merged: dict[str, Any] = {"task": task, **base}
        try:
            if isinstance(task, str):
                check_keys(task, list(cell))
            for key, value in cell.items():
                merged = with_setting(merged, key, value)
            settings = settings_from(merged)
        except LoopscopeError as error:
            raise LoopscopeError(f"{source}: {error}") from error
        runs.append(PlannedRun("-".join(_slug(key, value) for key, value in cell.items()), settings))
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise LoopscopeError(f"{source}: two runs are named {name}: remove the repeated value")
    workers = values.get("workers", 1)
    check_positive(workers=workers)
    name = values.get("name", source.stem)
    return StudyPlan(
        name=name,
        title=values.get("title", name),
        varied=tuple(dict.fromkeys(key for cell in [grid, *also] for key in cell)),
        runs=tuple(runs),
        examination=_examination(source, values.get("examination") or {}),
        workers=workers,
        source=source,
    )
