"""The skeleton of a self-contained page: one file, no network, readable at any width, light and dark."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6575; --line: #d9dee6; --card: #f6f8fa; --paper: #ffffff;
  --good: #1a7f4b; --bad: #b3372f; --warn: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b2; --line: #333b47; --card: #1b212b;
  --paper: #12161d; --good: #4cc38a; --bad: #ff8078; --warn: #e3b341; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { max-width: 46rem; margin: .5rem 0; } .soft { color: var(--soft); font-size: .92rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { background: var(--card); font-weight: 600; } tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child, td.text, th.text { text-align: left; } td.wrap { white-space: normal; min-width: 16rem; }
figure { margin: 1rem 0; } figure img { width: 100%; height: auto; border-radius: 8px; background: #fff; }
figcaption { color: var(--soft); font-size: .92rem; max-width: 46rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 0 1.5rem; }
.verdict { font-size: 1.35rem; font-weight: 650; } .holds { color: var(--good); } .fails { color: var(--bad); }
.borderline, .unknown { color: var(--warn); }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 2rem; }
"""


def text(value: object) -> str:
    """Return a value as HTML text."""
    return html.escape(str(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], texts: Iterable[str] = ()) -> str:
    """Return a table that scrolls inside its own box; ``texts`` names the columns of words; the last of them wraps."""
    words = list(texts)
    left = ["" if column not in words else "text wrap" if column == words[-1] else "text" for column in columns]

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(f'<{tag} class="{kind}">{text(cell)}</{tag}>' for kind, cell in zip(left, cells, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{line("th", columns)}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def picture(image: bytes, caption: str) -> str:
    """Return a PNG inside the page, with the sentences that say how to read it."""
    data = base64.b64encode(image).decode()
    # A PNG's header holds its width; three quarters of it is the size at which its letters match the text's.
    width = int.from_bytes(image[16:20], "big") * 3 // 4
    image_tag = f'<img alt="{text(caption)}" style="max-width:{width}px" src="data:image/png;base64,{data}">'
    return f"<figure>{image_tag}<figcaption>{text(caption)}</figcaption></figure>"


def page(title: str, body: str, script: str = "") -> str:
    """Return a whole HTML document.

    Args:
        title: shown in the browser's tab.
        body: HTML.
        script: HTML for the head, such as a library's inlined script.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style>{script}</head><body>\n{body}\n</body></html>\n"
    )
