"""The tables: accuracy of each recall and normalization, with every seed, and the radii beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.paper.runs import Run
from loopscope.reports.kit.formats import DASH
from loopscope.reports.kit.sheet import Sheet

RECALLS = ("internal", "external", "none")
NORMS = ("outer", "pre", "peri", "sandwich", "gru")
LONG = "500"
"""The number of iterations at which the paper reports accuracy."""


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}"


def by_choice(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Group runs by recall and normalization, in the order of the paper, each group by seed."""
    ordered = sorted(runs, key=lambda run: (RECALLS.index(run.choice[0]), NORMS.index(run.choice[1]), run.seed))
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in ordered:
        groups.setdefault(run.choice, []).append(run)
    return groups


def _accuracies(runs: Sequence[Run], split: str, point: str) -> str:
    return ", ".join(_percent(run.accuracy.get(split, {}).get(point)) for run in runs)


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
            " + ".join(choice),
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


def _each(values: Sequence[float | None], digits: int) -> str:
    return ", ".join(DASH if value is None else f"{value:.{digits}f}" for value in values)


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
                " + ".join(choice),
                _each([run.state_radius for run in group], 2),
                _each([run.recall_ratio for run in group], 2),
                jacobian,
                ", ".join(_percent(run.arrived) for run in group),
                ", ".join(run.verdict or DASH for run in group),
            ]
        )
    caption = "One number per seed. * not every state had arrived at a fixed point."
    return Sheet(f"{study}: radii and verdicts", columns, rows, caption)


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
    studies: dict[str, list[Run]] = {}
    for run in runs:
        studies.setdefault(run.study, []).append(run)
    return [make(study, group) for study, group in studies.items() for make in (comparison, radii, cost)]
