"""What became of a population's models, as tables: by task, by choice, by cell, and model by model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from loopscope.models.residual import BOUNDING
from loopscope.reports.kit.formats import number, percent
from loopscope.reports.kit.sheet import Sheet
from loopscope.studies.cells import LOGGED, CellRow, ModelRow
from loopscope.studies.outcomes import Fate
from loopscope.studies.prediction import Analysis
from loopscope.studies.sensitivity import LATE
from loopscope.studies.tallies import BASELINE, Tally


def fate_columns(counts: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the fates that are columns of a table: all, but that training failed where it never did."""
    failed = any(Fate.FAILED.value in one for one in counts)
    return [fate.value for fate in Fate if failed or fate is not Fate.FAILED]


def _fates(analysis: Analysis) -> Sheet:
    names = fate_columns(analysis.fates.values())
    rows = [
        [task, str(sum(counts.values())), *(str(counts.get(name, 0)) for name in names)]
        for task, counts in analysis.fates.items()
    ]
    caption = f"{analysis.models} models in {analysis.cells} cells of the grid"
    return Sheet("What became of the models", ["task", "models", *names], rows, caption)


def _tally(one: Tally, names: Sequence[str]) -> list[str]:
    """Return a tally's row; a baseline, which has nothing to lose, has no fates."""
    choice = one.choice if one.solve is not None else f"{BASELINE}, {one.choice}"
    counts = [str(one.fates.get(name, 0)) if one.solve is not None else "" for name in names]
    return [f"{choice} ({one.models})", *counts, percent(one.easy), percent(one.hard)]


def _tallies(analysis: Analysis) -> list[Sheet]:
    caption = (
        "In brackets the models; mean accuracies at the last iteration over all of them (what failed counts as 0). The "
        f"normalizations {', '.join(BOUNDING)} bound the state."
    )
    sheets = []
    for task, groups in analysis.tallies.items():
        names = fate_columns(one.fates for group in groups.values() for one in group)
        for choice, group in groups.items():
            if choice != BASELINE:
                beside = groups.get(BASELINE, []) if choice == "recall" else []
                rows = [_tally(one, names) for one in [*group, *beside]]
                columns = [choice, *names, "easy % at the end", "hard % at the end"]
                sheets.append(Sheet(f"{task}, by {choice}", columns, rows, caption))
    return sheets


def _state_radii(analysis: Analysis) -> Sheet:
    rows = [
        [f"{task}, {one.choice}", number(one.state_radius)]
        for task, groups in analysis.tallies.items()
        for one in groups["recall"]
        if one.state_radius is not None
    ]
    return Sheet("The largest spectral radius of W_state", ["recall", "radius"], rows)


def _seeds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "failed"
    mean = percent(sum(known) / len(known))
    return f"{mean} ({', '.join('failed' if value is None else f'{100 * value:.0f}' for value in values)})"


def _in_words(fates: Mapping[str, int]) -> str:
    return ", ".join(f"{fates[fate.value]} {fate.value}" for fate in Fate if fate.value in fates)


def _cell(row: CellRow) -> str:
    return f"{row.recall}, {row.norm}, {row.learning_rate:g}, {row.iterations}"


def _cells(analysis: Analysis) -> list[Sheet]:
    sheets = []
    for task in analysis.fates:
        cells = [row for row in analysis.cells_table if row.task == task]
        first = "recall, normalization, learning rate, iterations"
        accuracies = [[_cell(row), *map(_seeds, (row.best, row.easy, row.hard)), _in_words(row.fates)] for row in cells]
        logged = [[_cell(row), *map(number, row.logged)] for row in cells if any(v is not None for v in row.logged)]
        sheets += [
            Sheet(
                f"{task}, by cell",
                [first, "best easy %", "easy % at the end", "hard % at the end", "fates"],
                accuracies,
                "Most iterations in training. Mean of the best and at the last iteration (every seed).",
            ),
            Sheet(
                f"{task}, what the paper logs, by cell",
                [first, *LOGGED],
                logged,
                "Medians over the seeds, after the trained iterations.",
            ),
        ]
    return sheets


def _model(row: ModelRow) -> list[str]:
    kind = f"{row.recall}, {row.norm}"
    return [str(row.iterations), str(row.seed), kind, *map(percent, (row.best, row.easy, row.kept)), row.fate.value]


def _models(analysis: Analysis) -> list[Sheet]:
    columns = ["seed", "recall, normalization", "best easy %", "easy % at the end", "kept %", "fate"]
    return [
        Sheet(
            f"{task}, model by model",
            [f"{task}: iterations in training", *columns],
            [_model(row) for row in analysis.models_table if row.task == task],
            "Kept: the accuracy at the end over the best.",
        )
        for task in dict.fromkeys(row.task for row in analysis.models_table)
    ]


def _swings(analysis: Analysis) -> Sheet:
    rows = [[one.run, one.task, percent(one.kept), percent(one.worst), one.fate.value] for one in analysis.swings]
    holding = sum(one.fate.holds for one in analysis.placed)
    caption = (
        f"{len(rows)} of {holding} models that hold would not by the lowest accuracy from iteration {LATE} on, as far as "
        "curves are kept: they swing, and the last iteration found them right."
    )
    columns = ["model", "task", "kept at the end %", f"least kept from {LATE} on %", "fate"]
    return Sheet("Models that hold by the luck of the last iteration", columns, rows, caption)


def models_tables(analysis: Analysis) -> list[Sheet]:
    """Return what became of the models, as tables."""
    return [
        _fates(analysis),
        *_tallies(analysis),
        _state_radii(analysis),
        *_models(analysis),
        _swings(analysis),
        *_cells(analysis),
    ]
