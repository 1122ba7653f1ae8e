"""The plan of a study: a YAML grid, turned into runs with names and complete settings."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from loopscope.errors import LoopscopeError, nearest
from loopscope.files import read_yaml_mapping
from loopscope.parsing import add_settings, new_parser, one_line_errors, parse_mapping
from loopscope.schema import misfit
from loopscope.stability import ExaminationConfig
from loopscope.training.settings import (
    SECTIONS,
    RunSettings,
    check_keys,
    settings_from,
    with_setting,
)

LONGEST_NAME = 200
"""Largest number of bytes in the name of a study or run. File systems allow 255, and files beside it have longer names."""
MOST_RUNS = 1000
"""Largest number of runs of one study."""
SHOWN = 60
"""Largest number of characters of a refused name that are shown."""
KEYS = (
    "name",
    "title",
    "task",
    "data",
    "model",
    "training",
    "evaluation",
    "examination",
    "grid",
    "also",
    "workers",
)
PLAIN: dict[str, Any] = {"name": str | float, "title": str | float, "task": str, "workers": int}
"""Keys with plain values, and their types. YAML reads a study named 7 as a number."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Args:
        name: name of the run and of its folder, made of the values in which the study's runs differ.
        settings: all settings of the run.
    """

    name: str
    settings: RunSettings


@dataclass(frozen=True)
class StudyPlan:
    """The plan of a study.

    Args:
        name: name of the study and of its folder.
        title: title for reports, on one line.
        varied: dotted names of the settings in which runs differ, in the order of the grid.
        runs: the runs, in order.
        examination: how each trained model is examined; None if models are not examined.
        workers: number of processes at once, unless the command gives another.
        source: the file that the plan was read from.
    """

    name: str
    title: str
    varied: tuple[str, ...]
    runs: tuple[PlannedRun, ...]
    examination: ExaminationConfig | None
    workers: int
    source: Path


def _slug(key: str, value: Any) -> str:
    """Return a value as part of a run's name. A word stands alone; a number follows the name of its option."""
    field = key.rpartition(".")[2].replace("_", "-")
    text = str(value) if isinstance(value, str) else f"{field}{value}"
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text)


def _check_name(source: Path, name: str) -> None:
    """Refuse a study's name that is not the name of one folder: the study would be written elsewhere.

    Raises:
        LoopscopeError: it holds a slash or a character that is not printable, is . or .., empty, or too long.
    """
    fits = name.isprintable() and not set(name) & {"/", "\\"} and name not in ("", ".", "..")
    if not fits or len(name.encode(errors="replace")) > LONGEST_NAME:
        shown = repr(name[:SHOWN]) + ("..." if len(name) > SHOWN else "")
        raise LoopscopeError(
            f"{source}: name is {shown}, expected the name of one folder: printable characters without a slash, at most "
            f"{LONGEST_NAME} bytes"
        )


def _check_run_count(source: Path, grid: dict[str, list[Any]], also: list[Any]) -> None:
    """Refuse a grid with too many runs before each of them is checked, which would take long without any output.

    Raises:
        LoopscopeError: there are more than ``MOST_RUNS`` runs.
    """
    count = math.prod(map(len, grid.values())) + len(also)
    if count > MOST_RUNS:
        raise LoopscopeError(
            f"{source}: the grid makes {count:,} runs, expected at most {MOST_RUNS:,}: split it into several studies"
        )


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
    return _named(grid)


def _section(source: Path, name: str, values: Any) -> dict[str, Any]:
    """Return the settings of a section. A section that is named and left empty has none."""
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise LoopscopeError(f"{source}: {name} is {values!r}, expected settings, each on a line as key: value")
    return _named(values)


def _named(values: dict[Any, Any]) -> dict[str, Any]:
    """Return settings with their names as text. YAML reads some names as numbers."""
    return {str(key): value for key, value in values.items()}


def _examination(source: Path, values: dict[str, Any]) -> ExaminationConfig:
    known = [field.name for field in fields(ExaminationConfig)]
    for key in values:
        if key not in known:
            raise LoopscopeError(f"{source}: unknown examination option {key!r}{nearest(key, known)}")
    parser = new_parser()
    add_settings(parser, ExaminationConfig, "examination")
    try:
        with one_line_errors():
            config: ExaminationConfig = parser.instantiate(parse_mapping(parser, {"examination": values})).examination
    except LoopscopeError as error:
        raise LoopscopeError(f"{source}: {error}") from error
    return config


def _run_name(cell: dict[str, Any], settings: dict[str, Any]) -> str:
    """Return a run's name, made of its values as parsed, so that 1e-3 and 0.001 are the same."""
    values = {key: settings[key.partition(".")[0]].get(key.partition(".")[2]) for key in cell}
    return "-".join(_slug(key, value) for key, value in values.items())


def read_plan(source: Path) -> StudyPlan:
    """Read a study's YAML file.

    Keys: ``name``, ``title``, ``task``; base settings in ``data``, ``model``, ``training``, ``evaluation``,
    ``examination``; ``grid``, settings by dotted name with the list of values to combine; ``also``, a list of further
    runs, each a mapping of dotted settings; ``workers``.

    Raises:
        LoopscopeError: the file is not YAML, has an unknown key or a refused value, or describes two runs of the same name.
    """
    values = read_yaml_mapping(source)
    for key in values:
        if key not in KEYS:
            raise LoopscopeError(f"{source}: unknown key {key!r}{nearest(str(key), KEYS)}, expected {', '.join(KEYS)}")
    # A key that is left empty takes its default, as sections do.
    values = {key: value for key, value in values.items() if value is not None}
    for key, kind in PLAIN.items():
        if key in values and (wrong := misfit(values[key], kind, key)) is not None:
            raise LoopscopeError(f"{source}: {wrong}")
    grid = _check_grid(source, values.get("grid"))
    also = values.get("also", [])
    if not isinstance(also, list) or not all(entry and isinstance(entry, dict) for entry in also):
        raise LoopscopeError(f"{source}: also is {also!r}, expected a list of settings")
    _check_run_count(source, grid, also)
    task = values.get("task")
    base = {key: _section(source, key, values.get(key)) for key in ("data", *SECTIONS)}
    runs = []
    for cell in [*_grid_cells(grid), *map(_named, also)]:
        merged: dict[str, Any] = {"task": task, **base}
        try:
            if isinstance(task, str):
                check_keys(task, map(str, cell))
            for key, value in cell.items():
                merged = with_setting(merged, key, value)
            settings = settings_from(merged)
        except LoopscopeError as error:
            raise LoopscopeError(f"{source}: {error}") from error
        run_name = _run_name(cell, settings.to_dict())
        if len(run_name) > LONGEST_NAME:
            raise LoopscopeError(
                f"{source}: the run {run_name[:SHOWN]}... has a name of {len(run_name)} characters, expected at most "
                f"{LONGEST_NAME}: vary fewer settings at once"
            )
        runs.append(PlannedRun(run_name, settings))
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise LoopscopeError(f"{source}: two runs are named {name}: remove the repeated value")
    workers = values.get("workers", 1)
    if workers < 1:
        raise LoopscopeError(f"{source}: workers is {workers!r}, expected the number of simultaneous runs, such as 2")
    examination = _examination(source, _section(source, "examination", values.get("examination")))
    name = str(values.get("name", source.stem))
    _check_name(source, name)
    return StudyPlan(
        name=name,
        title=str(values.get("title", name)),
        varied=tuple(dict.fromkeys(key for cell in [grid, *also] for key in map(str, cell))),
        runs=tuple(runs),
        examination=examination,
        workers=workers,
        source=source,
    )
