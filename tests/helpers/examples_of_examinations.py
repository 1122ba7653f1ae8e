"""Synthetic but consistent examinations and studies, for tests of what shows them."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loopscope.evaluation import AccuracyCurve
from loopscope.stability import Examination, Verdict
from loopscope.stability.examination import Curves
from loopscope.stability.verdict import judge
from loopscope.studies import Record, StudyPlan, read_plan

TRAINED = 30


def fan(middle: np.ndarray, spread: float = 1.6) -> list[list[float | None]]:
    return [(middle * factor).tolist() for factor in (1 / spread, 1.0, spread)]


def full(radius: float = 0.8, inputs: int = 16, tokens: int = 81, iterations: int = 500) -> Examination:
    """Everything measured on a loop that contracts by ``radius`` to each input's own fixed point."""
    steps, few = np.arange(1, iterations + 1), 8
    random = np.random.default_rng(0)
    settled = random.integers(5, 60, tokens)
    settled[3], settled[-1] = -1, 0
    spiral = np.array([10 * radius**t * np.exp(0.7j * t) for t in range(60)])
    axes = (
        judge("reachability", {"fraction arrived": 1.0}, f"of {inputs} orbits: {inputs} fixed point"),
        judge(
            "input-dependence",
            {"fraction moved": 0.8, "fraction shared": 0.0},
            "with another input recalled: 13 moved, 3 elsewhere",
        ),
        judge(
            "geometry",
            {"radius": radius, "relative Lipschitz constant": 3.2, "gradient growth per iteration": 0.97},
            f"radius {radius:g}, relative Lipschitz constant 3.2, gradient growth per iteration 0.97",
        ),
    )
    return Examination(
        verdict=Verdict.UNKNOWN,
        provisional=True,
        advice="The evidence is not enough: input-dependence is borderline. Examine more inputs.",
        axes=axes,
        normalized_axes=None,
        settings={
            "effort": "standard",
            "inputs": inputs,
            "swapped": inputs,
            "jacobians": few,
            "iterations": iterations,
            "tolerance": 1e-4,
            "prediction": False,
            "trained_iterations": TRAINED,
            "seed": 0,
            "dtype": "float32",
            "numbers_per_state": tokens * 64,
            "accuracy": 0.9375,
        },
        curves=Curves(
            residual=fan(np.maximum(0.8 * radius**steps, 1e-7)),
            norm=fan(40 - 10 * radius**steps, 1.05),
            read_residual=fan(np.maximum(0.5 * radius**steps, 1e-7)),
            prediction_changes=(0.5 * radius**steps).tolist(),
            accuracy=(0.9375 / (1 + np.exp(-(steps - 12) / 2))).tolist(),
        ),
        reachability={
            "arrived": [True] * inputs,
            "iterations_to_tolerance": [float(40 + i) for i in range(inputs)],
            "rate": [radius] * inputs,
            "rate_error": [0.002] * inputs,
            "radius": [1e-6] * inputs,
            "norm": [40.0] * inputs,
            "start_norm": [30.0] * inputs,
            "labels": ["fixed point"] * inputs,
            "period": [1] * inputs,
            "lyapunov": [None] * inputs,
            "lyapunov_error": [None] * inputs,
            "growth": [0.0] * inputs,
            "counts": {"fixed point": inputs},
        },
        spectrum={
            "rows": list(range(few)),
            "eigenvalue": [[radius * math.cos(0.7 + i / 90), radius * math.sin(0.7 + i / 90)] for i in range(few)],
            "radius": [radius] * few,
            "error": [0.001] * few,
            "converged": [True] * few,
            "defective": [False] * (few - 1) + [True],
            "at_fixed_point": [True] * few,
            "rate": [radius] * few,
            "rate_error": [0.002] * few,
            "contradicted": [False] * few,
            "others": [[radius * math.cos(0.7), radius * math.sin(0.7)], [0.6, 0.0], [-0.3, 0.2], [0.1, 0.5]],
        },
        basin={
            "rows": list(range(few)),
            "radii": [0.01, 0.03, 0.1, 0.3, 1.0],
            "returned": [1.0, 1.0, 0.95, 0.8, None],
            "known": [1.0, 1.0, 1.0, 1.0, 0.0],
            "random": {"returned": 0.6, "known": 1.0},
            "foreign": {"returned": 0.9, "known": 1.0},
        },
        input_dependence={
            "recall_swap": {"moved": 13, "stayed": 0, "elsewhere": 3, "shared": 0, "unknown": 0},
            "start_swap": {"moved": 0, "stayed": 15, "elsewhere": 0, "shared": 0, "unknown": 1},
            "moved": 0.8,
            "shared": 0.0,
            "distinct_own": list(range(1, inputs + 1)),
            "distinct_common": [min(i, 12) for i in range(1, inputs + 1)],
            "variance": {"share": 0.98, "error": 0.01, "between": 5.0, "within": 0.1, "inputs": 16, "arrived": 1.0},
            "sensitivity": {
                "path": "recalled",
                "gain": [2.0] * few,
                "relative": [3.0] * few,
                "disagreement": [0.01] * few,
                "start_gain": [1e-6] * few,
            },
        },
        geometry={
            "rows": list(range(few)),
            "lipschitz": [2.5] * few,
            "relative_lipschitz": [3.2] * few,
            "lipschitz_path": "recalled",
            "resolvent": [6.0] * few,
            "gradient_norms": np.array(fan(0.97 ** np.arange(1.0, TRAINED + 1))).T.tolist(),
            "gradient_growth": [0.97] * few,
            "gradient_label": {"steady": few},
            "powers": [1, 2, 4, 8, 16, 32],
            "power_norms": [[2.4 * radius**k * (1 + i / 20) for i in range(few)] for k in (1, 2, 4, 8, 16, 32)],
            "radial_gain": [0.01] * few,
            "gradient_agreement": [-0.01] * few,
        },
        tokens=[settled.tolist()],
        portrait={
            "row": 0,
            "path": np.stack([spiral.real, spiral.imag], 1).tolist(),
            "foreign": np.stack([-1.4 * spiral.real, spiral.imag + 3 * radius ** np.arange(60)], 1).tolist(),
            "explained": [0.62, 0.31],
            "fixed_point": [0.0, 0.0],
        },
        unknown={},
        seconds={"orbits": 1.2, "spectrum": 2.0, "total": 8.4},
    )


