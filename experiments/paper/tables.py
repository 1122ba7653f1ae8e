"""The tables: accuracy of each recall and normalization, with every seed, and what else the paper logs beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from experiments.paper.judgement import hard, judgement
from experiments.paper.runs import FOLLOWED, LONG, Run, by_study
from experiments.prediction.analysis.statistics import spearman
from loopscope.reports.kit.formats import DASH, number, percent
from loopscope.reports.kit.sheet import Sheet
from loopscope.reports.kit.styles import RECALLS

NORMS = ("outer", "pre", "peri", "sandwich", "gru")
"""Normalizations in the order of the paper's tables."""


def by_choice(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Group runs by recall and normalization, in the order of the paper, each group by seed.

    Runs with different learning rates are different groups, which are then named by their learning rate too.
    """
    known = list(runs)
    rates = sorted({run.learning_rate for run in known})
    ordered = sorted(
        known,
        key=lambda run: (RECALLS.index(run.choice[0]), NORMS.index(run.choice[1]), run.learning_rate, run.seed),
    )
    groups: dict[str, list[Run]] = {}
    for run in ordered:
        name = " + ".join(run.choice) + (f", {run.learning_rate:g}" if len(rates) > 1 else "")
        groups.setdefault(name, []).append(run)
    return groups


def _accuracies(runs: Sequence[Run], split: str, point: str) -> str:
    return ", ".join(percent(run.accuracy.get(split, {}).get(point)) for run in runs)


def comparison(study: str, runs: Sequence[Run]) -> Sheet:
    """Return the accuracy of a study's runs by split, after training and at iteration 500, every seed by itself.

    Args:
        study: name of the study.
        runs: its runs, which were all trained with the same number of iterations.
    """
    splits = list(dict.fromkeys(split for run in runs for split in run.accuracy))
    trained = str(runs[0].trained_iterations)
    columns = [
        "recall + normalization",
        "seeds",
        *(f"{split}, {point}" for split in splits for point in (trained, LONG)),
    ]
    rows = [
        [
            choice,
            ", ".join(str(run.seed) for run in group),
            *(_accuracies(group, split, point) for split in splits for point in (trained, LONG)),
        ]
        for choice, group in by_choice(runs).items()
    ]
    sizes = ", ".join(f"{split}: {max(run.examples.get(split, 0) for run in runs)}" for split in splits)
    caption = (
        f"Percent of whole answers right after {trained} and {LONG} iterations, one number per seed. Problems: {sizes}."
    )
    return Sheet(f"{study}: accuracy", columns, rows, caption)


def by_difficulty(study: str, runs: Sequence[Run], point: str) -> Sheet | None:
    """Return the accuracy in bands of difficulty, every seed by itself; None if the problems have no difficulty.

    Args:
        study: name of the study.
        runs: its runs, which were all evaluated on the same problems.
        point: number of iterations.
    """
    groups = by_choice(runs)
    bands = dict.fromkeys(
        (split, band.lowest, band.highest, band.examples)
        for run in runs
        for split, found in run.bands.items()
        for band in found
    )
    if not bands:
        return None

    def seeds(group: Sequence[Run], split: str, lowest: float) -> str:
        found = [{band.lowest: band.accuracy.get(point) for band in run.bands.get(split, [])} for run in group]
        return ", ".join(percent(one.get(lowest)) for one in found)

    rows = [
        [
            split,
            f"{lowest:g} to {highest:g}",
            str(examples),
            *(seeds(group, split, lowest) for group in groups.values()),
        ]
        for split, lowest, highest, examples in bands
    ]
    return Sheet(
        f"{study}: accuracy by difficulty at iteration {point}",
        ["split", "difficulty", "problems", *groups],
        rows,
        "Percent of whole answers right, one number per seed. Difficulty: guesses of a sudoku, rating of a chess puzzle.",
    )


def logged(study: str, runs: Sequence[Run]) -> Sheet:
    """Return the paper's measurements of accuracy and of the state, on the hardest split, one row per run."""
    hardest = list(runs[0].accuracy)[-1]
    rows = []
    for run in (run for group in by_choice(runs).values() for run in group):
        best, last = run.best.get(hardest), run.accuracy.get(hardest, {}).get(LONG)
        lost = None if best is None or last is None else best - last
        near = run.first_within_1_percent.get(hardest)
        states = (_significant(run.norm_ratio, 3), _significant(run.cosine, 5))
        rows.append([run.run, *map(percent, (best, last, lost)), DASH if near is None else str(near), *states])
    columns = [
        "run",
        "best %",
        f"at {LONG} %",
        "best minus last",
        "first within 1% of the best",
        "norm of the last iterate over the first",
        "cosine of the last two iterates",
    ]
    caption = (
        f"The first iterate is the state after one iteration. Norms and cosines are medians over {FOLLOWED} problems."
    )
    return Sheet(f"{study}: what the paper logs, {hardest}", columns, rows, caption)


def _significant(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}g}"


