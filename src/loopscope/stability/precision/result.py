"""The result of comparing precisions, as typed plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loopscope.errors import LoopscopeError, nearest
from loopscope.schema import to_plain
from loopscope.stability.results import Numbers, known


@dataclass(frozen=True)
class PrecisionResult:
    """What one precision does to the orbits. Lists over iterations begin with the first state.

    Args:
        name: float64, float32, tf32, bf16 or int8.
        difference: distance to the float64 orbit over the norm of its state: quantiles 10%, 50% and 90% over the inputs.
        growth: factor by which the difference grows per iteration, fitted while it is small; median over the inputs. None
            where it is zero.
        predicted: the last difference, predicted from the first iterations and the exponents; median over a few inputs. None
            in float64, and where there are no exponents.
        measured: the last difference of the same inputs.
        residual: relative residual of the own orbit, median over the inputs.
        floor: smallest residual of the own orbit, median over the inputs.
        same: fraction of inputs whose answer is that of float64.
        differ_from: iteration from which on the answer of an input is another one, more often than not; None if it never is.
        accuracy: fraction of inputs that are right; None without targets.
    """

    name: str
    difference: list[Numbers]
    growth: float | None
    predicted: float | None
    measured: float | None
    residual: Numbers
    floor: float | None
    same: Numbers
    differ_from: list[int | None]
    accuracy: Numbers | None

    @property
    def first_differs(self) -> int | None:
        """The first iteration from which on the answer of any input is another one; None if none ever is."""
        changed = [place for place in self.differ_from if place is not None]
        return min(changed) if changed else None


@dataclass(frozen=True)
class PrecisionComparison:
    """The same orbits in several precisions.

    Args:
        results: the precisions, float64 first.
        iterations: iterations that were run.
        known: iterations that predictions rest on.
        inputs: number of inputs.
        exponent: log growth of differences per iteration over the second half of the orbits, from exact products with the
            Jacobian; median over a few inputs. None where there is no Jacobian.
        unknown: precisions in which the loop does not run, and why; and why there are no exponents.
        seconds: time that it took.

    Example:
        >>> import torch, loopscope as ls
        >>> layer = torch.nn.Linear(8, 8)
        >>> loop = ls.FunctionLoop(
        ...     lambda x: x, torch.zeros_like, lambda z, x: torch.tanh(layer(z)) + x, lambda z: z, module=layer
        ... )
        >>> found = ls.precision(loop, torch.eye(8), iterations=40)
        >>> [result.name for result in found.results]
        ['float64', 'float32', 'tf32', 'bf16', 'int8']
        >>> found["bf16"].measured > 100 * found["float32"].measured
        True
    """

    results: tuple[PrecisionResult, ...]
    iterations: int
    known: int
    inputs: int
    exponent: float | None
    unknown: dict[str, str]
    seconds: float

    def __getitem__(self, name: str) -> PrecisionResult:
        """Return the result of a precision.

        Raises:
            LoopscopeError: it was not compared.
        """
        found = next((result for result in self.results if result.name == name), None)
        if found is None:
            names = [result.name for result in self.results]
            raise LoopscopeError(
                f"{name!r} was not compared, expected one of {', '.join(names)}{nearest(str(name), names)}"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values: dict[str, Any] = to_plain(self)
        return values

    def __str__(self) -> str:
        """Return a table of the precisions."""
        columns = (
            "precision",
            "difference",
            "predicted",
            "growth",
            "residual floor",
            "answers differ",
            "from iteration",
        )
        rows = [columns, *(_row(result, self.inputs) for result in self.results)]
        widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        exponent = "unknown" if self.exponent is None else f"{self.exponent:.3g}"
        head = (
            f"{self.inputs} inputs, {self.iterations} iterations against float64; differences are relative to the state. "
            f"Exponent of the loop: {exponent} per iteration. Predicted from {self.known} iterations."
        )
        return "\n".join([head, "", *lines, *(f"{name}: {reason}" for name, reason in self.unknown.items())])


def _row(result: PrecisionResult, inputs: int) -> tuple[str, ...]:
    last, changed = result.difference[1][-1], len(known(result.differ_from))
    first = result.first_differs
    return (
        result.name,
        _size(last),
        _size(result.predicted),
        "-" if result.growth is None else f"{result.growth:.4f}",
        _size(result.floor),
        f"{100 * changed / inputs:.0f}%",
        "-" if first is None else str(first),
    )


def _size(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
