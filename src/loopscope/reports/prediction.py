"""A population's analysis as tables for the terminal: forecasts and rivals, the paper's comparisons, guidance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from loopscope.reports.rows import percent
from loopscope.studies.guidance import Counted, Guidance
from loopscope.studies.outcomes import Fate
from loopscope.studies.prediction import Analysis, CellRow
from loopscope.studies.statistics import Estimate

DASH = "–"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number, or a dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def shown(given: Estimate) -> str:
    """Return an estimate with its interval and how many models it stands on."""
    if given.value is None:
        return given.note or DASH
    within = "" if given.low is None else f" [{number(given.low)}, {number(given.high)}]"
    return f"{number(given.value)}{within} ({given.models})"


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> Table:
    table = Table(title=title, caption=caption or None, title_justify="left", caption_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _fates(analysis: Analysis) -> Table:
    names = [fate.value for fate in Fate]
    rows = [
        [task, str(sum(counts.values())), *(str(counts.get(name, 0)) for name in names)]
        for task, counts in analysis.fates.items()
    ]
    caption = f"{analysis.models} models in {analysis.cells} cells of the grid"
    return _table("What became of the models", ["task", "models", *names], rows, caption)


def _performances(analysis: Analysis) -> Table:
    rows = [
        [one.name, shown(one.area), shown(one.hard), shown(one.brier), number(one.seconds, 3)]
        for one in analysis.performances
    ]
    columns = ["predictor", "area for holding", "rank with hard accuracy", "Brier", "seconds"]
    table = _table(
        "Forecasts, from the trained iterations on easy problems",
        columns,
        rows,
        "Area under the ROC curve, among models that solve their task; 95% intervals over cells; in brackets the models. "
        "Several numbers: by a rule fitted on other cells.",
    )
    framework = sum(one.kind == "framework" for one in analysis.performances)
    table.rows[framework - 1].end_section = True
    return table


def _calibration(analysis: Analysis) -> Table:
    rows = [
        [f"{number(one.low, 1)} to {number(one.high, 1)}", str(one.models), number(one.forecast), number(one.held)]
        for one in analysis.calibration
    ]
    return _table("Calibration of all three axes", ["forecast", "models", "mean forecast", "held"], rows)


def _transfers(analysis: Analysis) -> Table:
    tasks = list(dict.fromkeys(one.task for one in analysis.transfers))
    found = {(one.name, one.task): shown(one.area) for one in analysis.transfers}
    names = dict.fromkeys(one.name for one in analysis.transfers)
    rows = [[name, *(found[name, task] for task in tasks)] for name in names]
    return _table(f"Across tasks: fitted on {analysis.source}", ["predictor", *tasks], rows, "Area for holding.")


def _clocks(analysis: Analysis) -> Table:
    rows = [[one.name, shown(one.octaves)] for one in analysis.clocks]
    caption = f"{analysis.collapsed} models fall below half of their best after the trained iterations, {analysis.earlier} before"
    return _table("When it is lost", ["told by", "median error, octaves"], rows, caption)


def _seeds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "failed"
    mean = percent(sum(known) / len(known))
    return f"{mean} ({', '.join('failed' if value is None else f'{100 * value:.0f}' for value in values)})"


def _cell(row: CellRow) -> list[str]:
    fates = ", ".join(f"{count} {fate}" for fate, count in row.fates.items())
    settings = f"{row.recall} {row.norm} {row.learning_rate:g}"
    return [settings, _seeds(row.easy), _seeds(row.hard), number(row.state_radius), fates]


def _cells(analysis: Analysis) -> list[Table]:
    columns = ["recall, norm, learning rate", "easy %", "hard %", "radius of W_state", "fates"]
    caption = "Mean at the last iteration (every seed)"
    return [
        _table(f"{task}, by cell", columns, (_cell(row) for row in analysis.cells_table if row.task == task), caption)
        for task in analysis.fates
    ]


def analysis_tables(analysis: Analysis) -> list[Table]:
    """Return everything that an analysis found, as tables."""
    tables = [_fates(analysis), _performances(analysis), _calibration(analysis)]
    if analysis.transfers:
        tables.append(_transfers(analysis))
    return [*tables, _clocks(analysis), *_cells(analysis)]


def headline(analysis: Analysis) -> str:
    """Return how the framework compares with its best rival, in a line."""
    if analysis.best_rival is None:
        return f"All three axes against the best rival: {shown(analysis.ahead)}"
    return f"All three axes against the best short rival, {analysis.best_rival}: area {shown(analysis.ahead)} larger"


def _counted(one: Counted) -> list[str]:
    counts = (one.models, one.solve, one.hold, one.extrapolate)
    return [one.choice, *map(str, counts), percent(one.sure), percent(one.hard)]


def guidance_table(found: Guidance) -> Table:
    """Return the counts behind a task's guidance."""
    table = _table(
        found.task,
        ["choice", "models", "solve", "hold", "extrapolate", "holds, at least %", "hard %"],
        (),
        "At least: lower end of the 95% interval of the fraction that solves and holds.",
    )
    groups = {**{f"{name}: ": group for name, group in found.by_choice.items()}, "": found.pairs}
    for prefix, group in groups.items():
        for place, one in enumerate(group):
            row = _counted(one)
            table.add_row(f"{prefix}{row[0]}", *row[1:], end_section=place == len(group) - 1)
    return table
