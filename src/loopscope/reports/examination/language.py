"""What the page of a language model shows beside the axes: three answers, a map of tokens against loops, early exit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loopscope.reports.early_exit import exits_parts
from loopscope.reports.examination.token_map import map_of_tokens
from loopscope.reports.kit.formats import DASH, number, percent
from loopscope.reports.kit.page import chip, note, table, text
from loopscope.stability import Examination
from loopscope.stability.language.part import EXITS, RADII, TOKENS
from loopscope.stability.language.questions import Reply
from loopscope.stability.language.results import LengthResult, TokensResult

COLUMNS = (
    "tokens in a text",
    "texts",
    "tokens",
    "residual at the end",
    "settled, %",
    "settled after",
    "answers final, %",
    "spectral radius",
)


def _card(reply: Reply) -> str:
    return (
        f'<section class="card"><h3>{text(reply.question)}</h3>{chip(reply.short, reply.tone)}'
        f"<p>{text(reply.why[:1].upper() + reply.why[1:])}.</p></section>"
    )


def language_head(exam: Examination) -> str:
    """Return the three answers about a language model; nothing for other loops."""
    replies = exam.replies
    return f'<div class="cards first">{"".join(map(_card, replies))}</div>' if replies else ""


def language_sections(exam: Examination, title: str) -> list[str]:
    """Return the sections on tokens and on early exit of a language model; nothing for other loops.

    Args:
        exam: the examination.
        title: what was examined.
    """
    found = exam.language
    if found is None:
        return []
    tokens = _missing(exam, TOKENS) if found.tokens is None else _tokens(found.tokens, exam)
    exits = _missing(exam, EXITS) if found.exits is None else "\n".join(exits_parts(found.exits, title))
    return ["<h2>Tokens</h2>", tokens, "<h2>Early exit</h2>", exits]


def _missing(exam: Examination, part: str) -> str:
    return note(f"Not measured: {exam.unknown.get(part, 'the examination does not hold it')}.")


def _tokens(found: TokensResult, exam: Examination) -> str:
    parts = [map_of_tokens(one, found.loops, exam.settings.tolerance) for one in found.texts[:1]]
    parts += [
        table(COLUMNS, [_row(one) for one in found.lengths], COLUMNS[:1]),
        note(
            "Medians over the tokens of texts of each length. Settled: the residual stays within the tolerance. Answers final: "
            "those that changed no more after the loops of training, or in the last half where these are not known. Spectral "
            "radius: of the block of the Jacobian that belongs to a token."
        ),
    ]
    if RADII in exam.unknown:
        parts.append(note(f"Spectral radii of tokens: not measured, {exam.unknown[RADII]}."))
    return "\n".join(parts)


def _row(one: LengthResult) -> Sequence[str]:
    length = f"{one.shortest}" if one.shortest == one.longest else f"{one.shortest} to {one.longest}"
    return (
        length,
        f"{one.texts}",
        f"{one.tokens}",
        DASH if one.residual is None or not math.isfinite(one.residual) else f"{one.residual:.1e}",
        percent(one.settled),
        DASH if one.settled_at is None else f"{one.settled_at:g}",
        DASH if one.final is None else percent(one.final),
        number(one.radius, 3),
    )
