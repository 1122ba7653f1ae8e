"""Conversion of examinations that earlier versions wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from loopscope.stability.results import SpectrumResult

VERDICTS = {
    "extrapolates": "stable and accurate",
    "keeps its answer": "stable",
    "shared answer": "input-independent",
    "path dependent": "path-dependent",
    "restless": "never settles but keeps its answer",
    "unknown": "undecided",
}
"""Verdicts that had another name in schema 1."""


def from_schema_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an examination of schema 1, in which parts were untyped mappings, to schema 2.

    Raises:
        KeyError, TypeError, AttributeError: a part that every such examination had is missing or has another form.
    """
    settings, reachability = dict(values["settings"]), dict(values["reachability"])
    settings.setdefault("given", settings["inputs"])
    reachability["distance_left"] = reachability.pop("radius")
    # The first versions did not keep these.
    inputs = len(reachability["arrived"])
    reachability.setdefault("reasons", [""] * inputs)
    reachability.setdefault("left_at", [0] * inputs)
    return {
        **{name: value for name, value in values.items() if name not in ("schema", "input_dependence")},
        "verdict": VERDICTS.get(values["verdict"], values["verdict"]),
        "settings": settings,
        "reachability": reachability,
        "spectrum": _only(values["spectrum"], SpectrumResult),
        "basin": values["basin"] or None,
        "input_dependence": _input_dependence(values["input_dependence"]),
        "geometry": _geometry(values["geometry"]),
        "portrait": {"foreign": [], **values["portrait"]} if values["portrait"] else None,
    }


def _only(values: Mapping[str, Any], kind: type) -> dict[str, Any] | None:
    """Return the entries that are fields of a type, or None if there are none."""
    return {field.name: values[field.name] for field in fields(kind) if field.name in values} or None


def _input_dependence(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"variance": values.get("variance"), "sensitivity": values.get("sensitivity")}
    if "recall_swap" in values:
        found["swaps"] = {
            "recall": values["recall_swap"],
            "start": values["start_swap"],
            "moved": values["moved"],
            "shared": values.get("shared"),
        }
    if "distinct_common" in values:
        found["distinct"] = {"own": values["distinct_own"], "common": values["distinct_common"]}
    return found


def _geometry(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"rows": values.get("rows", []), "radial_gain": values.get("radial_gain")}
    if "gradient_growth" in values:
        found["gradients"] = {
            "rows": values.get("gradient_rows", []),
            "norms": values["gradient_norms"],
            "growth": values["gradient_growth"],
            "agreement": values.get("gradient_agreement", []),
            "labels": values["gradient_label"],
        }
    if "lipschitz" in values:
        found["lipschitz"] = {
            "value": values["lipschitz"],
            "error": values["lipschitz_error"],
            "converged": values["lipschitz_converged"],
            "relative": values["relative_lipschitz"],
            "path": values["lipschitz_path"],
        }
    if "resolvent" in values:
        found["resolvent"] = {
            "value": values["resolvent"],
            "error": values["resolvent_error"],
            "converged": values["resolvent_converged"],
        }
    if "power_norms" in values:
        found["transient"] = {"powers": values["powers"], "norms": values["power_norms"]}
    return found
