"""Synthetic but consistent examinations and studies, for tests of what shows them."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from loopscope.evaluation import AccuracyCurve
from loopscope.kinds import Kind
from loopscope.stability import Examination, Verdict
from loopscope.stability.language.loop_counts import by_accuracy
from loopscope.stability.language.results import LanguageResult
from loopscope.stability.nonautonomous.axes import judge_axes, verdict_of
from loopscope.stability.nonautonomous.examination import UNDEFINED
from loopscope.stability.nonautonomous.results import (
    ExponentsResult,
    KeptResult,
    KindResult,
    NoiseResult,
    NonautonomousResult,
)
from loopscope.stability.nonautonomous.view import NO_FIXED_POINT_OF_NOISE
from loopscope.stability.results import (
    BasinResult,
    Curves,
    DistinctResult,
    GeometryResult,
    GradientResult,
    InputDependenceResult,
    LipschitzResult,
    PortraitResult,
    ReachabilityResult,
    ResolventResult,
    Returns,
    SensitivityResult,
    Settings,
    SpectrumResult,
    SwapResult,
    TransientResult,
    VarianceResult,
)
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
        verdict=Verdict.UNDECIDED,
        provisional=True,
        advice="The evidence is not enough: input-dependence is borderline. Examine more inputs.",
        axes=axes,
        normalized_axes=None,
        settings=Settings(
            effort="standard",
            inputs=inputs,
            given=inputs,
            swapped=inputs,
            jacobians=few,
            iterations=iterations,
            tolerance=1e-4,
            prediction=False,
            trained_iterations=TRAINED,
            seed=0,
            dtype="float32",
            numbers_per_state=tokens * 64,
            accuracy=0.9375,
        ),
        curves=Curves(
            residual=fan(np.maximum(0.8 * radius**steps, 1e-7)),
            norm=fan(40 - 10 * radius**steps, 1.05),
            read_residual=fan(np.maximum(0.5 * radius**steps, 1e-7)),
            prediction_changes=(0.5 * radius**steps).tolist(),
            accuracy=(0.9375 / (1 + np.exp(-(steps - 12) / 2))).tolist(),
        ),
        reachability=ReachabilityResult(
            arrived=[True] * inputs,
            iterations_to_tolerance=[float(40 + i) for i in range(inputs)],
            rate=[radius] * inputs,
            rate_error=[0.002] * inputs,
            distance_left=[1e-6] * inputs,
            norm=[40.0] * inputs,
            start_norm=[30.0] * inputs,
            labels=["fixed point"] * inputs,
            reasons=["arrived"] * inputs,
            period=[1] * inputs,
            lyapunov=[None] * inputs,
            lyapunov_error=[None] * inputs,
            growth=[0.0] * inputs,
            left_at=[0] * inputs,
            counts={"fixed point": inputs},
        ),
        spectrum=SpectrumResult(
            rows=list(range(few)),
            eigenvalue=[[radius * math.cos(0.7 + i / 90), radius * math.sin(0.7 + i / 90)] for i in range(few)],
            radius=[radius] * few,
            error=[0.001] * few,
            converged=[True] * few,
            defective=[False] * (few - 1) + [True],
            at_fixed_point=[True] * few,
            rate=[radius] * few,
            rate_error=[0.002] * few,
            contradicted=[False] * few,
            others=[[radius * math.cos(0.7), radius * math.sin(0.7)], [0.6, 0.0], [-0.3, 0.2], [0.1, 0.5]],
        ),
        basin=BasinResult(
            rows=list(range(few)),
            radii=[0.01, 0.03, 0.1, 0.3, 1.0],
            returned=[1.0, 1.0, 0.95, 0.8, None],
            known=[1.0, 1.0, 1.0, 1.0, 0.0],
            random=Returns(0.6, 1.0),
            foreign=Returns(0.9, 1.0),
        ),
        input_dependence=InputDependenceResult(
            swaps=SwapResult(
                recall={"moved": 13, "stayed": 0, "elsewhere": 3, "shared": 0, "unknown": 0},
                start={"moved": 0, "stayed": 15, "elsewhere": 0, "shared": 0, "unknown": 1},
                moved=0.8,
                shared=0.0,
            ),
            distinct=DistinctResult(own=list(range(1, inputs + 1)), common=[min(i, 12) for i in range(1, inputs + 1)]),
            variance=VarianceResult(share=0.98, error=0.01, between=5.0, within=0.1, inputs=16, arrived=1.0),
            sensitivity=SensitivityResult(
                path="recalled",
                gain=[2.0] * few,
                relative=[3.0] * few,
                disagreement=[0.01] * few,
                start_gain=[1e-6] * few,
            ),
        ),
        geometry=GeometryResult(
            rows=list(range(few)),
            lipschitz=LipschitzResult(
                value=[2.5] * few, error=[0.1] * few, converged=[True] * few, relative=[3.2] * few, path="recalled"
            ),
            resolvent=ResolventResult(value=[6.0] * few, error=[0.1] * few, converged=[True] * few),
            gradients=GradientResult(
                rows=list(range(few)),
                norms=np.array(fan(0.97 ** np.arange(1.0, TRAINED + 1))).T.tolist(),
                growth=[0.97] * few,
                agreement=[-0.01] * few,
                labels={"steady": few},
            ),
            transient=TransientResult(
                powers=[1, 2, 4, 8, 16, 32],
                norms=[[2.4 * radius**k * (1 + i / 20) for i in range(few)] for k in (1, 2, 4, 8, 16, 32)],
            ),
            radial_gain=[0.01] * few,
        ),
        tokens=[settled.tolist()],
        portrait=PortraitResult(
            row=0,
            path=np.stack([spiral.real, spiral.imag], 1).tolist(),
            foreign=np.stack([-1.4 * spiral.real, spiral.imag + 3 * radius ** np.arange(60)], 1).tolist(),
            explained=[0.62, 0.31],
            fixed_point=[0.0, 0.0],
        ),
        unknown={},
        seconds={"orbits": 1.2, "spectrum": 2.0, "total": 8.4},
    )


def partial() -> Examination:
    """Orbits that drift: no fixed point, so no Jacobian there, and the axes of directions beside."""
    exam, reason = full(), "no orbit arrived: it is defined at a fixed point"
    steps = np.arange(1, 501)
    nothing = Returns(None, 0.0)
    assert exam.spectrum is not None
    return replace(
        exam,
        verdict=Verdict.UNSTABLE,
        advice="The state's norm grows 3.2x per 100 iterations while its direction settles. Add outer normalization.",
        axes=(
            judge("reachability", {"fraction arrived": 0.0}, "of 16 orbits: 16 drift"),
            judge("input-dependence", {"fraction moved": None, "fraction shared": None}, "no swap was possible"),
            judge("geometry", {"radius": None}, "no fixed point was reached at which it could be measured"),
        ),
        normalized_axes=exam.axes,
        curves=Curves(fan(1 / steps), fan(30.0 + 4 * steps), fan(0.1 / steps), [None] * 500, None),
        settings=replace(exam.settings, accuracy=None, trained_iterations=None),
        spectrum=replace(exam.spectrum, at_fixed_point=[False] * 8, others=[]),
        basin=BasinResult([0], [0.1], [None], [0.0], random=nothing, foreign=nothing),
        input_dependence=InputDependenceResult(swaps=SwapResult({"moved": 0, "stayed": 0}, {}, None, None)),
        geometry=GeometryResult(gradients=exam.geometry.gradients),
        tokens=[[-1] * 40],
        portrait=PortraitResult(0, [[1.0, 2.0], [2.0, 3.0]], [], [1.0, 0.0], None),
        unknown={"distinct fixed points": "no orbit arrived", "smoothness": reason, "resolvent": reason},
    )


def empty() -> Examination:
    """Nothing but orbits that blew up at once."""
    exam, nothing = full(), [None] * 5
    unknown = [None] * 16
    first, second, third = (judge(a.name, dict.fromkeys(a.numbers), "nothing could be measured") for a in exam.axes)
    return replace(
        exam,
        axes=(first, second, third),
        curves=Curves([nothing] * 3, [nothing] * 3, [nothing] * 3, nothing, None),
        reachability=replace(
            exam.reachability, rate=unknown, norm=unknown, iterations_to_tolerance=unknown, growth=unknown
        ),
        spectrum=None,
        basin=None,
        input_dependence=InputDependenceResult(),
        geometry=GeometryResult(),
        tokens=[],
        portrait=None,
        unknown=dict.fromkeys(
            ("orbits", "spectrum", "basin", "input-dependence", "geometry", "portrait"),
            "the state holds numbers that are not finite",
        ),
    )


def language() -> Examination:
    """The same of a language model that is right from 4 loops on, and loses its answers after 64."""
    exam, loops = full(), [1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 500]
    counts = by_accuracy(loops, [0.1, 0.5, 0.8, *[0.95] * 5, 0.5, 0.2, 0.1])
    return replace(exam, settings=replace(exam.settings, answers_per="token"), language=LanguageResult(loops=counts))


def time_dependent() -> Examination:
    """A loop that is told its iteration and draws random numbers: no fixed points, and everything else."""
    exam, iterations = full(), 500
    kind = KindResult(
        Kind.TIME_DEPENDENT_AND_STOCHASTIC, "its step takes iteration and a generator", NO_FIXED_POINT_OF_NOISE
    )
    kept = 0.5 + 0.5 / (1 + np.arange(iterations - TRAINED + 1) / 100)
    found = NonautonomousResult(
        answers=KeptResult(TRAINED, [None] * (TRAINED - 1) + kept.tolist(), [0.6, 0.5], 0.75),
        exponents=ExponentsResult(
            rows=[0, 1],
            values=[[0.05, -0.1], [0.03, -0.2]],
            error=[[0.01, 0.01], [0.01, 0.02]],
            growth=fan(1 + 0.2 * np.sin(np.arange(iterations)), 1.1),
            first=125,
            counted=[375, 375],
        ),
        swapped_at=TRAINED,
        contraction=[0.9] * 16,
        noise=NoiseResult([0.01] * 16, [0.02] * 16),
        parts={"A": 0.357},
    )
    swaps = exam.input_dependence.swaps
    axes = judge_axes(found, swaps, 0.02)
    return replace(
        exam,
        verdict=verdict_of(axes, None),
        advice="Answers change after iteration 30.",
        axes=axes,
        reachability=replace(exam.reachability, arrived=[False] * 16, labels=["keeps moving"] * 16),
        spectrum=None,
        basin=None,
        portrait=None,
        input_dependence=InputDependenceResult(swaps=swaps),
        geometry=GeometryResult(),
        unknown=dict.fromkeys(UNDEFINED, kind.undefined),
        kind=kind,
        nonautonomous=found,
    )


EXAMPLES = {"full": full, "partial": partial, "empty": empty, "time-dependent": time_dependent}

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
            else replace(
                full(min(radius, 0.98), tokens=32),
                verdict=Verdict.STABLE_AND_ACCURATE if keeps else Verdict.INPUT_INDEPENDENT,
            )
        )
        seconds = {"train": 170.0 * shift, "evaluate": 60.0, "examine": 9.0}
        found[run.name] = Record(run.name, "finished", settings, seconds, None, curves, exam.to_dict())
    return found
