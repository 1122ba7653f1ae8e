"""Tables of outcomes: by task, by design choice, by configuration, and model by model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from experiments.prediction.analysis import Analysis
from experiments.prediction.analysis.breakdowns import BASELINE, Group
from experiments.prediction.analysis.configurations import LOGGED, ConfigurationRow, ModelRow
from experiments.prediction.analysis.fluctuations import LATE
from experiments.prediction.analysis.outcomes import Outcome
from loopscope.models.residual import BOUNDING
from loopscope.reports.kit.formats import number, percent
from loopscope.reports.kit.sheet import Sheet


def outcome_columns(counts: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the outcomes that are columns of a table: all of them, but "failed" only where training failed."""
    failed = any(Outcome.FAILED.value in one for one in counts)
    return [outcome.value for outcome in Outcome if failed or outcome is not Outcome.FAILED]


def _by_task(analysis: Analysis) -> Sheet:
    names = outcome_columns(analysis.outcomes.values())
    rows = [
        [task, str(sum(counts.values())), *(str(counts.get(name, 0)) for name in names)]
        for task, counts in analysis.outcomes.items()
    ]
    caption = f"{analysis.models} models in {analysis.configurations} configurations"
    return Sheet("Outcomes", ["task", "models", *names], rows, caption)


def _group_row(one: Group, names: Sequence[str]) -> list[str]:
    """Return the row of a group; a baseline, which has no iterations to degrade over, has no outcomes."""
    choice = one.choice if one.solve is not None else f"{BASELINE}, {one.choice}"
    counts = [str(one.outcomes.get(name, 0)) if one.solve is not None else "" for name in names]
    return [f"{choice} ({one.models})", *counts, percent(one.easy), percent(one.hard)]


def _breakdowns(analysis: Analysis) -> list[Sheet]:
    caption = (
        "Number of models in brackets. Mean accuracies at the last iteration are over all of them; a failed model counts "
        f"as 0. The normalizations {', '.join(BOUNDING)} bound the state."
    )
    sheets = []
    for task, groups in analysis.breakdowns.items():
        names = outcome_columns(one.outcomes for group in groups.values() for one in group)
        for choice, group in groups.items():
            if choice != BASELINE:
                beside = groups.get(BASELINE, []) if choice == "recall" else []
                rows = [_group_row(one, names) for one in [*group, *beside]]
                columns = [choice, *names, "easy % at the end", "hard % at the end"]
                sheets.append(Sheet(f"{task}, by {choice}", columns, rows, caption))
    return sheets


def _state_radii(analysis: Analysis) -> Sheet:
    rows = [
        [f"{task}, {one.choice}", number(one.state_radius)]
        for task, groups in analysis.breakdowns.items()
        for one in groups["recall"]
        if one.state_radius is not None
    ]
    return Sheet("Largest spectral radius of W_state", ["recall", "radius"], rows)


def _seeds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "failed"
    mean = percent(sum(known) / len(known))
    return f"{mean} ({', '.join('failed' if value is None else f'{100 * value:.0f}' for value in values)})"


def _in_words(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{outcomes[one.value]} {one.value}" for one in Outcome if one.value in outcomes)


def _configuration(row: ConfigurationRow) -> str:
    return f"{row.recall}, {row.norm}, {row.learning_rate:g}, {row.iterations}"


def _configurations(analysis: Analysis) -> list[Sheet]:
    sheets = []
    for task in analysis.outcomes:
        found = [row for row in analysis.configuration_rows if row.task == task]
        first = "recall, normalization, learning rate, iterations"
        accuracies = [
            [_configuration(row), *map(_seeds, (row.best, row.easy, row.hard)), _in_words(row.outcomes)]
            for row in found
        ]
        logged = [
            [_configuration(row), *map(number, row.logged)]
            for row in found
            if any(value is not None for value in row.logged)
        ]
        sheets += [
            Sheet(
                f"{task}, by configuration",
                [first, "best easy %", "easy % at the end", "hard % at the end", "outcomes"],
                accuracies,
                "Iterations: the most in training. Accuracies: mean over the seeds, with every seed in brackets.",
            ),
            Sheet(
                f"{task}, what the paper logs, by configuration",
                [first, *LOGGED],
                logged,
                "Medians over the seeds, after the trained iterations.",
            ),
        ]
    return sheets


def _model(row: ModelRow) -> list[str]:
    kind = f"{row.recall}, {row.norm}"
    accuracies = map(percent, (row.best, row.easy, row.retained))
    return [str(row.iterations), str(row.seed), kind, *accuracies, row.outcome.value]


def _models(analysis: Analysis) -> list[Sheet]:
    columns = ["seed", "recall, normalization", "best easy %", "easy % at the end", "retained %", "outcome"]
    return [
        Sheet(
            f"{task}, model by model",
            [f"{task}: iterations in training", *columns],
            [_model(row) for row in analysis.model_rows if row.task == task],
            "Retained: accuracy at the end over the best.",
        )
        for task in dict.fromkeys(row.task for row in analysis.model_rows)
    ]


def _fluctuations(analysis: Analysis) -> Sheet:
    rows = [
        [one.run, one.task, percent(one.retained), percent(one.lowest), one.outcome.value]
        for one in analysis.fluctuations
    ]
    retaining = sum(one.outcome.retains for one in analysis.points)
    caption = (
        f"{len(rows)} of {retaining} models that retain their accuracy would not by their lowest accuracy from iteration "
        f"{LATE} on, as far as curves are kept. Their accuracy oscillates, and was high at the last iteration."
    )
    columns = ["model", "task", "retained at the end %", f"lowest retained from {LATE} on %", "outcome"]
    return Sheet("Models that retain their accuracy only at the last iteration", columns, rows, caption)


def outcome_tables(analysis: Analysis) -> list[Sheet]:
    """Return the tables of outcomes."""
    return [
        _by_task(analysis),
        *_breakdowns(analysis),
        _state_radii(analysis),
        *_models(analysis),
        _fluctuations(analysis),
        *_configurations(analysis),
    ]
