"""Markdown in a page, such as a model card."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

from loopscope.reports.kit.page import Html

DEMOTED = 2
"""Levels by which headings are lowered: those of a card stand below those of its page."""


def markdown(source: str) -> Html:
    """Return Markdown as HTML. HTML in the source is shown as text, and tables scroll in their own box.

    Args:
        source: the text, in CommonMark with tables.

    Example:
        >>> print(markdown("# Title\\n\\nSome `code`."))
        <div class="said"><h3>Title</h3>
        <p>Some <code>code</code>.</p>
        </div>
    """
    drawn = MarkdownIt("commonmark", {"html": False}).enable("table").render(source)
    drawn = re.sub(r"(</?h)([1-4])>", lambda tag: f"{tag[1]}{int(tag[2]) + DEMOTED}>", drawn)
    drawn = drawn.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")
    return Html(f'<div class="said">{drawn}</div>')
