"""What each token of a language model does: residual, settling, answers kept, spectral radius, and medians by length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError, check_count
from loopscope.schema import to_plain
from loopscope.stability.language.loop_counts import read_after, reference_of, same_as
from loopscope.stability.language.results import LengthResult, TextResult, TokensResult
from loopscope.stability.orbits.trace import Trajectory
from loopscope.stability.parts.sample import Sample
from loopscope.stability.results import Numbers, middle
from loopscope.stability.spectrum.tokens import TokenRadius, token_spectral_radius
from loopscope.trees import flatten, select

TEXTS = 4
"""Texts whose tokens are shown one by one."""
COLUMNS = 24
"""Most iterations at which the residuals of shown tokens are kept."""
GROUPS = 6
"""Most groups of texts by length."""
RADII_TEXTS = 4
"""Texts whose tokens' spectral radii are measured."""
LARGEST = 2**22
"""Numbers of a state in as many copies as it has tokens, up to which radii are measured: each token needs a copy."""


def checked_words(words: Sequence[Sequence[str]] | None, inputs: int) -> list[list[str]] | None:
    """Return the text of each token of each input; refuse another number of inputs.

    Raises:
        LoopscopeError: there is not one list of tokens per input.
    """
    if words is None:
        return None
    found = [list(one) for one in words]
    if len(found) != inputs:
        raise LoopscopeError(
            f"words has {len(found)} lists, expected {inputs}: the text of each token, one list per input"
        )
    return found


def shown_iterations(last: int, most: int = COLUMNS) -> list[int]:
    """Return some iterations from the first to the last, evenly spaced on a logarithmic axis.

    Example:
        >>> shown_iterations(5), shown_iterations(100, most=4)
        ([1, 2, 3, 4, 5], [1, 5, 22, 100])
    """
    check_count(last=last)
    if last <= most:
        return list(range(1, last + 1))
    return sorted({round(float(place)) for place in np.geomspace(1, last, most)})


def token_radii(sample: Sample) -> list[TokenRadius]:
    """Return the spectral radii of the tokens of the first few texts, at their last states.

    Raises:
        LoopscopeError: the states are too large, or the loop is not causal.
    """
    rows = torch.arange(min(RADII_TEXTS, len(sample.trajectory.arrived)))
    state, recalled = sample.at(rows)
    tokens = sample.trajectory.token_residual.shape[2]
    numbers = flatten(select(state, slice(0, 1))).shape[1]
    if tokens * numbers > LARGEST:
        raise LoopscopeError(
            f"{tokens} tokens need as many copies of a state of {numbers} numbers: ls.token_spectral_radius measures them where "
            "there is room"
        )
    return [
        token_spectral_radius(
            sample.loop,
            select(state, slice(row, row + 1)),
            select(recalled, slice(row, row + 1)),
            seed=sample.config.seed,
        )
        for row in range(len(rows))
    ]


def measure_tokens(
    sample: Sample, before: int, words: Sequence[Sequence[str]] | None, radii: Sequence[TokenRadius] | None
) -> TokensResult:
    """Return what each token does.

    Args:
        sample: the inputs and their orbits.
        before: loops of the model before the first state.
        words: the text of each token of each input, padding left out.
        radii: the spectral radii of the tokens of the first texts, if they were measured.
    """
    trajectory = sample.trajectory
    real = trajectory.token_settled != 0
    iterations = shown_iterations(int(trajectory.iterations.max()))
    answers = _answers(trajectory, None if sample.trained is None else sample.trained - before)
    radius = [] if radii is None else [_radius(one, real[row].cpu()) for row, one in enumerate(radii)]
    texts = [
        _text(trajectory, row, real[row], iterations, before, answers, None if words is None else words[row], radius)
        for row in range(min(TEXTS, len(real)))
    ]
    return TokensResult(
        [one + before for one in iterations], texts, _lengths(trajectory, real, before, answers, radius)
    )


def _radius(found: TokenRadius, real: Bool[Tensor, "tokens"]) -> tuple[Numbers, Numbers]:
    return to_plain(found.radius[0][real]), to_plain(found.error[0][real])


