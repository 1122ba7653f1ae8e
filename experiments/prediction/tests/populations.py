"""Models that were made up so that what a population says of them is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from loopscope.studies.outcomes import Compared, outcomes
from loopscope.studies.population import Member, ThinCurve
from loopscope.studies.signals import EASY_ACCURACY, LAST_RESIDUAL, LONG_RUN, STATE_RADIUS
from loopscope.studies.statistics import numbered

ITERATIONS = [1, 10, 20, 40, 80, 160, 320, 500]


def curve(*accuracy: float) -> ThinCurve:
    best = max(accuracy)
    return ThinCurve(100, ITERATIONS, list(accuracy), best, ITERATIONS[accuracy.index(best)], accuracy[-1], 0.0)


def made(
    run: str,
    easy: ThinCurve | None,
    hard: float = 0.0,
    *,
    task: str = "prefix-sums",
    recall: str = "internal",
    norm: str = "outer",
    rate: float = 1e-3,
    seed: int = 0,
    iterations: int = 20,
    study: str = "s",
    radius: float | None = 0.9,
    residual: float = 1e-3,
    **signals: float,
) -> Member:
    """Return a member whose forecast numbers are those of ``radius`` and ``residual`` alone."""
    return Member(
        study=study,
        run=run,
        status="failed" if easy is None else "finished",
        settings={
            "task": task,
            "model": {"recall": recall, "norm": norm},
            "training": {"learning_rate": rate, "seed": seed, "max_iterations": iterations},
        },
        seconds={"train": 1.0},
        error="diverged" if easy is None else None,
        curves={} if easy is None else {"easy": easy, "hard": curve(*[hard] * len(ITERATIONS))},
        examined={},
        forecast={} if easy is None else {
            "verdict": "unknown",
            "axes": {"reachability": "holds", "input-dependence": "unknown", "geometry": "fails"},
            "residual": [0.1, residual],
            "radius": radius,
            "seconds": {"orbits": 1.0, "spectrum": 2.0, "total": 4.0},
        },
        signals={name: {"value": value, "seconds": 0.5} for name, value in signals.items()},
    )  # fmt: skip


KEEPS = curve(0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
LOSES = curve(0.1, 0.5, 1.0, 1.0, 0.7, 0.4, 0.0, 0.0)
NEVER = curve(0.0, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1)


def baseline(easy: ThinCurve, hard: float, task: str = "prefix-sums") -> Member:
    member = made("b", easy, hard, task=task, recall="none", norm="pre")
    model = {**member.settings["model"], "architecture": "fixed-depth", "blocks": 15}
    return replace(member, settings={**member.settings, "model": model}, forecast={}, signals={})


def population(tasks: tuple[str, ...] = ("prefix-sums",)) -> list[Member]:
    """Return models that hold where their radius is below 1; the residual is the same for all, easy accuracy noise.

    Of those that lose, the iteration of collapse doubles with each tenth that the radius is nearer to 1.
    """
    generator = np.random.default_rng(3)
    members = []
    for task in tasks:
        for cell in range(24):
            for seed in range(2):
                holds = cell % 2 == 0
                place = cell % 8 // 2
                radius = 0.7 + 0.05 * place if holds else 1.1 + 0.1 * place
                fallen = [0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
                if not holds:
                    fallen[6 - place :] = [0.0] * (2 + place)
                members.append(
                    made(
                        f"{task}{cell}-{seed}",
                        KEEPS if holds else curve(*fallen),
                        0.9 if holds else 0.0,
                        task=task,
                        norm="outer" if holds else "pre",
                        rate=1e-3 * (1 + cell),
                        seed=seed,
                        radius=radius + 0.01 * generator.random(),
                        **{
                            LAST_RESIDUAL: 1e-3,
                            EASY_ACCURACY: generator.random(),
                            LONG_RUN: float(holds),
                            STATE_RADIUS: round(radius if seed else 2 - radius, 6),
                        },
                    )
                )
    return members


def compared(members: list[Member]) -> Compared:
    """Return members with what became of them, and no divisions: nothing is fitted."""
    return Compared(members, outcomes(members), numbered([member.cell for member in members]), [])
