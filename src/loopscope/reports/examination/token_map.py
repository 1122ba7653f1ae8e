"""A map of the tokens of a text against loops, as HTML: it holds any script, and its rows are as wide as their words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loopscope.reports.kit.charts import ordered_colours
from loopscope.reports.kit.formats import DASH, number
from loopscope.reports.kit.page import text
from loopscope.stability.language.results import TextResult

ROWS = 64
"""Most tokens that are shown."""
LEVELS = 8
"""Colours of a residual: one for each power of ten, beginning above 0.1."""
LIGHT = 5
"""Levels from this one on are light, and are marked in black."""
STEP = 4
"""Columns from one label of the number of loops to the next."""
COLOURS = ordered_colours(LEVELS)[::-1]
"""From light, where the state still moves much, to dark, where it rests."""
DIFFERS = "•"
"""Marks a token whose answer is not the one of the reference."""


def level_of(residual: float | None) -> int | None:
    """Return the colour of a residual, 0 for above 0.1 and one more for every power of ten below; None if it is not finite.

    Example:
        >>> [level_of(value) for value in (0.5, 0.1, 0.02, 1e-30, 0.0, None)]
        [0, 1, 1, 7, 7, None]
    """
    if residual is None or not math.isfinite(residual):
        return None
    return sum(residual <= 10.0**-power for power in range(1, LEVELS))


def _cell(residual: float | None, same: bool | None) -> str:
    level = level_of(residual)
    mark = DIFFERS if same is False else ""
    return f'<td class="none">{mark}</td>' if level is None else f'<td class="l{level}">{mark}</td>'


def _row(found: TextResult, place: int) -> str:
    word = found.words[place] if found.words else str(place + 1)
    same = found.same[place] if found.same else [None] * len(found.residual[place])
    cells = "".join(_cell(one, other) for one, other in zip(found.residual[place], same, strict=True))
    settled = found.settled[place]
    radius = number(found.radius[place], 3) if found.radius else DASH
    return (
        f'<tr><th class="word">{text(word) if word.strip() else text(repr(word))}</th>{cells}'
        f'<td class="said">{settled if settled > 0 else "never"}</td><td class="said">{radius}</td></tr>'
    )


def _heads(loops: Sequence[int]) -> str:
    groups = [loops[first : first + STEP] for first in range(0, len(loops), STEP)]
    return "".join(f'<th class="at" colspan="{len(group)}">{group[0]}</th>' for group in groups)


def _key() -> str:
    labels = ["above 0.1", *(f"to 1e-{place}" for place in range(1, LEVELS - 1)), "below"]
    shown = "".join(f'<span><i class="l{place}"></i>{label}</span>' for place, label in enumerate(labels))
    return f'<div class="legend">{shown}</div>'


STYLE = (
    "<style>.tokens table{width:auto;border-collapse:separate;border-spacing:1px}.tokens td,.tokens th{padding:0 .1rem;border:0;"
    "line-height:1.25rem;white-space:pre}.tokens th.word{text-align:right;padding:0 .5rem;font-weight:400;max-width:9rem;"
    "overflow:hidden;text-overflow:ellipsis}.tokens th.at{text-align:left;font-weight:400;color:var(--soft)}"
    ".tokens td{min-width:.85rem;text-align:center}.tokens td.said{padding:0 .5rem;text-align:right}"
    ".legend i{display:inline-block;width:.85rem;height:.85rem;margin-right:.4rem;vertical-align:-.1rem}"
    + "".join(
        f".l{place}{{background:{colour};color:{'#000' if place < LEVELS - LIGHT else '#fff'}}}"
        for place, colour in enumerate(COLOURS)
    )
    + "</style>"
)


def map_of_tokens(found: TextResult, loops: Sequence[int], tolerance: float) -> str:
    """Return the residual of each token of a text after some numbers of loops, with the token beside it.

    Args:
        found: the tokens.
        loops: the numbers of loops.
        tolerance: relative residual within which a token counts as settled.
    """
    shown = min(ROWS, len(found.residual))
    left_out = f" The first {shown} of {len(found.residual)} tokens." if shown < len(found.residual) else ""
    marks = (
        f" {DIFFERS} marks a token whose answer is not the one that it is compared with (see above)."
        if found.same
        else ""
    )
    rows = "".join(_row(found, place) for place in range(shown))
    return (
        f'{STYLE}<figure class="tokens"><h3>Tokens against loops</h3>{_key()}<div class="scroll" tabindex="0"><table>'
        f'<thead><tr><th class="word">token</th>{_heads(loops)}<th>settled after</th><th>radius</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div><figcaption>The first text, a token per row. Colour: how much one more loop still "
        f"changes the state of the token, relative to its norm. A token settles where this stays within {tolerance:g}.{marks}"
        f"{left_out}</figcaption></figure>"
    )
