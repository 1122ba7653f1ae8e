"""How many loops are enough, and how far it is safe to go, from what was read along the orbits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.stability.early_exit.comparison import SLACK
from loopscope.stability.language.results import LoopsResult
from loopscope.stability.orbits.trace import Trajectory

SAFE = 0.9
"""Fraction of the quality that must be left where it is safe to go. A forecast calls this kept."""


def same_as(said: Int[Tensor, "iterations answers"], reference: int) -> Bool[Tensor, "iterations answers"]:
    """Return which answers are those after ``reference`` iterations. No answer (-1) agrees with nothing.

    Example:
        >>> same_as(torch.tensor([[3, -1], [3, -1], [4, -1]]), reference=2).tolist()
        [[True, False], [True, False], [False, False]]
    """
    return (said == said[reference - 1]) & (said >= 0)


def reference_of(read: Sequence[int], trained: int | None) -> int:
    """Return the iteration whose answers others are compared with: the first that is read from the trained number on.

    It is the last that is read if the trained number is not known, or beyond.

    Example:
        >>> reference_of([1, 3, 5, 8], trained=4), reference_of([1, 3, 5, 8], trained=None)
        (5, 8)
    """
    return next((one for one in read if trained is not None and one >= trained), read[-1])


def read_after(trajectory: Trajectory) -> list[int]:
    """Return the iterations after which the answers were read."""
    return [int(place) + 1 for place in torch.nonzero(trajectory.read).flatten()]


def loop_counts(trajectory: Trajectory, trained: int | None, before: int) -> LoopsResult:
    """Return how many loops are enough, and how far it is safe to go.

    Args:
        trajectory: the orbits of a loop whose answers are counted by token.
        trained: largest number of loops in training, if known.
        before: loops of the model before the first state.
    """
    read = read_after(trajectory)
    chosen = torch.tensor(read, device=trajectory.read.device) - 1
    loops = [one + before for one in read]
    if trajectory.solved is not None:
        right: Float[Tensor, "readings"] = trajectory.solved[chosen].double().mean(1)
        return by_accuracy(loops, right.tolist())
    assert trajectory.said is not None  # answers are kept where they are counted by token
    known = trained is not None
    reference = reference_of(read, None if trained is None else trained - before)
    agreeing = same_as(trajectory.said, reference)[chosen].double().mean(1)
    return by_agreement(loops, agreeing.tolist(), reference + before, told=known and reference + before == trained)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%"


def _last_good(quality: Sequence[float], first: int, least: float) -> int:
    """Return the place of the last reading up to which the quality never falls below ``least``, from ``first`` on."""
    place = first
    while place + 1 < len(quality) and quality[place + 1] >= least:
        place += 1
    return place


def by_accuracy(loops: Sequence[int], quality: Sequence[float]) -> LoopsResult:
    """Return the counts where it is known which tokens are right.

    Args:
        loops: the loops after which the answers were read.
        quality: fraction of the tokens that are right after each.

    Example:
        >>> found = by_accuracy([1, 2, 3, 4], [0.2, 0.8, 0.8, 0.1])
        >>> found.enough, found.safe, found.safe_to_the_end
        (2, 3, False)
    """
    best = max(quality)
    kept = LoopsResult("accuracy", None, list(loops), list(quality), None, "no token is ever right", None, False, "")
    if not best:
        return replace(kept, why_safe="no token is ever right")
    first = next(place for place, value in enumerate(quality) if value >= best - SLACK)
    last = _last_good(quality, first, SAFE * best)
    at_best = loops[quality.index(best)]
    return replace(
        kept,
        enough=loops[first],
        why_enough=(
            f"{_percent(quality[first])} of the tokens are right there, and {_percent(best)} after {at_best}, the best of "
            f"{loops[-1]}"
        ),
        **_safety(loops, quality, first, last, "are right"),
    )


def by_agreement(loops: Sequence[int], quality: Sequence[float], reference: int, *, told: bool) -> LoopsResult:
    """Return the counts where answers are compared with those after a number of loops.

    Args:
        loops: the loops after which the answers were read.
        quality: fraction of the tokens whose answer is that of the reference, after each.
        reference: a number of loops.
        told: whether it is that of training.

    Example:
        >>> found = by_agreement([1, 2, 3, 4, 8, 16], [0.2, 1.0, 1.0, 1.0, 0.95, 0.4], 4, told=True)
        >>> found.enough, found.safe, found.safe_to_the_end
        (2, 8, False)
    """
    place = loops.index(reference)
    first = place
    while first and quality[first - 1] >= 1 - SLACK:
        first -= 1
    whose = f"after the {reference} loops of training" if told else f"after {reference} loops"
    kept = LoopsResult(
        f"agreement with the answers {whose}", reference, list(loops), list(quality), None, "", None, False, ""
    )
    if not quality[place]:
        return replace(kept, why_enough="the readout gives no answers there", why_safe="the readout gives no answers")
    late = reference == loops[-1] and 2 * loops[first] > loops[-1] and len(loops) > 1
    if late and not told:
        before = max(first - 1, 0)
        changing = f"answers still change late: {_percent(quality[before])} are final after {loops[before]} of {loops[-1]} loops"
        return replace(kept, why_enough=changing, why_safe=changing)
    found = replace(
        kept,
        enough=loops[first],
        why_enough=f"{_percent(quality[first])} of the tokens are answered as {whose}; whether they are right is not known",
    )
    if told and place == len(loops) - 1:
        return replace(found, why_safe="no loop beyond those of training was run")
    start = place if told else first
    last = _last_good(quality, start, SAFE)
    return replace(found, **_safety(loops, quality, start, last, f"are answered as {whose}"))


def _safety(loops: Sequence[int], quality: Sequence[float], first: int, last: int, what: str) -> dict[str, Any]:
    """Return the last safe number of loops, whether all are, and why."""
    least = min(quality[first : last + 1])
    if last == len(loops) - 1:
        why = f"at least {_percent(least)} of the tokens {what} at every reading up to there; no more loops were run"
    else:
        why = f"{_percent(quality[last])} of the tokens {what} there, and {_percent(quality[last + 1])} after {loops[last + 1]}"
    return {"safe": loops[last], "safe_to_the_end": last == len(loops) - 1, "why_safe": why}
