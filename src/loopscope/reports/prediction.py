"""A population's analysis as tables: forecasts and rivals, the paper's comparisons, guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from loopscope.models.residual import BOUNDING
from loopscope.reports.rows import DASH, number, percent
from loopscope.reports.sheet import Sheet
from loopscope.stability.verdict import PRIORS, Threshold
from loopscope.studies.guidance import Counted, Guidance
from loopscope.studies.outcomes import Fate
from loopscope.studies.prediction import IN_FULL, LOGGED, MEDIAN_CLOCK, STANDING, Analysis, CellRow
from loopscope.studies.statistics import Estimate
from loopscope.studies.tallies import Tally
from loopscope.studies.thresholds import PRIOR_WORDS


def shown(given: Estimate) -> str:
    """Return an estimate with its interval and how many models it stands on."""
    if given.value is None:
        return given.note or DASH
    within = "" if given.low is None else f" [{number(given.low)}, {number(given.high)}]"
    return f"{number(given.value)}{within} ({given.models})"


def _fates(analysis: Analysis) -> Sheet:
    names = [fate.value for fate in Fate]
    rows = [
        [task, str(sum(counts.values())), *(str(counts.get(name, 0)) for name in names)]
        for task, counts in analysis.fates.items()
    ]
    caption = f"{analysis.models} models in {analysis.cells} cells of the grid"
    return Sheet("What became of the models", ["task", "models", *names], rows, caption)


def _in_words(fates: Mapping[str, int]) -> str:
    return ", ".join(f"{fates[fate.value]} {fate.value}" for fate in Fate if fate.value in fates)


def _tally(one: Tally) -> list[str]:
    solve = DASH if one.solve is None else str(one.solve)
    means = [percent(one.easy), percent(one.hard)]
    return [one.choice, str(one.models), solve, _in_words(one.fates), *means, number(one.state_radius)]


def _tallies(analysis: Analysis) -> list[Sheet]:
    columns = ["models", "solve", "fates", "easy %", "hard %", "W_state"]
    caption = (
        "Mean accuracies at the last iteration, over all of a row's models (what failed counts as 0); the largest spectral "
        f"radius of W_state. The normalizations {', '.join(BOUNDING)} bound the state."
    )
    return [
        Sheet(f"{task}, by {choice}", [choice, *columns], list(map(_tally, group)), caption)
        for task, groups in analysis.tallies.items()
        for choice, group in groups.items()
    ]


def _performances(analysis: Analysis) -> Sheet:
    rows = [
        [
            one.name,
            shown(one.area),
            DASH if one.ahead is None else shown(one.ahead),
            shown(one.hard),
            shown(one.brier),
            number(one.seconds, 3),
            percent(one.share),
        ]
        for one in analysis.performances
    ]
    columns = [
        "predictor", "area for holding", "ahead", "rank with hard accuracy", "Brier", "seconds", "% of running on"
    ]  # fmt: skip
    framework = sum(one.kind == "framework" for one in analysis.performances)
    return Sheet(
        "Forecasts, from the trained iterations on easy problems",
        columns,
        rows,
        "Area under the ROC curve, among models that solve their task; 95% intervals over cells; in brackets the models. "
        "Several numbers: by a rule fitted on other cells. Ahead: by how much the area is larger than that of the best "
        f"rival that sees as much, {' or '.join(analysis.best_rivals.values()) or DASH}. The last two: medians over models.",
        [framework - 1],
    )


def _calibration(analysis: Analysis) -> list[Sheet]:
    return [
        Sheet(
            f"Calibration of {name}",
            ["forecast", "models", "mean forecast", "held"],
            [
                [
                    f"{number(one.low, 1)} to {number(one.high, 1)}",
                    str(one.models),
                    number(one.forecast),
                    number(one.held),
                ]
                for one in bins
            ],
        )
        for name, bins in analysis.calibration.items()
    ]


def _transfers(analysis: Analysis) -> Sheet:
    tasks = list(dict.fromkeys(one.task for one in analysis.transfers))
    found = {(one.name, one.task): shown(one.area) for one in analysis.transfers}
    names = dict.fromkeys(one.name for one in analysis.transfers)
    rows = [[name, *(found[name, task] for task in tasks)] for name in names]
    return Sheet(f"Across tasks: fitted on {analysis.source}", ["predictor", *tasks], rows, "Area for holding.")


def _clocks(analysis: Analysis) -> Sheet:
    rows = [[one.name, shown(one.octaves), shown(one.gain)] for one in analysis.clocks]
    caption = (
        f"{analysis.collapsed} models fall below half of their best after the trained iterations, {analysis.earlier} before. "
        f"Gain: by how much the error is less than that of {MEDIAN_CLOCK} on the same models."
    )
    return Sheet("When it is lost", ["told by", "median error, octaves", "gain"], rows, caption)


def _seeds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "failed"
    mean = percent(sum(known) / len(known))
    return f"{mean} ({', '.join('failed' if value is None else f'{100 * value:.0f}' for value in values)})"


def _cell(row: CellRow) -> list[str]:
    settings = f"{row.recall} {row.norm} {row.learning_rate:g} {row.iterations}"
    accuracies = [_seeds(values) for values in (row.best, row.easy, row.hard)]
    return [settings, *accuracies, *map(number, row.logged), _in_words(row.fates)]


def _cells(analysis: Analysis) -> list[Sheet]:
    columns = ["recall, norm, learning rate, iterations", "best easy %", "easy %", "hard %", *LOGGED, "fates"]
    caption = (
        "Most iterations in training. Mean of the best and at the last iteration (every seed); medians of what the paper logs, "
        "after the trained iterations."
    )
    return [
        Sheet(f"{task}, by cell", columns, [_cell(row) for row in analysis.cells_table if row.task == task], caption)
        for task in analysis.fates
    ]


def _verdicts(analysis: Analysis) -> list[Sheet]:
    fates = [fate.value for fate in Fate]
    return [
        Sheet(
            f"The verdict, from {mode}, and what became of the models",
            ["verdict", *fates],
            [[verdict, *(str(counts.get(fate, 0)) for fate in fates)] for verdict, counts in said.items()],
        )
        for mode, said in analysis.verdicts.items()
    ]


def _limits(threshold: Threshold | None) -> str:
    return DASH if threshold is None else f"{threshold.holds:.3g} / {threshold.fails:.3g}"


def _thresholds(analysis: Analysis) -> list[Sheet]:
    """Return what the models say of thresholds, number by number, and how verdicts come true under priors and fitted ones."""
    found = analysis.thresholds
    numbers = [
        [
            one.measure,
            _limits(PRIORS[one.measure]),
            shown(one.prior),
            shown(one.held_out),
            shown(one.gain),
            _limits(one.fitted),
            " and ".join(map(number, one.other_half)),
            "taken" if one.why_not is None else one.why_not,
        ]
        for one in found.numbers
    ]
    columns = [
        "number", "prior: holds / fails", "prior", "fitted on other cells", "gain", "fitted on half: holds / fails",
        "other half: prior and fitted", "taken or why not",
    ]  # fmt: skip
    scores = [
        [one.mode, cells, one.thresholds, shown(one.balanced), percent(one.decided), percent(one.right)]
        for cells, group in (("all", found.verdicts), ("second half", found.other_half))
        for one in group
    ]
    fates = [fate.value for fate in Fate]
    said = [
        Sheet(
            f"The verdict, from {one.mode}, by thresholds: {one.thresholds}",
            ["verdict", *fates],
            [
                [verdict, *(number(counts.get(fate, 0.0), 1) for fate in fates)]
                for verdict, counts in one.counts.items()
            ],
            "Means over the divisions of the cells.",
        )
        for one in found.verdicts
        if one.mode == IN_FULL and one.thresholds != PRIOR_WORDS
    ]
    return [
        Sheet(
            "Thresholds fitted on some cells and tested on others",
            columns,
            numbers,
            "Balanced accuracy for holding, among models that solve their task and of which the number is known; what is "
            "not decided counts a half. A threshold that is taken belongs into the table of "
            f"loopscope.stability.verdict, with the origin: half of {found.population}.",
        ),
        Sheet(
            "How the verdict comes true",
            ["from", "cells", "thresholds", "balanced accuracy", "decided %", "right of these %"],
            scores,
            "Among models that solve their task. Extrapolates, keeps its answer, path dependent and restless say that it holds.",
        ),
        *said,
    ]


def analysis_tables(analysis: Analysis) -> list[Sheet]:
    """Return everything that an analysis found, as tables."""
    tables = [_fates(analysis), *_tallies(analysis), _performances(analysis), *_calibration(analysis)]
    if analysis.transfers:
        tables.append(_transfers(analysis))
    return [*tables, _clocks(analysis), *_verdicts(analysis), *_thresholds(analysis), *_cells(analysis)]


def headline(analysis: Analysis) -> str:
    """Return how the framework compares with its best rival, in a line."""
    known = [one for one in analysis.performances if one.kind == "framework" and one.ahead is not None]
    if not known:
        return "Too few models of either outcome to compare the framework with its rivals."
    said = "; ".join(f"{one.name} {shown(one.ahead)}" for one in known if one.ahead and one.name in STANDING)
    return f"Area under the curve, ahead of the best rival that sees as much ({', '.join(analysis.best_rivals.values())}): {said}"


def _counted(one: Counted) -> list[str]:
    counts = (one.models, one.solve, one.hold, one.extrapolate)
    return [one.choice, *map(str, counts), percent(one.sure), percent(one.hard)]


def guidance_table(found: Guidance) -> Sheet:
    """Return the counts behind a task's guidance."""
    groups = {**{f"{name}: ": group for name, group in found.by_choice.items()}, "": found.pairs}
    rows = [[f"{prefix}{row[0]}", *row[1:]] for prefix, group in groups.items() for row in map(_counted, group)]
    return Sheet(
        found.task,
        ["choice", "models", "solve", "hold", "extrapolate", "holds, at least %", "hard %"],
        rows,
        "At least: lower end of the 95% interval of the fraction that solves and holds.",
        [last - 1 for last in accumulate(map(len, groups.values()))],
    )