def changed(exam: Examination, **values: Any) -> Examination:
    """The same examination with some of its fields changed."""
    return Examination(**{**{name: getattr(exam, name) for name in exam.__dataclass_fields__}, **values})


def partial() -> Examination:
    """Orbits that drift: no fixed point, so no Jacobian there, and the axes of directions beside."""
    exam, reason = full(), "no orbit arrived: it is defined at a fixed point"
    steps = np.arange(1, 501)
    nothing = {"returned": None, "known": 0.0}
    return changed(
        exam,
        verdict=Verdict.UNSTABLE,
        advice="The state's norm grows 3.2x per 100 iterations while its direction settles: add outer normalization.",
        axes=(
            judge("reachability", {"fraction arrived": 0.0}, "of 16 orbits: 16 drift"),
            judge("input-dependence", {"fraction moved": None, "fraction shared": None}, "no swap could be done"),
            judge("geometry", {"radius": None}, "no fixed point was reached at which it could be taken"),
        ),
        normalized_axes=exam.axes,
        curves=Curves(fan(1 / steps), fan(30.0 + 4 * steps), fan(0.1 / steps), [None] * 500, None),
        settings={**exam.settings, "accuracy": None, "trained_iterations": None},
        spectrum={**exam.spectrum, "at_fixed_point": [False] * 8, "others": []},
        basin={"radii": [0.1], "returned": [None], "known": [0.0], "random": nothing, "foreign": nothing},
        input_dependence={
            "recall_swap": dict.fromkeys(("moved", "stayed"), 0),
            "start_swap": {},
            "moved": None,
            "shared": None,
        },
        geometry={"rows": [], "gradient_norms": exam.geometry["gradient_norms"]},
        tokens=[[-1] * 40],
        portrait={"path": [[1.0, 2.0], [2.0, 3.0]], "explained": [1.0, 0.0], "fixed_point": None},
        unknown={"distinct fixed points": "no orbit arrived", "smoothness": reason, "resolvent": reason},
    )


