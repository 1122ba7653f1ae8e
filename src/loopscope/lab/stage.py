"""What a session shows: boards and charts as one piece of HTML."""

from __future__ import annotations

from pathlib import Path

from loopscope.lab import findings
from loopscope.lab.charts import COLOURS, axes_of, plane_chart, residual_chart
from loopscope.lab.lane import Lane, Origin, Track
from loopscope.lab.session import Session
from loopscope.reports.kit.page import text

STYLE = (Path(__file__).parent / "stage.css").read_text()
"""The style sheet of the page."""
CAPTIONS = {
    "curve": ("How much the state still changes", "where it falls to the dashed line, the state has settled"),
    "plane": ("The orbit from above", "every dot is a state"),
}
"""The title of each drawing, and how to read it."""


def stage(session: Session) -> str:
    """Return the boards and the charts at the iteration that a session shows."""
    axes = axes_of(session.lanes)
    shown = []
    for place, lane in enumerate(session.lanes):
        iteration = min(session.iteration, lane.end)
        shown.append(
            f'<section class="lane" data-lane="{place}" aria-label="{text(lane.exhibit.name)}">'
            f'<header><h2>{text(lane.exhibit.name)}</h2><p class="soft">{text(lane.exhibit.about)}</p></header>'
            f'<div class="thinking"><div class="problem">{board(lane, iteration)}</div><div class="charts">'
            f"{_figure('curve', residual_chart(lane, iteration, axes))}{_figure('plane', plane_chart(lane, iteration))}"
            f"{legend(lane)}{verdict(lane, iteration)}</div></div></section>"
        )
    return f'<div class="stage lanes-{len(session.lanes)}">{"".join(shown)}</div>'


def board(lane: Lane, iteration: int) -> str:
    """Return the board at an iteration: the problem alone at the first state of the model's own orbit."""
    track, view = lane.at(iteration), lane.exhibit.view
    alone = iteration == 0 and track.origin is Origin.OWN
    shown = view.html(track.question, None if alone else lane.snapshot(iteration))
    pad = _pad(view.keys) if alone else ""
    return f'<p class="iteration"><span>iteration</span> <b>{iteration:,}</b></p>{shown}{pad}'


def verdict(lane: Lane, iteration: int) -> str:
    """Return what there is to say of the answer at an iteration."""
    kind, words = findings.state_of(lane, iteration)
    return f'<p class="verdict {kind}">{text(words)}</p>'


def legend(lane: Lane) -> str:
    """Return the legend of the orbits that are drawn."""
    entries = [("own", "the model's own orbit")]
    entries += [(style, _name(track)) for style, track in zip(COLOURS, lane.twins, strict=False)]
    if lane.reference is not None:
        entries.append(("reference", "the new problem from its own start"))
    if lane.landings:
        entries.append(("leap", "where leaps from iteration 15 land"))
    inside = "".join(f'<li><i class="{style}"></i>{text(words)}</li>' for style, words in entries)
    marks = '<li><i class="start-mark"></i>start</li><li><i class="end-mark"></i>end</li>'
    return f'<ul class="orbits">{inside}{marks}</ul>'


def _name(track: Track) -> str:
    at = track.orbit.began
    return {
        Origin.PUSHED: f"pushed at iteration {at}",
        Origin.RANDOM: "from a random start",
        Origin.CHANGED: f"problem changed at iteration {at}",
    }[track.origin]


def _figure(kind: str, drawing: str) -> str:
    caption, hint = CAPTIONS[kind]
    return (
        f'<figure class="{kind}"><figcaption>{text(caption)}<small>{text(hint)}</small></figcaption>{drawing}</figure>'
    )


def _pad(keys: dict[str, str]) -> str:
    """Return buttons that write into the selected cell, for screens without a keyboard."""
    buttons = "".join(
        f'<button type="button" data-key="{key}" aria-label="write {text(name)}">{text(name)}</button>'
        for key, name in keys.items()
    )
    return f'<div class="pad" role="toolbar" aria-label="Write into the selected cell">{buttons}</div>' if keys else ""
