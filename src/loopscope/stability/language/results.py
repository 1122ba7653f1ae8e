"""Results about a language model, as typed plain values that convert to JSON and back.

A loop here is an iteration as the model counts it: ``before`` of them come before the first state of a captured model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from loopscope.stability.early_exit.comparison import ExitComparison
from loopscope.stability.results import Numbers


@dataclass(frozen=True)
class LoopsResult:
    """How many loops are enough, and how far it is safe to go.

    Args:
        measured: accuracy, or agreement with the answers after ``reference`` loops.
        reference: the loops whose answers others are compared with; None where accuracy is measured.
        loops: the numbers of loops after which the answers were read.
        quality: fraction of the tokens that are right, or that agree, after each of them.
        enough: the fewest loops that give up at most one point of quality; None if there is no such number.
        why_enough: the evidence, in a sentence.
        safe: the last number of loops up to which at least 90% of the quality is left; None if it is not known.
        safe_to_the_end: whether it is left to the last loop that was run.
        why_safe: the evidence, in a sentence.
    """

    measured: str
    reference: int | None
    loops: list[int]
    quality: list[float]
    enough: int | None
    why_enough: str
    safe: int | None
    safe_to_the_end: bool
    why_safe: str


@dataclass(frozen=True)
class LengthResult:
    """Medians over the tokens of texts of similar length.

    Args:
        shortest: number of tokens of the shortest of these texts.
        longest: number of tokens of the longest.
        texts: number of texts.
        tokens: number of their tokens.
        residual: median relative residual at the end.
        settled: fraction of the tokens whose residual stays within the tolerance.
        settled_at: median number of loops until then, of the tokens that settle.
        final: fraction of the answers that changed no more after the reference (see ``LoopsResult``), or in the last half of
            the loops.
        radius: median spectral radius of a token's block of the Jacobian; None if it was not measured.
    """

    shortest: int
    longest: int
    texts: int
    tokens: int
    residual: float | None
    settled: float
    settled_at: float | None
    final: float | None
    radius: float | None


@dataclass(frozen=True)
class TextResult:
    """The tokens of one text, in order.

    Args:
        words: the text of each token; empty if it was not given.
        residual: relative residual of each token after the loops that ``TokensResult`` lists.
        settled: loops after which each token's residual stays within the tolerance; -1 if it never does.
        same: whether each token's answer is that of the reference, after the same loops; None where it was not read. Empty if
            the answers of some tokens are not read.
        radius: spectral radius of each token's block of the Jacobian at the end; empty if it was not measured.
        radius_error: its error.
    """

    words: list[str]
    residual: list[Numbers]
    settled: list[int]
    same: list[list[bool | None]] = field(default_factory=list)
    radius: Numbers = field(default_factory=list)
    radius_error: Numbers = field(default_factory=list)


@dataclass(frozen=True)
class TokensResult:
    """What each token does.

    Args:
        loops: the numbers of loops after which the residuals of the texts are given.
        texts: the first few texts.
        lengths: medians over tokens, by the length of their texts.
    """

    loops: list[int]
    texts: list[TextResult]
    lengths: list[LengthResult]


@dataclass(frozen=True)
class LanguageResult:
    """What is measured of a language model beside the three axes.

    Args:
        before: loops of the model before the loop's first state.
        loops: how many loops are enough, and how far it is safe to go.
        exits: early-exit rules, compared.
        tokens: what each token does.
    """

    before: int = 0
    loops: LoopsResult | None = None
    exits: ExitComparison | None = None
    tokens: TokensResult | None = None