def empty() -> Examination:
    """Nothing but orbits that blew up at once."""
    exam, nothing = full(), [None] * 5
    return changed(
        exam,
        axes=tuple(judge(axis.name, dict.fromkeys(axis.numbers), "nothing could be measured") for axis in exam.axes),
        curves=Curves([nothing] * 3, [nothing] * 3, [nothing] * 3, nothing, None),
        reachability={
            **exam.reachability,
            **{key: [None] * 16 for key in ("rate", "norm", "iterations_to_tolerance", "growth")},
        },
        spectrum={},
        basin={},
        input_dependence={},
        geometry={},
        tokens=[],
        portrait={},
        unknown=dict.fromkeys(
            ("orbits", "spectrum", "basin", "input-dependence", "geometry", "portrait"),
            "the state holds numbers that are not finite",
        ),
    )


EXAMPLES = {"full": full, "partial": partial, "empty": empty}

STUDY = """
title: "Prefix <sums> & more: trained on 32 bits, run for 500"
task: prefix-sums
data: {train_bits: 32, test_bits: [32, 128, 512]}
model: {width: 16, heads: 2}
grid:
  model.recall: [none, internal]
  model.norm: [pre, outer]
  training.seed: [0, 1]
also:
  - {model.architecture: fixed-depth, model.recall: none, model.blocks: 4}
"""


def plan(folder: Path, yaml: str = STUDY) -> StudyPlan:
    source = folder / "made up.yaml"
    source.write_text(yaml)
    return read_plan(source)


def curve(accuracy: np.ndarray) -> dict[str, Any]:
    return asdict(
        AccuracyCurve(
            examples=100,
            answer_accuracy=accuracy.tolist(),
            token_accuracy=accuracy.tolist(),
            best=float(accuracy.max()),
            best_iteration=int(accuracy.argmax()) + 1,
            last=float(accuracy[-1]),
            first_within_1_percent=1,
            solved_then_broken=float(accuracy.max() - accuracy[-1]),
        )
    )


def records(study: StudyPlan, failed: str | None = None, error: str = "loss is nan at step 12") -> dict[str, Record]:
    """Records with logistic accuracy curves: recall with outer normalization keeps its answers, without it decays."""
    found, splits = {}, [f"{bits} bits" for bits in study.runs[0].settings.data.test_bits]
    for place, run in enumerate(study.runs):
        settings = run.settings.to_dict()
        if run.name == failed:
            found[run.name] = Record(run.name, "failed", settings, {"train": 12.0}, error=error)
            continue
        model, shift = settings["model"], 1 + place % 2 / 4
        if model["architecture"] == "fixed-depth":
            levels = {split: curve(np.array([0.9 / (4**i)])) for i, split in enumerate(splits)}
            found[run.name] = Record(run.name, "finished", settings, {"train": 50.0, "evaluate": 1.0}, None, levels)
            continue
        steps = np.arange(1, 501)
        keeps = model["recall"] != "none" and model["norm"] == "outer"
        curves = {}
        for i, split in enumerate(splits):
            rise = (1 - 0.05 * i) / (1 + np.exp(-(steps - 12 * 3**i) / (3.0 + 5 * i)))
            curves[split] = curve(rise if keeps else 0.9 * rise / (1 + (steps / (60 * shift)) ** 2))
        radius = (0.85 if keeps else 0.93 if model["norm"] == "outer" else 1.01) + place % 2 / 40
        exam = (
            partial()
            if model["norm"] == "pre"
            else changed(
                full(min(radius, 0.98), tokens=32), verdict=Verdict.EXTRAPOLATES if keeps else Verdict.SHARED_ANSWER
            )
        )
        seconds = {"train": 170.0 * shift, "evaluate": 60.0, "examine": 9.0}
        found[run.name] = Record(run.name, "finished", settings, seconds, None, curves, exam.to_dict())
    return found
