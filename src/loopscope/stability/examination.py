"""The result of an examination: plain values, fit for JSON, for the terminal and for the page.

Per-example values are lists in the order of the inputs; what could not be computed is None. Quantiles are of the
examples: 10%, 50%, 90%.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

from loopscope.errors import LoopscopeError, check_choice, check_count, check_positive, check_tolerance
from loopscope.files import read_json_as, write_json
from loopscope.stability.verdict import TESTED_ON, Axis, Status, Verdict, fitted_on, priors_of

SCHEMA = 1
"""Version of the JSON; a reader refuses another one."""
QUANTILES = (0.1, 0.5, 0.9)
COLUMNS = 120
"""Width of what is printed."""

Effort = Literal["quick", "standard", "thorough"]
Numbers = list[float | None]


@dataclass(frozen=True)
class ExaminationConfig:
    """How a loop is examined.

    Args:
        effort: quick (fewer inputs, Jacobian quantities of a few of them), standard or thorough (more of all).
        examples: inputs to examine; at most 12 are with effort quick, 64 with standard, 256 with thorough.
        iterations: budget of every orbit; in prediction mode the trained number of iterations instead.
        tolerance: relative residual within which a state may count as arrived.
        prediction: forecast from at most the trained number of steps along any orbit.
        seed: of every random start and direction.
        time_limit: seconds after which no further part is begun and orbits end where they are; None for no limit.
    """

    effort: Effort = "standard"
    examples: int = 64
    iterations: int = 500
    tolerance: float = 1e-4
    prediction: bool = False
    seed: int = 0
    time_limit: float | None = None

    def __post_init__(self) -> None:
        if self.time_limit is not None:
            check_positive(time_limit=self.time_limit)
        check_choice("effort", self.effort, get_args(Effort))
        check_count(examples=self.examples, iterations=self.iterations)
        check_tolerance(self.tolerance)

    def sees_less(self, settings: Mapping[str, Any], available: int) -> bool:
        """Return whether an examination of these settings has something that one by this config would not have.

        Args:
            settings: those of an ``Examination``.
            available: inputs that there are to examine.
        """
        if settings["prediction"]:
            return False
        efforts = get_args(Effort)
        return (
            self.prediction
            or efforts.index(self.effort) < efforts.index(settings["effort"])
            or min(self.examples, available) < settings["inputs"]
            or self.iterations < settings["iterations"]
        )


@dataclass(frozen=True)
class Curves:
    """What happens along the orbits, one entry per iteration, from the first on.

    Args:
        residual: relative residual of the state, three quantiles.
        norm: norm of the state, three quantiles.
        read_residual: relative residual of the readout, three quantiles.
        prediction_changes: mean fraction of predictions that changed.
        accuracy: fraction of examples that are right; None where no targets were given.
    """

    residual: list[Numbers]
    norm: list[Numbers]
    read_residual: list[Numbers]
    prediction_changes: Numbers
    accuracy: Numbers | None


@dataclass(frozen=True)
class Examination:
    """Everything that an examination found.

    Args:
        verdict: what the axes add up to.
        provisional: whether it rests on a threshold that was never fitted on trained models.
        advice: what to do, in a sentence or two.
        axes: reachability, input-dependence, geometry.
        normalized_axes: the same for directions alone, where orbits drift; None where they do not.
        settings: config, trained iterations, inputs, precision.
        curves: along the orbits.
        reachability: per example: arrived, iterations_to_tolerance, rate, rate_error, radius, norm, start_norm, labels,
            reasons (for the labels), period, lyapunov, lyapunov_error, growth, left_at (the iteration at which an orbit left
            a fixed point again that it had come near; 0 where it never did); and counts of the labels.
        spectrum: for the examples named in ``rows``: eigenvalue as [real, imaginary], radius, error, converged,
            defective, at_fixed_point, rate, rate_error, contradicted; further eigenvalues of the first example.
        basin: radii, and the fraction that came back (and the fraction known) from perturbed, random, foreign starts.
        input_dependence: counts of both swaps' outcomes, distinct fixed points under own and common starts, the share
            of the variance, and the sensitivity along both paths with its finite checks.
        geometry: Lipschitz constant, resolvent, gradient norms, transient growth and the radial mode, for ``rows``.
        tokens: iteration at which each token settled, for the first few examples (0 padding, -1 never).
        portrait: an orbit in its two principal directions: of the first example that arrived, or of the first of all.
        unknown: what could not be computed, and why.
        seconds: time by part.
    """

    verdict: Verdict
    provisional: bool
    advice: str
    axes: tuple[Axis, Axis, Axis]
    normalized_axes: tuple[Axis, Axis, Axis] | None
    settings: Mapping[str, Any]
    curves: Curves
    reachability: Mapping[str, Any]
    spectrum: Mapping[str, Any]
    basin: Mapping[str, Any]
    input_dependence: Mapping[str, Any]
    geometry: Mapping[str, Any]
    tokens: list[list[int]]
    portrait: Mapping[str, Any]
    unknown: Mapping[str, str]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the version of their schema (docs/reference/examination.md describes it)."""
        return plain({"schema": SCHEMA, **asdict(self)})

    def save(self, path: str | Path) -> Path:
        """Write the examination in the form that the file's ending names (.json, .html); return the path.

        Raises:
            LoopscopeError: another ending, or the file cannot be written.
        """
        path = Path(path)
        check_choice("the file's ending", path.suffix, WRITERS)
        WRITERS[path.suffix](path, self)
        return path

    def __str__(self) -> str:
        """Return what fits on one screen: the verdict, the axes, the five numbers that matter, the advice."""
        settings = self.settings
        accuracy = settings["accuracy"]
        lines = [
            f"{self.verdict.value}{f' (provisional: {priors_of(self.axes)})' if self.provisional else ''}",
            *([f"(tested on {TESTED_ON})"] if self.provisional else []),
            *_wrapped(self.advice),
            *(
                line
                for models, measures in fitted_on(self.axes).items()
                for line in _wrapped(f"thresholds fitted on {models}: {', '.join(measures)}")
            ),
            "",
            *(line for axis in self.axes for line in _wrapped(axis.reason, f"{axis.name:17} {axis.status.value:11} ")),
            *(
                line
                for axis in self.normalized_axes or ()
                for line in _wrapped(axis.reason, f"{f'  of directions: {axis.name}':35} {axis.status.value:11} ")
            ),
            "",
            f"residual at the end          {shown(self.curves.residual[1][-1])}",
            f"norm of the state, median    {shown(middle(self.reachability['norm']))} "
            f"(at the start {shown(middle(self.reachability['start_norm']))})",
            f"spectral radius, median      {shown(middle(self.spectrum.get('radius')))}",
            f"Lipschitz constant, relative {shown(middle(self.geometry.get('relative_lipschitz')))}",
            f"right at the end             {'not known' if accuracy is None else f'{100 * accuracy:.1f}%'}",
            "",
            f"{inputs_seen(settings)}, at most {settings['iterations']} iterations, effort {settings['effort']}, "
            f"{settings['dtype']}, seed {settings['seed']}, {self.seconds['total']:.1f} s",
        ]
        if self.unknown:
            lines += _wrapped(f"{', '.join(self.unknown)} (reasons in the saved examination)", "not computed: ")
        return "\n".join(lines)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Examination:
        """Build an examination from ``to_dict``'s values.

        Raises:
            LoopscopeError: of another schema, or something is missing.
        """
        values = dict(values)
        if (found := values.pop("schema", None)) != SCHEMA:
            raise LoopscopeError(f"the examination is of schema {found}, expected {SCHEMA}: examine the model again")
        try:
            axes = _axes(values.pop("axes"))
            normalized = values.pop("normalized_axes")
            return cls(
                verdict=Verdict(values.pop("verdict")),
                axes=axes,
                normalized_axes=None if normalized is None else _axes(normalized),
                curves=Curves(**values.pop("curves")),
                **values,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LoopscopeError(f"the examination is damaged ({error}): examine the model again") from error

    @classmethod
    def load(cls, path: str | Path) -> Examination:
        """Read an examination that ``save`` wrote as JSON.

        Raises:
            LoopscopeError: there is no such file, it is damaged, or of another schema.
        """
        values = read_json_as(Path(path), dict[str, Any], "examine the model again")
        try:
            return cls.from_dict(values)
        except LoopscopeError as error:
            raise LoopscopeError(f"{path}: {error}") from error


def _wrapped(sentence: str, label: str = "") -> list[str]:
    """Return a sentence behind its label, in lines that fit the screen."""
    return textwrap.wrap(sentence, COLUMNS, initial_indent=label, subsequent_indent=" " * len(label))


def middle(values: Sequence[float | None] | None) -> float | None:
    """Return the median of the numbers that are known, or None where there is none."""
    known = [value for value in values or [] if value is not None]
    return median(known) if known else None


def inputs_seen(settings: Mapping[str, Any]) -> str:
    """Return how many inputs were examined, and of how many, where the effort left some out."""
    given = settings.get("given", settings["inputs"])  # older files do not say
    return f"{settings['inputs']} {'' if given == settings['inputs'] else f'of {given} '}inputs"


def shown(value: float | None) -> str:
    """Return a number as examinations print it."""
    return "not known" if value is None else f"{value:.4g}"


def _write_page(path: Path, examination: Examination) -> None:
    # Pages are drawn above this package: their module is found by name, and loaded only when a page is written.
    import_module("loopscope.reports.examination.page").write_examination(path, examination)


WRITERS: dict[str, Callable[[Path, Examination], None]] = {
    ".json": lambda path, examination: write_json(path, examination.to_dict()),
    ".html": _write_page,
}
"""How ``save`` writes each kind of file."""


def _axes(values: list[dict[str, Any]]) -> tuple[Axis, Axis, Axis]:
    first, second, third = (Axis(**{**axis, "status": Status(axis["status"])}) for axis in values)
    return first, second, third


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: tensors as lists, numbers that are not finite as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, complex):
        return [plain(value.real), plain(value.imag)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
