"""Advice on a verdict, in plain sentences with the measured numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from statistics import median

from loopscope.evidence import MendingRecord, mending
from loopscope.stability.results import ReachabilityResult, known, reached_by
from loopscope.stability.verdict import LIPSCHITZ, THRESHOLDS, Axis, Status, Verdict

ADD_RECALL = (
    "The state arrives, but at a point that most inputs share, so its answer is not this input's own. Give the loop recall "
    "(internal or external)."
)
PARTS = {"input-dependence": ("swaps",), "geometry": ("spectrum", "gradients", "smoothness")}
"""The parts of an examination that an axis needs, besides the part that has the axis's own name."""
NAMED = 3
"""Largest number of options against collapse that advice names: those that worked in at least half of the configurations."""


def advise(
    verdict: Verdict,
    axes: tuple[Axis, Axis, Axis],
    reachability: ReachabilityResult,
    trained_iterations: int | None,
    easy_accuracy: float | None,
    prediction: bool,
    reasons: Mapping[str, str],
) -> str:
    """Return what to do.

    Args:
        verdict: the verdict.
        axes: the three axes.
        reachability: what the orbits showed.
        trained_iterations: largest number of iterations in training, if known.
        easy_accuracy: fraction of the examined inputs that are right, if known.
        prediction: whether this was prediction mode.
        reasons: why parts could not be computed, by part. It contains the name of an axis that is not defined.
    """
    if verdict is Verdict.UNSTABLE:
        broken = _broken_readouts(reachability)
        return broken or f"{_unstable(reachability, trained_iterations)} {against_collapse(mending())}"
    if verdict is Verdict.UNSETTLED:
        return _unsettled(reachability)
    if verdict is Verdict.INPUT_INDEPENDENT:
        return ADD_RECALL
    if verdict is Verdict.PATH_DEPENDENT:
        return _path_dependent(easy_accuracy)
    if verdict is Verdict.FRAGILE:
        return _fragile(axes[2])
    if verdict is Verdict.UNDECIDED:
        return _undecided(axes, prediction, reasons)
    said = _stable(verdict, reachability, easy_accuracy)
    if LIPSCHITZ in axes[2].numbers or "smoothness" not in reasons:
        return said
    return f"{said} It is unknown how smoothly the fixed point depends on the input: {reasons['smoothness']}."


def _stable(verdict: Verdict, reachability: ReachabilityResult, easy_accuracy: float | None) -> str:
    settled = _settled(reachability.iterations_to_tolerance)
    if verdict is Verdict.STABLE_AND_ACCURATE:
        return f"{settled}. Stop each input when its residual is small, and give hard inputs as many iterations as they need."
    if easy_accuracy is None:
        return f"{settled}. Give targets to learn whether the answers that it keeps are right."
    return (
        f"{settled}, but only {100 * easy_accuracy:.0f}% of the answers are right. The loop will keep them whether they are "
        "right or wrong: train longer, or check the data."
    )


def _most_common(reachability: ReachabilityResult) -> str:
    """Return the most common label of orbits that do not arrive, leaving out undecided ones, which do not fail the axis."""
    counts = {label: n for label, n in reachability.counts.items() if label not in ("fixed point", "undecided")}
    return max(counts, key=lambda label: counts[label])


def _unsettled(reachability: ReachabilityResult) -> str:
    return (
        f"The state never settles (most orbits: {_most_common(reachability)}), but its answers are right and do not change. "
        "They can be used for as many iterations as these orbits had; nothing shows that they last longer. To be sure of "
        "more, train again with outer normalization, or examine with more iterations."
    )


def _unstable(reachability: ReachabilityResult, trained: int | None) -> str:
    common = _most_common(reachability)
    if common == "drift":
        drifting = [label == common for label in reachability.labels]
        growth = median(known(list(compress(reachability.growth, drifting))) or [0.0])
        return (
            f"The state's norm grows {math.exp(100 * growth):.3g}x per 100 iterations while its direction settles. Add outer "
            "normalization, or normalize what is read."
        )
    if common == "cycle":
        periods = [period for period in reachability.period if period > 1]
        return (
            f"Orbits end in cycles (the most common period is {max(set(periods), key=periods.count)}), so the answer depends "
            "on when the loop stops."
        )
    if common == "diverging":
        return "States grow without bound: add outer normalization."
    limit = f"about {trained} iterations, as in training" if trained else "the trained number of iterations"
    return f"Orbits are {common}: the state never settles. Stop at {limit}, or train again."


