"""Made-up models, so that what a population says about them is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experiments.prediction.__main__ import main
from experiments.prediction.analysis.outcomes import Sample, results_of
from experiments.prediction.analysis.statistics import numbered
from experiments.prediction.population import Member, ThinCurve
from experiments.prediction.signals import (
    EASY_ACCURACY,
    FORECAST,
    FORECAST_ANSWER,
    FORECAST_KEPT,
    FORECAST_LEAST,
    FORECAST_MOST,
    FORECAST_STEPS,
    LAST_RESIDUAL,
    LONG_RUN,
    SAME_STEPS,
    STATE_RADIUS,
)
from loopscope.forecasts.result import Outlook

ITERATIONS = [1, 10, 20, 40, 80, 160, 320, 500]


def refusal(capsys, arguments):
    """Return the one line that a command of the experiment prints when it refuses its input."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("experiments.prediction: ")
    return line


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
    **signals: float | None,
) -> Member:
    """Return a member whose numbers in prediction mode are those of ``radius`` and ``residual`` alone."""
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
        examination={},
        prediction_mode={} if easy is None else {
            "verdict": "unknown",
            "axes": {"reachability": "holds", "input-dependence": "unknown", "geometry": "fails"},
            "residual": [0.1, residual],
            "radius": radius,
            "seconds": {"orbits": 1.0, "spectrum": 2.0, "total": 4.0},
        },
        signals={name: {"value": value, "seconds": 0.5} for name, value in signals.items()},
    )  # fmt: skip


RETAINED = curve(0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
DEGRADED = curve(0.1, 0.5, 1.0, 1.0, 0.7, 0.4, 0.0, 0.0)
UNLEARNED = curve(0.0, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1)


KEEPS, COLLAPSES, CANNOT_TELL = Outlook.KEEPS, Outlook.COLLAPSES, Outlook.CANNOT_TELL


def said(answer: Outlook, steps: int = 60, run: float = 1.0, end: float = 1.0) -> dict[str, float | None]:
    """Return the signals of a forecast.

    Args:
        answer: the answer. An undecided forecast expects 0.92 to be left, between 0.8 and 0.95.
        steps: the steps that it took.
        run: the accuracy left after running on for as many.
        end: the accuracy left after running on to the end.
    """
    least, kept, most = {KEEPS: (1.0, 1.0, 1.0), COLLAPSES: (0.0, 0.1, 0.2), CANNOT_TELL: (0.8, 0.92, 0.95)}[answer]
    return {
        FORECAST: None if answer is CANNOT_TELL else float(answer is KEEPS),
        FORECAST_LEAST: least,
        FORECAST_KEPT: kept,
        FORECAST_MOST: most,
        FORECAST_ANSWER: kept,
        FORECAST_STEPS: float(steps),
        SAME_STEPS: run,
        LONG_RUN: end,
    }


def baseline(easy: ThinCurve, hard: float, task: str = "prefix-sums") -> Member:
    member = made("b", easy, hard, task=task, recall="none", norm="pre")
    model = {**member.settings["model"], "architecture": "fixed-depth", "blocks": 15}
    return replace(member, settings={**member.settings, "model": model}, prediction_mode={}, signals={})


def population(tasks: tuple[str, ...] = ("prefix-sums",)) -> list[Member]:
    """Return models that retain their accuracy if their radius is below 1. Residuals are equal, easy accuracy is noise.

    For those that do not, the iteration of collapse doubles with each tenth that the radius is nearer to 1.
    """
    generator = np.random.default_rng(3)
    members = []
    for task in tasks:
        for configuration in range(24):
            for seed in range(2):
                retains = configuration % 2 == 0
                place = configuration % 8 // 2
                radius = 0.7 + 0.05 * place if retains else 1.1 + 0.1 * place
                fallen = [0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
                if not retains:
                    fallen[6 - place :] = [0.0] * (2 + place)
                members.append(
                    made(
                        f"{task}{configuration}-{seed}",
                        RETAINED if retains else curve(*fallen),
                        0.9 if retains else 0.0,
                        task=task,
                        norm="outer" if retains else "pre",
                        rate=1e-3 * (1 + configuration),
                        seed=seed,
                        radius=radius + 0.01 * generator.random(),
                        **{
                            LAST_RESIDUAL: 1e-3,
                            EASY_ACCURACY: generator.random(),
                            LONG_RUN: float(retains),
                            STATE_RADIUS: round(radius if seed else 2 - radius, 6),
                        },
                    )
                )
    return members


def sample(members: list[Member]) -> Sample:
    """Return members with their results and no divisions: nothing is fitted."""
    return Sample(members, results_of(members), numbered([member.configuration for member in members]), [])
