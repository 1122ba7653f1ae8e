"""A problem being solved, iteration by iteration, in a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loopscope.answers.answerer import answer_of, frames, open_answerer
from loopscope.errors import LoopscopeError
from loopscope.reports.answers import arrival_of, verdict_on
from loopscope.reports.kit.page import note, text
from loopscope.reports.kit.styled_text import styled
from loopscope.tasks.text import Frame, legend

MOST_FRAMES = 6
MOST_ITERATIONS = 120
"""Iterations that a page spends on its example."""


def key_frames(seen: Sequence[Frame], most: int = MOST_FRAMES) -> list[Frame]:
    """Return the frames to show: the first and the last one, and some of those in which the answer changed.

    Args:
        seen: the frames of all iterations.
        most: largest number of frames to return, at least 2.
    """
    changed = [frame for frame in seen[1:-1] if bool(frame.changed.any())]
    places = np.unique(np.linspace(0, len(changed) - 1, min(most - 2, len(changed))).round().astype(int))
    return [seen[0], *(changed[place] for place in places), *seen[1:][-1:]]


def solving(run: Path, name: str) -> str:
    """Return the example problem of a run's task as its model solves it, or a note on why it is not shown.

    Args:
        run: folder of the run.
        name: what the page calls the run.
    """
    try:
        answerer = open_answerer(str(run))
    except LoopscopeError as error:
        return note(f"No problem is shown being solved, because the model of {name} cannot be asked: {error}.")
    problem = answerer.text.read(answerer.text.example)
    seen = list(frames(answerer, problem, answerer.tolerance, MOST_ITERATIONS))
    shown = [(frame, answerer.text.picture(problem, frame)) for frame in key_frames(seen)]
    drawn = "".join(
        f"<figure><figcaption>iteration {frame.iteration}</figcaption>{styled(picture)}</figure>"
        for frame, picture in shown
    )
    said = answer_of(answerer, problem, seen[-1], answerer.tolerance)
    marks = legend([picture for _, picture in shown])
    return (
        f"<p><b>One problem, answered by {text(name)}.</b> {text(verdict_on(said))} {text(arrival_of(said))}</p>"
        f'<div class="frames">{drawn}</div><div class="soft">{styled(marks, "span")}</div>'
    )