def radii(study: str, runs: Sequence[Run]) -> Sheet:
    """Return the radius of W_state, the radius of the Jacobian and what the examination says, every seed by itself."""
    columns = [
        "recall + normalization",
        "radius of W_state",
        "W_state / W_input",
        "radius of the Jacobian",
        "arrived %",
        "verdict",
    ]
    rows = []
    for choice, group in by_choice(runs).items():
        jacobian = ", ".join(
            DASH if run.radius is None else f"{run.radius:.3f}{'' if run.at_fixed_point else '*'}" for run in group
        )
        rows.append(
            [
                choice,
                ", ".join(number(run.state_radius) for run in group),
                ", ".join(number(run.recall_ratio) for run in group),
                jacobian,
                ", ".join(percent(run.arrived) for run in group),
                ", ".join(run.judged or DASH for run in group),
            ]
        )
    caption = (
        "One number per seed. The Jacobian is measured at the last states of some orbits, with those that arrived first. "
        "* not all of these had arrived."
    )
    return Sheet(f"{study}: radii and verdicts", columns, rows, caption)


def correlations(study: str, runs: Sequence[Run]) -> Sheet | None:
    """Return the rank correlation of each radius with hard accuracy over the runs with recall; None for fewer than three."""
    tested = [run for run in runs if len(run.accuracy) > 1]
    known = [run for run in tested if run.state_radius is not None and run.radius is not None]
    if len(known) < 3:
        return None
    right = np.array([hard(run) for run in known])
    radii_of = {
        "radius of W_state": [run.state_radius for run in known],
        "radius of the Jacobian": [run.radius for run in known],
    }
    rows = [[name, str(len(known)), number(spearman(np.array(values), right))] for name, values in radii_of.items()]
    return Sheet(
        f"{study}: radii and hard accuracy",
        ["radius", "runs", "rank correlation with hard accuracy"],
        rows,
        "Runs with recall. Hard accuracy: at iteration 500, the mean over the splits that were not trained on.",
    )


def cost(study: str, runs: Sequence[Run]) -> Sheet:
    """Return the time of each stage and the machines, per run."""
    rows = [
        [
            run.run,
            *(f"{run.seconds.get(stage, 0) / 60:.1f}" for stage in ("train", "evaluate", "examine")),
            ", ".join(run.machines),
        ]
        for group in by_choice(runs).values()
        for run in group
    ]
    return Sheet(f"{study}: minutes", ["run", "training", "evaluation", "examination", "machine"], rows)


def tables(runs: Sequence[Run]) -> list[Sheet]:
    """Return every table, study by study."""
    found: list[Sheet | None] = []
    for study, group in by_study(runs).items():
        points = (str(group[0].trained_iterations), LONG)
        difficult = [by_difficulty(study, group, point) for point in points]
        found += [comparison(study, group), *difficult]
        found += [make(study, group) for make in (logged, radii, correlations, cost, judgement)]
    return [sheet for sheet in found if sheet is not None]
