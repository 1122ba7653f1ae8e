"""A population's analysis as tables: forecasts and rivals, the paper's comparisons, guidance."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

from loopscope.reports.kit.formats import DASH, interval, interval_of, number, percent
from loopscope.reports.kit.sheet import Sheet
from loopscope.reports.models_tables import fate_columns, models_tables
from loopscope.reports.unseen_tables import unseen_tables
from loopscope.stability.verdict import PRIORS, Threshold
from loopscope.studies.clocks import MEDIAN_CLOCK
from loopscope.studies.guidance import Counted, Guidance
from loopscope.studies.prediction import IN_FULL, LEAPT, STANDING, Analysis
from loopscope.studies.thresholds import PRIOR_WORDS
from loopscope.studies.unseen import ALL, OnUnseen


def _performances(analysis: Analysis) -> list[Sheet]:
    rows = [
        [
            one.name,
            str(one.area.models),
            interval(one.area),
            number(one.hard.value),
            number(one.brier.value),
            percent(one.share),
        ]
        for one in analysis.performances
    ]
    framework = [one for one in analysis.performances if one.kind == "framework"]
    leads = [
        [one.name, one.rival, interval(one.ahead), str(one.ahead.models)]
        for one in framework
        if one.rival is not None and one.ahead is not None
    ]
    return [
        Sheet(
            "Forecasts, on easy problems",
            ["predictor", "models", "area for holding", "rank", "Brier", "% of running on"],
            rows,
            "From the trained iterations, but for leaps and what says otherwise. Area under the ROC curve, among models "
            "that solve their task, of which there are so many; of leaps on those that they were not made on. 95% intervals "
            "over cells. Several numbers: by a rule fitted on other cells. Rank: correlation with the hard accuracy, over "
            "all models. The last one: median over models of the share of the time.",
            [len(framework) - 1],
        ),
        Sheet(
            "Ahead of the best rival",
            ["predictor", "best rival that sees as much", "ahead", "models"],
            leads,
            "By how much the area is larger, on the same models and resamplings; the rival is the best on these models.",
        ),
    ]


def _calibration(analysis: Analysis) -> Sheet:
    rows = [
        [
            name,
            f"{percent(one.low)} to {percent(one.high)}",
            str(one.models),
            percent(one.forecast),
            percent(one.held),
        ]
        for name, bins in analysis.calibration.items()
        for one in bins
    ]
    return Sheet(
        "Calibration",
        ["predictor", "forecast %", "models", "mean forecast %", "held %"],
        rows,
        "The probability of holding, by a rule fitted on other cells, and how many of these models that solve did hold.",
        [last - 1 for last in accumulate(map(len, analysis.calibration.values()))],
    )


def _transfers(analysis: Analysis) -> Sheet:
    tasks = list(dict.fromkeys(one.task for one in analysis.transfers))
    fates = {task: [one.fate for one in analysis.placed if one.task == task and one.fate.solves] for task in tasks}
    found = {(one.name, one.task): interval_of(one.area, len(fates[one.task])) for one in analysis.transfers}
    names = dict.fromkeys(one.name for one in analysis.transfers)
    rows = [[name, *(found[name, task] for task in tasks)] for name in names]
    counted = {task: sum(fate.holds for fate in own) for task, own in fates.items()}
    heads = [f"{task} ({counted[task]} hold, {len(fates[task]) - counted[task]} do not)" for task in tasks]
    return Sheet(
        f"Across tasks: fitted on {analysis.source}",
        ["predictor", *heads],
        rows,
        "Area for holding, and of how many models, where not of all of these.",
    )


def _clocks(analysis: Analysis) -> Sheet:
    rows = [
        [one.name, one.among, str(one.octaves.models), interval(one.octaves), interval(one.gain)]
        for one in analysis.clocks
    ]
    caption = (
        f"{analysis.collapsed} models fall below half of their best after the trained iterations, {analysis.earlier} before. "
        f"Error: median, in octaves. Gain: by how much it is less than that of {MEDIAN_CLOCK} on the same models."
    )
    ends = [place for place, one in enumerate(analysis.clocks) if one.name == MEDIAN_CLOCK]
    return Sheet("When it is lost", ["told by", "among", "models", "error", "gain"], rows, caption, ends)


def _verdicts(analysis: Analysis) -> list[Sheet]:
    return [
        Sheet(
            f"The verdict, from {mode}, and what became of the models",
            ["it says" if mode == LEAPT else "verdict", *fate_columns(said.values())],
            [
                [verdict, *(str(counts.get(fate, 0)) for fate in fate_columns(said.values()))]
                for verdict, counts in sorted(said.items())
            ],
        )
        for mode, said in analysis.verdicts.items()
    ]


def _limits(threshold: Threshold | None) -> str:
    return DASH if threshold is None else f"{threshold.holds:.3g} / {threshold.fails:.3g}"


def _thresholds(analysis: Analysis) -> list[Sheet]:
    """Return what the models say of thresholds, number by number, and how verdicts come true under priors and fitted ones."""
    found = analysis.thresholds
    accuracies = [
        [
            one.measure,
            interval(one.prior),
            interval(one.held_out),
            interval(one.gain),
            "taken" if one.why_not is None else one.why_not,
        ]
        for one in found.numbers
    ]
    limits = [
        [one.measure, _limits(PRIORS[one.measure]), _limits(one.fitted), *map(number, one.other_half)]
        for one in found.numbers
    ]
    scores = [
        [one.mode, cells, one.thresholds, interval(one.balanced), percent(one.decided), percent(one.right)]
        for cells, group in (("all", found.verdicts), ("second half", found.other_half))
        for one in group
    ]
    said = [
        Sheet(
            f"The verdict, from {one.mode}, by thresholds: {one.thresholds}",
            ["verdict", *fate_columns(one.counts.values())],
            [
                [verdict, *(number(counts.get(fate, 0.0), 1) for fate in fate_columns(one.counts.values()))]
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
            ["number", "prior", "fitted on other cells", "gain", "taken or why not"],
            accuracies,
            "Balanced accuracy for holding, among models that solve their task and of which the number is known; what is "
            "not decided counts a half.",
        ),
        Sheet(
            "Thresholds fitted on half of the cells",
            ["number", "prior: holds / fails", "fitted: holds / fails", "prior on the other half", "fitted there"],
            limits,
            "The last two: balanced accuracy. A threshold that is taken belongs into the table of "
            f"loopscope.stability.verdict, with the origin: half of {found.population}.",
        ),
        Sheet(
            "How the verdict comes true",
            ["from", "cells", "thresholds", "balanced accuracy", "decided %", "right of these %"],
            scores,
            "Among models that solve their task. All but unstable, input-independent, fragile and undecided say that it holds.",
        ),
        *said,
    ]


def analysis_tables(analysis: Analysis) -> list[Sheet]:
    """Return everything that an analysis found, as tables."""
    return [
        *models_tables(analysis),
        *unseen_tables(analysis),
        *_performances(analysis),
        _calibration(analysis),
        *([_transfers(analysis)] if analysis.transfers else []),
        _clocks(analysis),
        *_verdicts(analysis),
        *_thresholds(analysis),
        *map(_advice, analysis.guidance),
    ]


def _advice(found: Guidance) -> Sheet:
    sheet = guidance_table(found)
    return replace(sheet, caption=f"{found.sentence} {sheet.caption}")


def _words_come_true(one: OnUnseen) -> str:
    counted = None if one.right is None else one.right[ALL]
    return "" if counted is None or not counted.models else f"  {one.name}: {counted.right} of {counted.models}"


def headline(analysis: Analysis) -> str:
    """Return what is reported first, in a few short lines: what came true, and how far ahead of rivals the framework is."""
    came_true = [line for one in analysis.unseen if (line := _words_come_true(one))]
    leads = [
        f"  {one.name}: {interval(one.ahead)}"
        for one in analysis.performances
        if one.ahead is not None and one.name in STANDING
    ]
    lines = [
        *(["What was said of unseen models that solve their task came true:", *came_true] if came_true else []),
        *(["Area under the curve, ahead of the best rival that sees as much:", *leads] if leads else []),
    ]
    return "\n".join(lines) or "Too few models of either outcome to compare the framework with its rivals."


def _counted(one: Counted) -> list[str]:
    counts = (one.models, one.solve, one.hold, one.extrapolate)
    return [one.choice, *map(str, counts), percent(one.sure), percent(one.hard)]


def guidance_table(found: Guidance) -> Sheet:
    """Return the counts behind a task's guidance."""
    groups = {**{f"{name}: ": group for name, group in found.by_choice.items()}, "": found.pairs}
    rows = [[f"{prefix}{row[0]}", *row[1:]] for prefix, group in groups.items() for row in map(_counted, group)]
    return Sheet(
        f"{found.task}: what solved and kept it",
        ["choice", "models", "solve", "hold", "extrapolate", "holds, at least %", "hard %"],
        rows,
        "At least: lower end of the 95% interval of the fraction that solves and holds.",
        [last - 1 for last in accumulate(map(len, groups.values()))],
    )