@dataclass(frozen=True)
class _Answers:
    """Which answers are those of the reference, for the tokens that are read.

    Attributes:
        same: after every iteration.
        read: after which iterations the answers were read.
        example: the example of each answer.
        kept: whether each answer never changed again after the reference, or in the last half if that is the last iteration.
    """

    same: Bool[Tensor, "iterations answers"]
    read: Bool[Tensor, "iterations"]
    example: Int[Tensor, "answers"]
    kept: Bool[Tensor, "answers"]


def _answers(trajectory: Trajectory, trained: int | None) -> _Answers:
    assert trajectory.said is not None  # answers are kept where they are counted by token
    read, example = read_after(trajectory), trajectory.example
    reference = reference_of(read, trained)
    since = reference if reference < read[-1] else max(1, reference // 2)
    kept = (trajectory.last_change <= since) & ~trajectory.diverged[example]
    return _Answers(same_as(trajectory.said, reference), trajectory.read, example, kept)


def _text(
    trajectory: Trajectory,
    row: int,
    real: Bool[Tensor, "tokens"],
    iterations: Sequence[int],
    before: int,
    answers: _Answers,
    words: Sequence[str] | None,
    radius: Sequence[tuple[Numbers, Numbers]],
) -> TextResult:
    tokens = int(real.sum())
    at = torch.tensor(iterations, device=real.device) - 1
    own = answers.example == row
    settled = trajectory.token_settled[row][real]
    known = radius[row] if row < len(radius) else ([], [])
    return TextResult(
        words=list(words) if words is not None and len(words) == tokens else [],
        residual=[_rounded(values) for values in trajectory.token_residual[at, row][:, real].T],
        settled=[one + before if one > 0 else -1 for one in settled.tolist()],
        same=_same_of(answers, own, at) if int(own.sum()) == tokens else [],
        radius=known[0],
        radius_error=known[1],
    )


def _same_of(answers: _Answers, own: Tensor, at: Int[Tensor, "shown"]) -> list[list[bool | None]]:
    same, read = answers.same[at][:, own].T.tolist(), answers.read[at].tolist()
    return [[value if known else None for value, known in zip(row, read, strict=True)] for row in same]


def _rounded(values: Float[Tensor, "shown"]) -> Numbers:
    return [None if value is None else float(f"{value:.3g}") for value in to_plain(values)]


def _lengths(
    trajectory: Trajectory,
    real: Bool[Tensor, "batch tokens"],
    before: int,
    answers: _Answers,
    radius: Sequence[tuple[Numbers, Numbers]],
) -> list[LengthResult]:
    """Return medians over the tokens of texts of similar length, the shortest first."""
    length = real.sum(1).cpu()
    return [
        _group(
            trajectory, real, group, before, answers, [radius[row][0] for row in group.tolist() if row < len(radius)]
        )
        for group in groups_of(length)
    ]


def groups_of(length: Int[Tensor, "batch"]) -> list[Int[Tensor, "group"]]:
    """Return the examples of each length, or of neighbouring lengths where there are more than a few.

    Example:
        >>> [group.tolist() for group in groups_of(torch.tensor([5, 3, 5]))]
        [[1], [0, 2]]
    """
    distinct = length.unique()
    parts = distinct.tensor_split(min(GROUPS, len(distinct)))
    return [torch.nonzero(torch.isin(length, part)).flatten() for part in parts]


def _group(
    trajectory: Trajectory,
    real: Bool[Tensor, "batch tokens"],
    rows: Int[Tensor, "group"],
    before: int,
    answers: _Answers,
    radius: Sequence[Numbers],
) -> LengthResult:
    rows = rows.to(real.device)
    chosen = real[rows]
    settled = trajectory.token_settled[rows][chosen]
    done = settled[settled > 0]
    kept = answers.kept[torch.isin(answers.example, rows)]
    length = chosen.sum(1)
    ends = trajectory.token_residual[-1, rows][chosen]
    return LengthResult(
        shortest=int(length.min()),
        longest=int(length.max()),
        texts=len(rows),
        tokens=int(length.sum()),
        residual=middle(to_plain(ends)),
        settled=float((settled > 0).double().mean()),
        settled_at=float(median(done.tolist())) + before if len(done) else None,
        final=float(kept.double().mean()) if len(kept) else None,
        radius=middle([value for one in radius for value in one]),
    )
