"""The statements of criterion.md, judged by the runs of one study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from experiments.paper.runs import LONG, Run
from loopscope.forecasts.result import HOLDS
from loopscope.reports.kit.sheet import Sheet
from loopscope.stability import Verdict

MIN_GAP = 0.05
"""Smallest difference of hard accuracies that counts."""
SUBSTANTIAL = 0.1
"""Smallest difference that counts as substantially better."""
YES, NO, CANNOT_TELL = "yes", "no", "cannot tell"
KEEPING = {Verdict.STABLE.value: True, Verdict.STABLE_AND_ACCURATE.value: True, Verdict.UNSTABLE.value: False}
"""Whether a verdict says that a run keeps its accuracy, for the verdicts that are judged."""


@dataclass(frozen=True)
class Judged:
    """One statement.

    Args:
        statement: the statement.
        found: what was measured, in words.
        agrees: yes, no or cannot tell.
    """

    statement: str
    found: str
    agrees: str


def hard(run: Run) -> float:
    """Return the mean accuracy at iteration 500 over the splits that were not trained on."""
    return mean(split[LONG] for split in list(run.accuracy.values())[1:])


def kept(run: Run) -> float:
    """Return the easy accuracy at iteration 500 over its best; 0 if nothing is ever right."""
    easy, best = next(iter(run.accuracy.values()))[LONG], next(iter(run.best.values()))
    return easy / best if best > 0 else 0.0


def _by_seed(runs: Sequence[Run], recall: str, norm: str) -> dict[int, Run]:
    return {run.seed: run for run in runs if run.choice == (recall, norm)}


def _gaps(better: dict[int, Run], worse: dict[int, Run]) -> list[float]:
    # Rounded, so that a gap of exactly 5 points counts in spite of floating point.
    return [round(hard(better[seed]) - hard(worse[seed]), 9) for seed in sorted(better.keys() & worse.keys())]


def _told(gaps: Sequence[float], least: float) -> str:
    if all(gap >= least for gap in gaps):
        return YES
    return NO if all(gap <= -MIN_GAP for gap in gaps) else CANNOT_TELL


def _points(gaps: Sequence[float]) -> str:
    return ", ".join(f"{100 * gap:+.1f}" for gap in gaps)


def _comparisons(runs: Sequence[Run]) -> Iterator[Judged]:
    pairs = [
        *(
            (f"{recall} recall solves more than no recall, {norm}", (recall, norm), ("none", norm), MIN_GAP)
            for norm in ("outer", "pre")
            for recall in ("internal", "external")
        ),
        ("internal recall solves more with outer than with pre", ("internal", "outer"), ("internal", "pre"), MIN_GAP),
        (
            "internal recall solves at least 10 points more than external recall, outer",
            ("internal", "outer"),
            ("external", "outer"),
            SUBSTANTIAL,
        ),
        ("external recall solves more than internal recall, pre", ("external", "pre"), ("internal", "pre"), MIN_GAP),
    ]
    for statement, better, worse, least in pairs:
        if gaps := _gaps(_by_seed(runs, *better), _by_seed(runs, *worse)):
            yield Judged(statement, f"{_points(gaps)} points", _told(gaps, least))


def _keeping(runs: Sequence[Run]) -> Iterator[Judged]:
    for recall in ("internal", "external"):
        shares = [kept(run) for _, run in sorted(_by_seed(runs, recall, "outer").items())]
        if shares:
            found = ", ".join(f"{100 * share:.0f}%" for share in shares)
            agrees = YES if min(shares) >= HOLDS else NO
            yield Judged(f"{recall} recall with outer keeps 90% of its best easy accuracy", f"{found} kept", agrees)
    said = [(KEEPING[run.judged], kept(run) >= HOLDS) for run in runs if run.judged in KEEPING]
    if said:
        right = sum(says == did for says, did in said)
        found = f"{right} of {len(said)} runs with such a verdict"
        yield Judged("stable runs keep it, unstable runs do not", found, YES if right == len(said) else NO)


def judgement(study: str, runs: Sequence[Run]) -> Sheet:
    """Return the statements of the criterion that a study's runs can judge.

    Args:
        study: name of the study.
        runs: its runs, evaluated to iteration 500.
    """
    rows = [[one.statement, one.found, one.agrees] for one in (*_comparisons(runs), *_keeping(runs))]
    caption = (
        "One number per seed. Hard accuracy: whole answers right at iteration 500, on the mean over the splits that were not "
        "trained on. A difference counts if it is at least 5 points in every seed, with the same sign."
    )
    return Sheet(f"{study}: the statements of the criterion", ["statement", "found", "agrees"], rows, caption)
