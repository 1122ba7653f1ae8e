"""Record the lab as an animation: a sudoku is solved, its state is pushed, and it comes back.

    python -m experiments.pictures.lab

The frames are what the lab shows, drawn by a headless browser (the package playwright, and a Chromium or Chrome of the system).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from experiments.pictures.browser import launch
from loopscope.lab.exhibits import open_exhibit
from loopscope.lab.session import Session
from loopscope.lab.stage import STYLE, stage

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "lab.gif"
WIDTH, HEIGHT = 1000, 500
PUSH = 1.5
"""Length of the push, in norms of the state."""
SOLVING, RETURNING = 32, 34
"""Iterations shown before the push and after it."""
PACE, REST = 110, 1600
"""Milliseconds of a frame, and of one where there is something to read."""
COLOURS = 128
MOST = 1_000_000
"""Bytes of the animation."""
LOOK = """
body { margin: 0; background: #fff; font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
.lab { padding: 14px 20px; } .lane header, .key, figcaption small { display: none !important; }
.thinking { grid-template-columns: 390px minmax(0, 1fr) !important; gap: 1.6rem !important; }
.charts { grid-template-columns: minmax(0, 1.746fr) minmax(0, 1fr) !important; gap: .7rem .9rem !important; }
.charts figure { padding-top: 18px !important; } .charts text { font-size: 13px; } .charts .small { font-size: 12px; }
.doing { font-size: 1.15rem; font-weight: 650; padding-bottom: 6px !important; }
"""


@dataclass(frozen=True)
class Frame:
    """One frame.

    Args:
        doing: what is going on, in words.
        stage: HTML of the stage.
        milliseconds: how long it is shown.
    """

    doing: str
    stage: str
    milliseconds: int


def frames() -> Iterator[Frame]:
    """Yield the frames."""
    session = Session([open_exhibit("sudoku")])
    yield Frame("A sudoku, and a model that applies one block again and again", stage(session), REST)
    for _ in range(SOLVING):
        session.step()
        yield Frame("Each iteration changes the state, and the answer with it", stage(session), PACE)
    yield Frame("Solved. Is it a fixed point? Push it", stage(session), REST)
    push = session.push(PUSH)
    next(push)
    yield Frame(f"Pushed by {100 * PUSH:.0f}% of its size, in a random direction", stage(session), REST)
    for _ in range(RETURNING):
        next(push)
        yield Frame("It finds its way back", stage(session), PACE)
    yield Frame("The same answer: the loop came back", stage(session), 2 * REST)


def drawn(page: Page, frame: Frame) -> Image.Image:
    """Return a frame as a picture."""
    page.set_content(
        f'<style>{STYLE}{LOOK}</style><div class="lab"><p class="doing">{frame.doing}</p>{frame.stage}</div>'
    )
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def palette_of(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return one palette for all pictures, so that what does not change is not stored again."""
    few = pictures[:: max(1, len(pictures) // 6)]
    strip = Image.new("RGB", (WIDTH, HEIGHT * len(few)))
    for place, picture in enumerate(few):
        strip.paste(picture, (0, HEIGHT * place))
    return strip.quantize(COLOURS, dither=Image.Dither.NONE)


def main() -> None:
    """Write the animation."""
    shown = list(frames())
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        pictures = [drawn(page, frame) for frame in shown]
        browser.close()
    palette = palette_of(pictures)
    flat = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations = [frame.milliseconds for frame in shown]
    flat[0].save(PICTURE, save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=True)
    size = PICTURE.stat().st_size
    print(f"{PICTURE}: {len(flat)} frames, {size:,} bytes")
    if size > MOST:
        raise SystemExit(f"the animation takes {size:,} bytes, expected at most {MOST:,}")


if __name__ == "__main__":
    main()
