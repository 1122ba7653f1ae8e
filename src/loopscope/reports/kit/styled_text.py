"""Text with styles, as terminals show it, in a page."""

from __future__ import annotations

import html

from rich.console import Console
from rich.style import Style
from rich.text import Text

from loopscope.reports.kit.page import Html


def _css(style: Style) -> str:
    colour = None if style.color is None or style.color.is_default else style.color.get_truecolor().hex
    rules = ["font-weight:700"] if style.bold else []
    if style.reverse:
        rules += [f"background:{colour}", "color:#fff"] if colour else ["background:var(--ink)", "color:var(--paper)"]
    elif colour is not None:
        rules.append(f"color:{colour}")
    return ";".join(rules)


def styled(text: Text, tag: str = "pre") -> Html:
    """Return a text as an HTML element. What has no colour of its own takes that of the page.

    Args:
        text: text with the styles bold, reverse and colours.
        tag: the element.

    Example:
        >>> print(styled(Text("a < b", style="bold")))
        <pre><span style="font-weight:700">a &lt; b</span></pre>
    """
    parts = []
    # Assembling turns the style of the whole text into that of a part, which rendering keeps.
    for segment in Text.assemble(text).render(Console()):
        rules = _css(segment.style) if segment.style is not None else ""
        written = html.escape(segment.text)
        parts.append(f'<span style="{rules}">{written}</span>' if rules else written)
    return Html(f"<{tag}>{''.join(parts)}</{tag}>")
