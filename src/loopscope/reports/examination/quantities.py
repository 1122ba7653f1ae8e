"""The numbers of an examination beyond those that decide, as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = Mapping[str, Any]
"""An examination as plain values."""


@dataclass(frozen=True)
class Quantity:
    """One measured quantity.

    Args:
        name: what it is called.
        read: returns its values over inputs, or its one value, from an examination.
        meaning: what it says, in a sentence.
    """

    name: str
    read: Callable[[Values], Sequence[float | None]]
    meaning: str

    def known(self, values: Values) -> list[float]:
        """Return what is known of it."""
        return [value for value in self.read(values) if value is not None]


def _entry(part: str, key: str) -> Callable[[Values], Sequence[float | None]]:
    return lambda values: values[part].get(key) or []


def _nested(part: str, key: str, entry: str) -> Callable[[Values], Sequence[float | None]]:
    def read(values: Values) -> Sequence[float | None]:
        found = (values[part].get(key) or {}).get(entry)
        return found if isinstance(found, list) else [found]

    return read


def _norm_ratio(values: Values) -> list[float | None]:
    found = values["reachability"]
    pairs = zip(found.get("norm", []), found.get("start_norm", []), strict=True)
    return [norm / start if norm is not None and start else None for norm, start in pairs]


def _transient_peak(values: Values) -> list[float | None]:
    by_input = zip(*values["geometry"].get("power_norms") or [], strict=True)
    return [max((norm for norm in norms if norm is not None), default=None) for norms in by_input]


def _flagged(part: str, key: str, flag: bool) -> Callable[[Values], Sequence[float | None]]:
    return lambda values: [sum(entry is flag for entry in values[part][key])] if values[part].get(key) else []


QUANTITIES = (
    Quantity("iterations to tolerance", _entry("reachability", "iterations_to_tolerance"), "when an input has settled"),
    Quantity(
        "observed contraction", _entry("reachability", "rate"), "factor of the residual per iteration, at the end"
    ),
    Quantity("norm of the state, end over start", _norm_ratio, "far above 1: the state grew"),
    Quantity("norm growth per iteration", _entry("reachability", "growth"), "log of the factor; 0 for a bounded orbit"),
    Quantity(
        "largest Lyapunov exponent", _entry("reachability", "lyapunov"), "above 0: chaos; only where it did not arrive"
    ),
    Quantity(
        "spectral radius", _entry("spectrum", "radius"), "below 1: the state attracts; the pace of the last errors"
    ),
    Quantity("its error", _entry("spectrum", "error"), "how far the radius may be off"),
    Quantity("radii that contradict the orbit", _flagged("spectrum", "contradicted", True), "should be 0"),
    Quantity("radii not at a fixed point", _flagged("spectrum", "at_fixed_point", False), "these say less"),
    Quantity("nearly defective Jacobians", _flagged("spectrum", "defective", True), "their eigenvalues move easily"),
    Quantity(
        "share of variance between inputs",
        _nested("input_dependence", "variance", "share"),
        "1: the input alone decides",
    ),
    Quantity(
        "sensitivity to the input", _nested("input_dependence", "sensitivity", "gain"), "change of the fixed point"
    ),
    Quantity("the same, relative", _nested("input_dependence", "sensitivity", "relative"), "both in relative size"),
    Quantity(
        "disagreement with a finite change",
        _nested("input_dependence", "sensitivity", "disagreement"),
        "near 0: trust it",
    ),
    Quantity(
        "sensitivity to the start", _nested("input_dependence", "sensitivity", "start_gain"), "0 at an attracting point"
    ),
    Quantity("Lipschitz constant in the input", _entry("geometry", "lipschitz"), "largest singular value, estimated"),
    Quantity(
        "the same, relative", _entry("geometry", "relative_lipschitz"), "1: as large a relative change as the input's"
    ),
    Quantity(
        "norm of the resolvent",
        _entry("geometry", "resolvent"),
        "amplifies implicit gradients, and the residual's error",
    ),
    Quantity("gradient growth per iteration", _entry("geometry", "gradient_growth"), "1: steady; above: explodes"),
    Quantity(
        "its log over that of the radius", _entry("geometry", "gradient_agreement"), "0: they agree; above: a transient"
    ),
    Quantity("largest transient growth", _transient_peak, "above 1: errors grow before they shrink"),
    Quantity("radial gain", _entry("geometry", "radial_gain"), "how much of the step acts along the norm"),
)
"""In the order of the table."""


def quantity_rows(values: Values) -> list[list[str]]:
    """Return quantity, median, 10% to 90%, number of inputs and meaning, for what was measured."""
    rows = []
    for quantity in QUANTITIES:
        known = quantity.known(values)
        if known:
            low, middle, high = np.quantile(known, (0.1, 0.5, 0.9))
            spread = f"{low:.4g} – {high:.4g}" if high > low else ""
            rows.append([quantity.name, f"{middle:.4g}", spread, str(len(known)), quantity.meaning])
    return rows
