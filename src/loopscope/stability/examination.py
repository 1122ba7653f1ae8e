"""The result of an examination, as typed values for Python, JSON, the terminal and the page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from loopscope.errors import LoopscopeError, check_choice
from loopscope.files import check_path, read_json_as, write_json
from loopscope.schema import from_plain, to_plain
from loopscope.stability.language.questions import Reply, replies
from loopscope.stability.language.results import LanguageResult
from loopscope.stability.nonautonomous.results import KindResult, NonautonomousResult
from loopscope.stability.old_examinations import from_schema_1
from loopscope.stability.results import (
    AnswerResult,
    BasinResult,
    Curves,
    GeometryResult,
    InputDependenceResult,
    PortraitResult,
    ReachabilityResult,
    Settings,
    SpectrumResult,
    middle,
)
from loopscope.stability.verdict import LIPSCHITZ, TESTED_ON, Axis, Status, Verdict, fitted_on, priors_of

SCHEMA = 2
"""Version of the JSON. Version 1 is converted when it is read; others are refused."""
COLUMNS = 120
"""Width of the printed summary, in characters."""


@dataclass(frozen=True)
class Examination:
    """All results of an examination.

    What could not be computed is None, and ``unknown`` says why. The parts are described in ``loopscope.stability.results``.

    Args:
        verdict: the verdict on all axes together.
        provisional: whether the verdict rests on a threshold that was never fitted on trained models.
        advice: what to do, in a sentence or two.
        axes: reachability, input-dependence and geometry.
        normalized_axes: the axes for the directions of states if most orbits drift, else None.
        settings: what was examined, and how.
        curves: quantities along the orbits.
        reachability: whether each orbit arrives, and what it does instead.
        answers: when answers became final; None in examinations of schema 1.
        kind: what kind of loop this is, and what is not defined for it.
        nonautonomous: what is measured instead for a loop that is time-dependent or stochastic; None for the others.
        language: loops, early exit and tokens of a loop whose answers are counted by token; None for the others.
        spectrum: eigenvalues of the Jacobian at the end of orbits.
        basin: how far from its fixed point an orbit may start and still return.
        input_dependence: whether the fixed point is this input's own.
        geometry: whether the fixed point is smooth, and whether gradients pass.
        tokens: iteration at which each token settled, for the first few inputs (0 for padding, -1 for never).
        portrait: one input's orbit in the plane that shows most of it.
        unknown: what could not be computed, and why.
        seconds: time of each part, and in total.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z / 2 + e, read=lambda z: z
        ... )
        >>> exam = ls.examine(loop, torch.eye(4), effort="quick", iterations=60)
        >>> exam.verdict.value, exam.reachability.counts
        ('stable', {'fixed point': 4})
        >>> round(exam.spectrum.radius[0], 3)
        0.5
    """

    verdict: Verdict
    provisional: bool
    advice: str
    axes: tuple[Axis, Axis, Axis]
    normalized_axes: tuple[Axis, Axis, Axis] | None
    settings: Settings
    curves: Curves
    reachability: ReachabilityResult
    spectrum: SpectrumResult | None
    basin: BasinResult | None
    input_dependence: InputDependenceResult
    geometry: GeometryResult
    tokens: list[list[int]]
    portrait: PortraitResult | None
    unknown: dict[str, str]
    seconds: dict[str, float]
    answers: AnswerResult | None = None
    kind: KindResult = field(default_factory=KindResult)
    nonautonomous: NonautonomousResult | None = None
    language: LanguageResult | None = None

    @property
    def replies(self) -> list[Reply]:
        """How many loops of a language model are enough, how far it is safe to go, and which rule should stop it.

        Empty for a loop whose answers are not counted by token.
        """
        if self.settings.answers_per != "token":
            return []
        rests = not self.kind.undefined and self.axes[0].status is Status.HOLDS
        return replies(self.language, self.unknown, rests=rests)

    @property
    def headline(self) -> str:
        """The verdict in one line, with what it lacks or why it is undecided."""
        if self.kind.undefined:
            return f"{self.verdict.value} ({self.kind.name}: no fixed point is claimed)"
        if self.verdict is not Verdict.UNDECIDED:
            without = self.geometry.input_is_discrete and self.axes[2].status is not Status.UNKNOWN
            return f"{self.verdict.value}{f', without a {LIPSCHITZ}' if without else ''}"
        doubts = [axis.doubt for axis in self.axes if axis.doubt is not None]
        open_axes = [f"{axis.name} is {axis.status.value}" for axis in self.axes if axis.status is not Status.HOLDS]
        return f"{self.verdict.value}: {', '.join(doubts or open_axes)}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the version of their schema (docs/reference/examination.md describes it)."""
        return {"schema": SCHEMA, **to_plain(self)}

    def save(self, path: str | Path) -> Path:
        """Write the examination as JSON or as a page, depending on the file's ending (.json, .html), and return the path.

        Raises:
            LoopscopeError: the file has another ending or cannot be written.
        """
        path = check_path(path)
        check_choice("the file's ending", path.suffix, WRITERS)
        WRITERS[path.suffix](path, self)
        return path

    def __str__(self) -> str:
        """Return a summary that fits on one screen: the verdict, the advice, the axes and the most important numbers."""
        return self.describe()

    def describe(self, width: int = COLUMNS) -> str:
        """Return the summary of ``str`` in lines of another width.

        Args:
            width: largest number of characters in a line.
        """
        settings, reachability, accuracy = self.settings, self.reachability, self.settings.accuracy
        by_token = settings.answers_per == "token"
        right, final = (
            ("tokens right at the end", "tokens final") if by_token else ("right at the end", "answers final")
        )
        provisional = f" (provisional: {priors_of(self.axes)})" if self.provisional else ""
        tested = self.provisional and not self.kind.undefined
        missing = [part for part, reason in self.unknown.items() if reason != self.kind.undefined]
        sentences = [
            *((f"{reply.short} ({reply.why})", f"{reply.question:27}") for reply in self.replies),
            *([("", "")] if self.replies else []),
            (f"{self.headline}{provisional}", ""),
            *([(f"thresholds tested on {TESTED_ON}", "")] if tested else []),
            (self.advice, ""),
            *(
                (f"thresholds fitted on {models}: {', '.join(names)}", "")
                for models, names in fitted_on(self.axes).items()
            ),
            ("", ""),
            *((axis.reason, f"{axis.name:17} {axis.status.value:11} ") for axis in self.axes),
            *([("directions of the state alone, without its norm:", "")] if self.normalized_axes else []),
            *((axis.reason, f"  {axis.name:17} {axis.status.value:11} ") for axis in self.normalized_axes or ()),
            ("", ""),
            (f"{shown(self.curves.residual[1][-1])}{rounding_of(settings)}", "residual at the end          "),
            (
                f"{shown(middle(reachability.norm))} (at the start {shown(middle(reachability.start_norm))})",
                "norm of the state, median    ",
            ),
            *self._on_errors(),
            ("not known" if accuracy is None else f"{100 * accuracy:.1f}%", f"{right:29}"),
            *([(_final(self.answers), f"{final:29}")] if self.answers else []),
            ("", ""),
            (
                f"{inputs_seen(settings)}, at most {settings.iterations} iterations, effort {settings.effort}, "
                f"{settings.dtype}, seed {settings.seed}, {self.seconds['total']:.1f} s",
                "",
            ),
            *([(f"{', '.join(missing)} (reasons in the saved examination)", "not computed: ")] if missing else []),
            *([] if self.kind.is_plain else [(self.kind.sentence, "kind of loop: ")]),
        ]
        return "\n".join(line for sentence, label in sentences for line in _wrapped(sentence, label, width))

    def _on_errors(self) -> list[tuple[str, str]]:
        """Return what happens to small errors, at the fixed point or along the orbit, each with its label."""
        if self.nonautonomous is None:
            lipschitz = self.geometry.lipschitz
            return [
                (shown(middle(self.spectrum.radius if self.spectrum else None)), "spectral radius, median      "),
                (shown(middle(lipschitz.relative if lipschitz else None)), "Lipschitz constant, relative "),
            ]
        found = self.nonautonomous
        growth = None if found.exponents is None else found.exponents.factor
        return [
            (shown(growth), "error growth per iteration   "),
            *((shown(radius), f"{f'radius of {name}, a part':28} ") for name, radius in found.parts.items()),
            *([] if found.noise is None else [(shown(middle(found.noise.step)), "noise of one step, relative  ")]),
        ]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Examination:
        """Build an examination from the values of ``to_dict``, or from those of schema 1.

        Raises:
            LoopscopeError: the schema is another one, or a value is missing or has another type.
        """
        found = values.get("schema")
        if found not in (1, SCHEMA):
            raise LoopscopeError(f"the examination has schema {found}, expected {SCHEMA}: examine the model again")
        try:
            current = from_schema_1(values) if found == 1 else {**values}
            current.pop("schema", None)
            return from_plain(current, cls)
        except (KeyError, TypeError, AttributeError, LoopscopeError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else error
            raise LoopscopeError(f"the examination is damaged ({said}): examine the model again") from error

    @classmethod
    def load(cls, path: str | Path) -> Examination:
        """Read an examination that ``save`` wrote as JSON.

        Raises:
            LoopscopeError: the file does not exist, is damaged, or has a different schema.
        """
        path = check_path(path)
        values = read_json_as(path, dict[str, Any], "examine the model again")
        try:
            return cls.from_dict(values)
        except LoopscopeError as error:
            raise LoopscopeError(f"{path}: {error}") from error


def _wrapped(sentence: str, label: str, width: int) -> list[str]:
    """Return a sentence with its label, in lines that fit the screen. An empty sentence gives an empty line."""
    return textwrap.wrap(sentence, width, initial_indent=label, subsequent_indent=" " * len(label)) or [""]


def _final(answers: AnswerResult) -> str:
    """Return the iterations by which given fractions of the answers are final."""
    shares = (("50%", answers.half), ("90%", answers.nine_tenths), ("all", answers.all))
    reached = ", ".join(f"{share} by iteration {by:.0f}" for share, by in shares if by is not None)
    return reached or "fewer than 50%"


def inputs_seen(settings: Settings) -> str:
    """Return the number of examined inputs, and the number given if the effort left some out."""
    given = "" if settings.given == settings.inputs else f"of {settings.given} "
    return f"{settings.inputs} {given}inputs"


def rounding_of(settings: Settings) -> str:
    """Return in brackets which residuals are rounding, and what the step computes in if that is coarser than its state."""
    floor = settings.noise_floor
    if floor is None:
        return ""
    coarser = "" if floor.precision == settings.dtype else f": the step rounds like {floor.precision}"
    return f" (residuals up to {floor.residual:.1e} may be rounding{coarser})"


def shown(value: float | None) -> str:
    """Return a number as examinations print it."""
    return "not known" if value is None else f"{value:.4g}"


def _write_page(path: Path, examination: Examination) -> None:
    # Pages belong to a room above this one, so their module is imported by name, and only when a page is written.
    import_module("loopscope.reports.examination.page").write_examination(path, examination)


WRITERS: dict[str, Callable[[Path, Examination], None]] = {
    ".json": lambda path, examination: write_json(path, examination.to_dict()),
    ".html": _write_page,
}
"""Functions by which ``save`` writes each kind of file."""
