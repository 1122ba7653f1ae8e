"""Words of the glossary in a page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from loopscope.glossary import MEANINGS
from loopscope.reports.kit.page import Html, text


def meaning(word: str) -> Html:
    """Return the meaning of a word as HTML, with its code set as code.

    Args:
        word: a word of `loopscope.glossary.MEANINGS`.
    """
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(MEANINGS[word])))


def word_list(words: Iterable[str]) -> str:
    """Return words with their meanings, one line each; nothing without words."""
    entries = "".join(f"<dt>{text(word)}</dt><dd>{meaning(word)}</dd>" for word in dict.fromkeys(words))
    return f'<dl class="words">{entries}</dl>' if entries else ""


def more_words(words: Iterable[str]) -> str:
    """Return words with their meanings, folded away."""
    return f"<details><summary>More words on this page</summary>{word_list(words)}</details>"
