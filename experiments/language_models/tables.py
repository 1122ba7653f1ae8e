"""Tables of forecasts against outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean, median

from experiments.forecasts.tables import counted
from experiments.language_models.outcomes import HORIZONS, Outcome, outcome, running_on
from experiments.language_models.population import LEARNED, POPULATIONS, Forecasted, Row
from loopscope.forecasts import Outlook
from loopscope.reports.kit.sheet import Sheet

KEEPS, CANNOT_TELL = Outlook.KEEPS.value, Outlook.CANNOT_TELL.value
FURTHER = 2
"""The rival runs on to this many times the most loops of training."""


@dataclass(frozen=True)
class Case:
    """A model and a horizon: what was said, and what happened."""

    row: Row
    said: Forecasted

    @property
    def outcome(self) -> Outcome:
        """What happened."""
        return outcome(self.row.accuracy, self.said.horizon)

    @property
    def decided(self) -> bool:
        """Whether the forecast is other than "cannot tell"."""
        return self.said.outlook != CANNOT_TELL

    @property
    def right(self) -> bool:
        """Whether the forecast is decided and came true."""
        return self.decided and (self.said.outlook == KEEPS) == self.outcome.keeps

    def run_to(self, loops: int) -> bool:
        """Return whether running on to some loops says that the model keeps its answers."""
        return running_on(self.row.accuracy, min(loops, self.said.horizon))


def cases(rows: Iterable[Row], forecasts: Iterable[Forecasted]) -> list[Case]:
    """Return the forecasts of the models that count, each with its model."""
    of = {row.training: row for row in rows if row.counts}
    return [Case(of[said.training], said) for said in forecasts if said.training in of]


def _verdicts(some: Sequence[Case], says: Callable[[Case], bool | None]) -> list[str]:
    """Return how many are decided, and how many of these are right: of all, of "keeps", of "collapses"."""
    pairs = [(said, case.outcome.keeps) for case in some if (said := says(case)) is not None]
    cells = [counted(len(pairs), len(some)), counted(sum(said == kept for said, kept in pairs), len(pairs))]
    for outlook in (True, False):
        such = [kept == outlook for said, kept in pairs if said == outlook]
        cells.append(f"{sum(such)} of {len(such)}")
    return cells


def _forecast(case: Case) -> bool | None:
    return case.said.outlook == KEEPS if case.decided else None


def _run_on(case: Case) -> bool:
    return case.run_to(FURTHER * case.row.training.loops)


def _run_as_long(case: Case) -> bool:
    return case.run_to(case.said.steps)


def _cost(steps: Iterable[int], horizon: int) -> str:
    return f"{100 * mean(min(one, horizon) for one in steps) / horizon:.0f}"


COLUMNS = [
    "loops asked about",
    "what says it",
    "decided",
    "right of decided",
    '"keeps" right',
    '"collapses" right',
    "cost, %",
]


def against_outcomes(found: Sequence[Case], title: str) -> Sheet:
    """Return how often the forecast and its rivals were right, by horizon."""
    lines = []
    for horizon in HORIZONS:
        some = [case for case in found if case.said.horizon == horizon]
        if not some:
            continue
        kept = sum(case.outcome.keeps for case in some)
        twice = [FURTHER * case.row.training.loops for case in some]
        spent = [case.said.steps for case in some]
        name = f"{horizon} ({kept} keep, {len(some) - kept} collapse)"
        lines += [
            [name, "forecast", *_verdicts(some, _forecast), _cost(spent, horizon)],
            ["", "running on to 2k", *_verdicts(some, _run_on), _cost(twice, horizon)],
            ["", "running on at the cost of the forecast", *_verdicts(some, _run_as_long), _cost(spent, horizon)],
        ]
    return Sheet(
        title,
        COLUMNS,
        lines,
        "k: most loops in training. Intervals: 95%, Wilson. Cost: mean share of the loops of running to the horizon. "
        + clock(found),
    )


def clock(found: Sequence[Case]) -> str:
    """Return a sentence on how far the forecast loop of a collapse is from the true one."""
    off = [
        abs(case.said.collapse - case.outcome.onset)
        for case in found
        if case.said.collapse is not None and case.outcome.onset is not None
    ]
    if not off:
        return "No collapse was forecast."
    return (
        f"Collapses are forecast to within {median(off):.0f} loops in the median of {len(off)}, {max(off):.0f} at most."
    )


def late(found: Sequence[Case]) -> Sheet:
    """Return what was said of the models that lost their answers only after a rival had stopped looking."""
    rivals = (("2k loops", _run_on), ("as many loops as the forecast takes steps", _run_as_long))
    lines = []
    for horizon, (name, unsuspecting) in product(HORIZONS, rivals):
        lost = [case for case in found if case.said.horizon == horizon and not case.outcome.keeps]
        said = [_forecast(case) for case in lost if unsuspecting(case)]
        counts = (len(said), said.count(False), said.count(None), said.count(True))
        lines.append([str(horizon), name, *map(str, counts)])
    columns = ["loops asked about", "lost after", "models", "foreseen", "cannot tell", '"keeps" said']
    return Sheet("Answers lost late", columns, lines)


def by_setting(rows: Sequence[Row]) -> Sheet:
    """Return how many models learned their task, and how many of these keep it, by setting."""
    settings = list(dict.fromkeys(_setting(row) for row in rows))
    lines = []
    for setting in settings:
        some = [row for row in rows if _setting(row) == setting]
        learned = [row for row in some if row.counts]
        kept = [str(sum(outcome(row.accuracy, horizon).keeps for row in learned)) for horizon in HORIZONS]
        lines.append([*setting, str(len(some)), str(len(learned)), *kept])
    columns = [
        "model",
        "input enters",
        "loops in training",
        "models",
        "learned",
        *(f"keep at {one}" for one in HORIZONS),
    ]
    return Sheet(
        "Models", columns, lines, f"Learned: at least {100 * LEARNED:.0f}% of the characters right after k loops."
    )


def _setting(row: Row) -> tuple[str, str, str]:
    return row.training.model, f"{row.training.input} loop", row.training.schedule


def mistakes(found: Sequence[Case]) -> Sheet:
    """Return the forecasts that were wrong or could not tell."""
    lines = [
        [
            case.said.training.name,
            str(case.said.horizon),
            case.said.outlook,
            "-" if case.said.collapse is None else f"{case.said.collapse:.0f}",
            f"{100 * case.outcome.retained:.0f}",
            "-" if case.outcome.onset is None else str(case.outcome.onset),
        ]
        for case in found
        if not case.right
    ]
    columns = ["model", "loops asked about", "forecast", "collapse forecast", "left, %", "collapse"]
    return Sheet("Wrong or undecided", columns, lines)


def tables(rows: Sequence[Row], forecasts: Sequence[Forecasted]) -> list[Sheet]:
    """Return every table."""
    found = cases(rows, forecasts)
    made = [by_setting(rows)]
    for name, population in POPULATIONS.items():
        members = set(population.trainings())
        some = [case for case in found if case.row.training in members]
        made.append(against_outcomes(some, f"Forecasts against outcomes, {name} test"))
    return [*made, against_outcomes(found, "Forecasts against outcomes, both tests"), late(found), mistakes(found)]
