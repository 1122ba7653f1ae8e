"""Building blocks of self-contained HTML pages: one file, no network, any width, light and dark themes."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --ink: #1c2331; --soft: #5a6474; --line: #dbe0e8; --card: #f6f8fa; --paper: #ffffff;
  --shade: #8a94a7; --good: #18794e; --bad: #b3372f; --warn: #8f5f00; --link: #0b62b0; --blue: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9ca6b4; --line: #2f3742; --card: #1a2029;
  --paper: #11151b; --shade: #768195; --good: #4cc38a; --bad: #ff8078; --warn: #e3b341; --link: #6cb6ff; --blue: #2f95d8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 2rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
body.wide { max-width: 1500px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; } h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { max-width: 46rem; margin: .5rem 0; } a { color: var(--link); }
.soft, figcaption { color: var(--soft); font-size: .9rem; line-height: 1.45; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; margin: .6rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { background: var(--card); font-weight: 600; white-space: normal; vertical-align: bottom; }
tbody tr:last-child td { border-bottom: 0; }
td.text, th.text { text-align: left; } td.wrap { white-space: normal; min-width: 9rem; }
figure { margin: 1rem 0 1.4rem; min-width: 0; } figcaption { max-width: 46rem; margin-top: .35rem; }
figure h3, .card h3 { margin-top: 0; }
.panels svg { display: block; width: 100%; height: auto; } svg text { font-family: inherit !important; }
.panels, .grid, .cards, .pair { display: grid; gap: .4rem 1.6rem; }
.panels { grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
.grid { grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.cards { grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 1rem; }
.cards.first { margin: 1rem 0; } .cards.first .chip { font-size: 1.25rem; } .cards.first p { font-size: .9rem; }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); align-items: start; }
.pair { margin-bottom: 1rem; } .pair > * { min-width: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; font-size: .9rem; margin: .6rem 0 .4rem; }
.legend span { white-space: nowrap; } .swatch { vertical-align: middle; margin-right: .5rem; }
.card { border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1rem; background: var(--card); min-width: 0; }
.card p { margin: .3rem 0; } .card dl { margin: .6rem 0 0; font-size: .9rem; }
.card dt { font-weight: 600; margin-top: .5rem; display: flex; gap: .6rem;
  justify-content: space-between; } .card dd { margin: 0; color: var(--soft); }
.card dt b { white-space: nowrap; font-variant-numeric: tabular-nums; }
.verdict { border-left: 5px solid currentColor; padding: .3rem 0 .3rem .9rem; margin: 1rem 0; }
.verdict strong { font-size: 1.5rem; line-height: 1.25; } .verdict p { color: var(--ink); }
.chip { font-weight: 650; } .chip::before { content: "\\25CF"; margin-right: .35em; }
.holds { color: var(--good); } .fails { color: var(--bad); } .borderline, .unknown { color: var(--warn); }
.quiet { color: var(--soft); }
.back { margin: 0 0 1rem; font-size: .9rem; }
.words { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25rem 1rem; margin: .6rem 0; max-width: 46rem;
  font-size: .9rem; line-height: 1.4; } .words dt { font-weight: 600; } .words dd { margin: 0; color: var(--soft); }
.frames { display: grid; gap: .6rem 1.2rem; grid-template-columns: repeat(auto-fit, minmax(12rem, max-content)); }
.frames figure { margin: 0; } .frames figcaption { margin: 0; }
.frames pre { margin: .2rem 0 0; padding: .4rem .6rem; font-size: .78rem; line-height: 1.3; }
.said table { width: auto; } .said td, .said th { text-align: left; } .said td { white-space: normal; }
.said h3, .said h4 { margin: 1rem 0 .3rem; }
@media (max-width: 600px) { td.text { white-space: normal; overflow-wrap: break-word; }
  td.wrap { min-width: 7.5rem; } th, td { padding: .4rem .4rem; }
  .frames { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem; } .frames pre { font-size: .6rem; padding: .4rem; }
  .words { grid-template-columns: minmax(0, 1fr); gap: 0; } .words dd { margin: 0 0 .5rem; } }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .7rem 1rem;
  font-size: .85rem; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; margin-top: .6rem; }
"""


class Html(str):
    """Text that is already HTML and is not escaped again."""


def text(value: object) -> str:
    """Return a value as escaped HTML text."""
    return value if isinstance(value, Html) else html.escape(str(value))


def chip(words: object, kind: str) -> Html:
    """Return text with a dot in the colour of a status: holds, borderline, fails or unknown."""
    return Html(f'<span class="chip {kind}">{text(words)}</span>')


def note(words: object) -> str:
    """Return a paragraph in small, muted text."""
    return f'<p class="soft">{text(words)}</p>'


def capitalized(words: str) -> Html:
    """Return words, escaped unless they are HTML, with a capital at the beginning."""
    escaped = text(words)
    return Html(escaped[:1].upper() + escaped[1:])


def explained(name: object, words: object) -> Html:
    """Return a cell with a name and, below it, its explanation in small, muted text."""
    return Html(f'{text(name)}<br><span class="soft">{text(words)}</span>')


def back(address: str, words: str) -> str:
    """Return the way back to another page.

    Args:
        address: relative address of the page.
        words: what it is.
    """
    return f'<p class="back"><a href="{html.escape(address)}">← {text(words)}</a></p>'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], texts: Iterable[str] = ()) -> str:
    """Return a table that scrolls in its own box. ``texts`` names the text columns, of which the last one wraps."""
    words = list(texts)
    kinds = ["" if column not in words else "text wrap" if column == words[-1] else "text" for column in columns]

    def line(tag: str, cells: Sequence[object]) -> str:
        return "".join(f'<{tag} class="{kind}">{text(cell)}</{tag}>' for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{line("th", columns)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def picture(drawings: Sequence[str], caption: str, title: str = "", legend: str = "") -> str:
    """Return a figure of one or more drawings with a caption."""
    heading = f"<h3>{text(title)}</h3>" if title else ""
    inside = "".join(f"<div>{drawing}</div>" for drawing in drawings)
    return (
        f'<figure>{heading}{legend}<div class="panels">{inside}</div><figcaption>{text(caption)}</figcaption></figure>'
    )


def page(title: str, body: str, wide: bool = False) -> str:
    """Return a whole HTML document.

    Args:
        title: title in the tab of the browser.
        body: HTML of the body.
        wide: whether to leave room for two columns.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>"
        f'<body class="{"wide" if wide else ""}">\n{body}\n</body></html>\n'
    )