def against_collapse(record: MendingRecord) -> str:
    """Return which options kept the accuracy of loops that lose it otherwise, with the counts.

    Args:
        record: the counts, the best option first.
    """
    works = [one for one in record.options if 2 * one.mended >= one.cells][:NAMED]
    found = (
        "What kept accuracy in configurations that lost it otherwise"
        if works
        else "Nothing kept accuracy in half of the configurations that lost it otherwise. The best was"
    )
    counts = ", ".join(
        f"{one.setting} in {one.mended} of {one.cells} ({one.runs_mended} of {one.runs} runs)"
        for one in works or record.options[:1]
    )
    return f"{found}: {counts}. Measured on {record.measured_on} at iteration {record.iterations}."


def _broken_readouts(reachability: ReachabilityResult) -> str | None:
    """Return what to do if states arrive but readouts give no answer, provided that this is the most common problem."""
    settled = [label == "fixed point" for label in reachability.labels]
    lost = [fixed and not answered for fixed, answered in zip(settled, reachability.answered, strict=True)]
    others = sum(n for label, n in reachability.counts.items() if label not in ("fixed point", "undecided"))
    if sum(lost) <= others:
        return None
    first = min(compress(reachability.readout_broken_at, lost))
    since = f"from iteration {first} on" if first else "at every state"
    return (
        f"The state arrives, but its readout gives no answer (NaN, or minus infinity for every class) {since}. Check read for "
        "the logarithm of zero, a division by zero or an overflow."
    )


def _path_dependent(easy_accuracy: float | None) -> str:
    right = "" if easy_accuracy is None else f" ({100 * easy_accuracy:.0f}% of these answers are right)"
    return (
        f"From the loop's own start the state arrives and keeps its answer{right}; from other starts the same input leads to "
        "other points. Begin every input at the loop's own start, never where another input ended. To remove the dependence "
        "by training, draw random starts or more varied iteration counts."
    )


def _fragile(geometry: Axis) -> str:
    failing = [name for name, value in geometry.numbers.items() if THRESHOLDS[name].status(value) is Status.FAILS]
    said = {
        "radius": "the fixed point repels, so errors grow: add outer normalization or penalize the radius",
        LIPSCHITZ: "tiny changes of the input move the fixed point far: train with input noise, or "
        "lower the gain of the recall's input map",
        "gradient growth per iteration": "gradients explode on their way back: backpropagate through fewer iterations, "
        "or lower the learning rate",
    }
    return f"The state arrives at its own point, but {'; '.join(said[name] for name in failing)}."


def _undefined(axes: tuple[Axis, Axis, Axis], reasons: Mapping[str, str]) -> list[str]:
    """Return why axes have no number, for causes other than orbits that did not arrive in time."""
    found = [reasons[axis.name] for axis in axes if axis.name in reasons]
    if axes[0].status is Status.HOLDS:
        unknown = [axis.name for axis in axes if axis.status is Status.UNKNOWN]
        found += [reasons[part] for name in unknown for part in PARTS.get(name, ()) if part in reasons]
    return found


def _undecided(axes: tuple[Axis, Axis, Axis], prediction: bool, reasons: Mapping[str, str]) -> str:
    if (doubt := axes[2].doubt) is not None:
        return (
            f"No verdict: {doubt}. Either a part of the step is hidden from autograd (detach, torch.no_grad, a cache), so no "
            "number that rests on gradients can be trusted, or the spectral radius was missed. Let gradients through the "
            "whole step."
        )
    open_axes = [axis for axis in axes if axis.status is not Status.HOLDS]
    since = f"No verdict, because {' and '.join(f'{axis.name} is {axis.status.value}' for axis in open_axes)}"
    if undefined := _undefined(axes, reasons):
        return f"{since}: {undefined[0]}."
    if open_axes == [axes[2]] and axes[2].status is Status.BORDERLINE and not prediction:
        return f"{since}: {between(axes[2])}. More iterations do not change this; ls.forecast says how long the answers last."
    if prediction:
        return (
            f"{since}. Examine without prediction mode to decide; loopscope forecast (ls.forecast) tells from 30 iterations "
            "whether the answers last."
        )
    return f"{since}. Allow more iterations or give more inputs to decide."


def between(axis: Axis) -> str:
    """Return the numbers of an axis that lie between the values at which it holds and fails."""
    numbers = {name: value for name, value in axis.numbers.items() if value is not None}
    return ", ".join(
        f"{name} {value:.3g} lies between {THRESHOLDS[name].holds:g}, where it holds, and {THRESHOLDS[name].fails:g}"
        for name, value in numbers.items()
        if THRESHOLDS[name].status(value) is Status.BORDERLINE
    )


def _settled(needed: Sequence[float | None]) -> str:
    """Return the iterations after which half and nine tenths of the inputs have settled."""
    half, most = (reached_by(needed, fraction) for fraction in (0.5, 0.9))
    when = f"Half of the inputs have settled after {half:.0f} iterations" if half else "The state settles"
    return f"{when}, 9 of 10 after {most:.0f}" if most else when
