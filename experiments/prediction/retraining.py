"""Train some models of a population again by the settings in their rows, and compare the accuracies."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.prediction.population import Member, ThinCurve, member
from loopscope.errors import LoopscopeError, check_positive
from loopscope.files import drop_leftovers, make_folder, read_json_as, vacant, write_json
from loopscope.studies import PlannedRun, Record, StudyPlan
from loopscope.studies.machine import this_machine
from loopscope.training.settings import settings_from


@dataclass(frozen=True)
class Comparison:
    """A row of the ledger beside the model that was trained again by its settings.

    Args:
        study: study of the row.
        run: run of the row.
        machines: the machines that the row's model was trained on; empty if unknown.
        differences: largest difference of accuracy by split, in points: over the iterations that the row keeps, the best
            and the last. Empty if there are not two curves.
        last: the same at the last iteration alone, which decides the outcome.
        exact: whether everything that the row says about accuracy is the same, or both failed in the same way.
        note: how the two ended, if at least one of them was not trained.
    """

    study: str
    run: str
    machines: list[str]
    differences: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    exact: bool = False
    note: str = ""

    def within(self, tolerance: float) -> bool:
        """Return whether the two are exactly the same, or differ nowhere by more than ``tolerance`` points."""
        return self.exact or (bool(self.differences) and max(self.differences.values()) <= tolerance)


@dataclass(frozen=True)
class Retraining:
    """Models that were trained again.

    Args:
        ledger: file of the population.
        machine: the machine that they were trained on again.
        tolerance: points of accuracy that do not count as a difference.
        unfinished: names of the runs that are still to be done.
        runs: comparisons of the runs that ended.
    """

    ledger: str
    machine: str
    tolerance: float
    unfinished: list[str]
    runs: list[Comparison]

    @property
    def exact(self) -> int:
        """Number of models that are exactly the same."""
        return sum(one.exact for one in self.runs)

    @property
    def within(self) -> int:
        """Number of models within the tolerance, including those that are exactly the same."""
        return sum(one.within(self.tolerance) for one in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, including the counts."""
        return {"exact": self.exact, "within": self.within, **asdict(self)}


def name_of(row: Member) -> str:
    """Return the name of a row's run among the runs of all studies, which is also its folder.

    Raises:
        LoopscopeError: the name would lead out of the folder of the study.
    """
    for part in (row.study, row.run):
        if not part or part == ".." or Path(part).name != part:
            raise LoopscopeError(
                f"a row of the ledger names the run {row.run!r} of the study {row.study!r}, expected names of folders: "
                "collect the study again"
            )
    return f"{row.study}/{row.run}"


def pick(members: Sequence[Member], runs: int, seed: int) -> dict[str, Member]:
    """Return some rows at random, by name, in the order of the ledger.

    Args:
        members: all rows.
        runs: number of rows to pick.
        seed: seed of the choice. The same seed picks the same rows of the same ledger.

    Raises:
        LoopscopeError: ``runs`` is below 1, there are fewer rows, or two of the picked rows are of the same run.
    """
    check_positive(runs=runs)
    if runs > len(members):
        raise LoopscopeError(f"{runs} runs were requested, but the ledger holds {len(members)}: give a smaller --runs")
    rows = [members[place] for place in sorted(random.Random(seed).sample(range(len(members)), runs))]
    picked = {name_of(row): row for row in rows}
    if len(picked) < runs:
        raise LoopscopeError("the ledger holds a run twice: remove one of its lines")
    return picked


def retraining_plan(picked: Mapping[str, Member], ledger: Path) -> StudyPlan:
    """Return a study that trains and evaluates the models of some rows, and measures nothing else.

    Raises:
        LoopscopeError: the settings of a row are refused.
    """
    runs = []
    for name, row in picked.items():
        try:
            runs.append(PlannedRun(name, settings_from(row.settings)))
        except LoopscopeError as error:
            raise LoopscopeError(f"{ledger}, run {name}: {error}") from error
    return StudyPlan(
        name="retrained",
        title=f"{len(runs)} models of {ledger}, trained again",
        varied=(),
        runs=tuple(runs),
        examination=None,
        workers=1,
        source=ledger,
    )


def claim(folder: Path, plan: StudyPlan) -> None:
    """Note in a folder which runs are trained again there.

    Raises:
        LoopscopeError: the folder holds something else, or other runs.
    """
    note, names = folder / "plan.json", [run.name for run in plan.runs]
    if note.is_file():
        if read_json_as(note, list[str], f"choose another --out, or remove {folder} with its runs") != names:
            raise LoopscopeError(
                f"{folder} holds other runs: give the same --runs and --seed as when it was begun, or choose another --out"
            )
        return
    if not vacant(note):
        raise LoopscopeError(f"{folder} is not empty and holds no runs of this command: choose another --out")
    make_folder(folder)
    drop_leftovers(note)
    write_json(note, names)


def _points(pairs: Iterable[tuple[float, float]]) -> float:
    """Return the largest difference of pairs of accuracies, in points."""
    # The result is rounded, so that a difference of five in a hundred is 5 and not 5.000000000000004.
    return round(100 * max(abs(one - other) for one, other in pairs), 6)


def _difference(first: ThinCurve, second: ThinCurve) -> float:
    """Return the largest difference of two curves in points, where both are known."""
    here = dict(zip(second.iterations, second.accuracy, strict=True))
    pairs = [(value, here[at]) for at, value in zip(first.iterations, first.accuracy, strict=True) if at in here]
    return _points([*pairs, (first.best, second.best), (first.last, second.last)])


def compare(row: Member, record: Record) -> Comparison:
    """Return a row beside the record of the run that was trained again by its settings."""
    again = member(row.study, record)
    if row.status != again.status:
        ended = [f"{one.status}{f' ({one.error})' if one.error else ''}" for one in (row, again)]
        return Comparison(row.study, row.run, row.machines, note=f"{ended[0]} in the ledger, {ended[1]} here")
    if row.status == "failed":
        same = row.error == again.error
        return Comparison(
            row.study,
            row.run,
            row.machines,
            exact=same,
            note=f"failed in {'the same' if same else 'another'} way: {again.error}",
        )
    if row.curves.keys() != again.curves.keys():
        return Comparison(row.study, row.run, row.machines, note=f"other splits here: {', '.join(again.curves)}")
    both = {name: (curve, again.curves[name]) for name, curve in row.curves.items()}
    return Comparison(
        row.study,
        row.run,
        row.machines,
        differences={name: _difference(*pair) for name, pair in both.items()},
        last={name: _points([(one.last, other.last)]) for name, (one, other) in both.items()},
        exact=row.curves == again.curves,
    )


def compare_all(
    picked: Mapping[str, Member], records: Mapping[str, Record], ledger: Path, tolerance: float
) -> Retraining:
    """Return rows beside the records of their runs, for the runs that ended.

    Args:
        picked: the rows by the names of their runs.
        records: record of each run that ended.
        ledger: file that the rows are from.
        tolerance: points of accuracy that do not count as a difference.
    """
    return Retraining(
        str(ledger),
        this_machine(),
        tolerance,
        [name for name in picked if name not in records],
        [compare(row, records[name]) for name, row in picked.items() if name in records],
    )
