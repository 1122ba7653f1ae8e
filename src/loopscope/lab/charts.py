"""The drawings of the lab as SVG: how much the state still changes, and the orbit from above."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.evaluation import SETTLED
from loopscope.lab.lane import Lane, Origin, Track
from loopscope.reports.kit.page import text
from loopscope.stability.orbits.plane import principal_plane

WIDTH, HEIGHT = 440, 252
LEFT, RIGHT, TOP, BOTTOM = 38, 6, 10, 32
"""Margins of the curve, in units of its drawing."""
LINEAR = 600
"""Iterations up to which the axis is linear; beyond, it is logarithmic."""
ENDS = (30, 60, 100, 150, 200, 300, 400, 600, 1000, 2000, 5000, 10_000, 20_000)
"""Where the axis of iterations may end, so that it does not move with every step."""
COLUMNS = 500
"""Points of a curve that are drawn; of more, the smallest and the largest of each column are."""
LOWEST, HIGHEST = 1e-8, 1e2
"""Residuals beyond these are drawn at the edge."""
SIDE = 252
"""Width and height of the plane, in units of its drawing."""
MOST_POINTS, MOST_NUMBERS = 48, 2_000_000
"""Points of an orbit in the plane, and numbers in all of them together."""
MOST_FITTED = 24
"""Points that the plane is fitted to, evenly chosen from those that are drawn. The fit takes time in the square of their number."""
COLOURS = ("twin-1", "twin-2", "twin-3")
"""CSS classes of the orbits of experiments, in their order."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axes:
    """The scales of a chart of residuals.

    Args:
        end: the last iteration of the axis.
        low: the lowest residual, as a power of ten.
        high: the highest residual, as a power of ten.
    """

    end: int
    low: int
    high: int

    def x(self, iteration: float) -> float:
        """Return the place of an iteration."""
        share = iteration / self.end if self.end <= LINEAR else math.log1p(iteration) / math.log1p(self.end)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, residual: float) -> float:
        """Return the place of a residual; those beyond the axis are at its edge."""
        level = math.log10(residual) if residual > 0 else -math.inf
        share = (min(max(level, self.low), self.high) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def axes_of(lanes: Sequence[Lane]) -> Axes:
    """Return axes on which the residuals of all lanes fit, so that they can be compared by eye."""
    last = max(track.orbit.end for lane in lanes for track in lane.tracks)
    found = [value for lane in lanes for track in _drawn(lane) for _, value in track.orbit.residuals()]
    found += [residual for lane in lanes for _, residual in lane.landings]
    known = [min(max(value, LOWEST), HIGHEST) for value in found if math.isfinite(value)]
    low, high = min([*known, SETTLED / 2]), max([*known, 0.5])
    return Axes(
        next((end for end in ENDS if end >= last), last), math.floor(math.log10(low)), math.ceil(math.log10(high))
    )


def residual_chart(lane: Lane, iteration: int, axes: Axes) -> str:
    """Return the curve of the relative residual against iterations, on a logarithmic axis.

    Args:
        lane: the lane.
        iteration: the iteration that the board shows, which is marked.
        axes: see `axes_of`.
    """
    parts = [_frame(axes)]
    if lane.exhibit.trained_iterations:
        width = axes.x(min(lane.exhibit.trained_iterations, axes.end)) - LEFT
        parts.append(
            f'<rect class="trained" x="{LEFT}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'
        )
        if width > 112:
            parts.append(
                f'<text class="small" x="{LEFT + 5}" y="{HEIGHT - BOTTOM - 6}">iterations seen in training</text>'
            )
    level = axes.y(SETTLED)
    parts.append(
        f'<line class="settled" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>'
        f'<text class="small" x="{WIDTH - RIGHT}" y="{level - 4:.1f}" text-anchor="end">settled</text>'
    )
    for track, style in zip(_drawn(lane), ("own", *COLOURS), strict=False):
        parts.append(f'<path class="curve {style}" d="{_curve(track.orbit.residuals(), axes)}"/>')
        if track.origin in (Origin.PUSHED, Origin.CHANGED):
            x = axes.x(track.orbit.began)
            parts.append(f'<line class="event {style}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    parts += [_diamond(axes.x(landing.iteration), axes.y(residual), 5) for landing, residual in lane.landings]
    parts.append(_now(lane, iteration, axes))
    return _svg(_description(lane, iteration), WIDTH, HEIGHT, "".join(parts))


def plane_chart(lane: Lane, iteration: int) -> str:
    """Return the orbits of a lane in the plane that shows most of them; an empty one while there is too little to see.

    Args:
        lane: the lane, which remembers the plane, so that the picture does not turn over from one iteration to the next.
        iteration: the iteration that the board shows, which is marked.
    """
    tracks = lane.tracks
    size = lane.own.orbit.points([lane.own.orbit.end]).shape[1]
    most = max(4, min(MOST_POINTS, MOST_NUMBERS // size // len(tracks)))
    times = [track.orbit.kept(most) for track in tracks]
    states = [_finite(track.orbit.points(one)) for track, one in zip(tracks, times, strict=True)]
    points = torch.cat(states)
    if len(points) < 3:
        return _svg("The orbit from above: nothing to see yet", SIDE, SIDE, _nothing())
    plane = principal_plane(_few(points, MOST_FITTED), states[0][-1])
    plane = lane.plane = plane if lane.plane is None else plane.aligned(lane.plane)
    places = plane.project(points)
    place, paths = _scale(places), places.split([len(state) for state in states])
    parts = []
    styles = {id(lane.own): "own", **{id(one): style for one, style in zip(lane.twins, COLOURS, strict=False)}}
    for track, path in zip(tracks, paths, strict=True):
        style = styles.get(id(track), "reference")
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, path.tolist()))
        parts.append(f'<polyline class="curve {style}" points="{line}"/>')
        parts += [
            f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="1.6"/>' for x, y in map(place, path.tolist())
        ]
    for track, path in zip(tracks, paths, strict=True):
        style = styles.get(id(track), "reference")
        parts.append(_start(*place(path[0].tolist()), style))
        parts.append(_end(*place(path[-1].tolist()), style))
    if lane.landings:
        parts += [_diamond(*place(point), 5) for point in plane.project(lane.points_of_leaps()).tolist()]
    track = lane.at(iteration)
    here = plane.project(track.orbit.points([min(max(iteration, track.orbit.began), track.orbit.end)]))[0]
    if bool(here.isfinite().all()):
        x, y = place(here.tolist())
        parts.append(f'<circle class="here" cx="{x:.1f}" cy="{y:.1f}" r="7"/>')
    shown = 100 * float(plane.explained.sum())
    parts.append(f'<text class="small" x="8" y="{SIDE - 8}">shows {shown:.0f}% of the movement</text>')
    label = f"The orbit from above: the plane that shows {shown:.0f}% of the movement, with {len(tracks)} orbits"
    return _svg(label, SIDE, SIDE, "".join(parts))


def _drawn(lane: Lane) -> list[Track]:
    return [lane.own, *lane.twins]


def _svg(label: str, width: int, height: int, inside: str) -> str:
    return f'<svg role="img" aria-label="{text(label)}" viewBox="0 0 {width} {height}">{inside}</svg>'


def _description(lane: Lane, iteration: int) -> str:
    track = lane.at(iteration)
    residual = track.orbit.residual(min(iteration, track.orbit.end))
    if residual is None:
        value = "no step has been taken"
    elif not math.isfinite(residual):
        value = f"not a finite number at iteration {iteration}"
    else:
        value = f"{residual:.1e} at iteration {iteration}"
    return f"How much the state changes per iteration, relative to its size: {value}"


def _frame(axes: Axes) -> str:
    """Return the axes with their ticks."""
    parts = []
    every = 1 if axes.high - axes.low <= 5 else 2
    for power in range(axes.high, axes.low - 1, -every):
        y = axes.y(10.0**power)
        name = {0: "100%", -1: "10%", -2: "1%"}.get(power, f"10{str(power).translate(RAISED)}")
        parts.append(
            f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
        )
    for tick in _ticks(axes.end):
        parts.append(f'<text x="{axes.x(tick):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{tick:,}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end" class="small">iteration</text>')
    return "".join(parts)


def _ticks(end: int) -> list[int]:
    if end > LINEAR:
        return [tick for tick in (0, 3, 10, 30, 100, 300, 1000, 3000, 10_000) if tick <= end]
    every = next(step for step in (5, 10, 20, 25, 50, 100) if end / step <= 6)
    return list(range(0, end + 1, every))


def _curve(points: Iterable[tuple[int, float]], axes: Axes) -> str:
    """Return a curve as an SVG path; of many points, the extremes of each column. Values that are not finite are left out."""
    placed = [(axes.x(at), axes.y(value)) for at, value in points if math.isfinite(value)]
    if len(placed) > COLUMNS:
        columns: dict[int, list[tuple[float, float]]] = {}
        for x, y in placed:
            columns.setdefault(int(x), []).append((x, y))
        placed = [
            point
            for column in columns.values()
            for point in sorted({min(column, key=_second), max(column, key=_second)})
        ]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed) if placed else ""


def _second(pair: tuple[float, float]) -> float:
    return pair[1]


def _now(lane: Lane, iteration: int, axes: Axes) -> str:
    """Return the mark of the iteration that the board shows."""
    x = axes.x(iteration)
    line = f'<line class="now" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    track = lane.at(iteration)
    residual = track.orbit.residual(iteration) if iteration <= track.orbit.end else None
    if residual is None or not math.isfinite(residual):
        return line
    return f'{line}<circle class="here" cx="{x:.1f}" cy="{axes.y(residual):.1f}" r="5"/>'


def _finite(points: Float[Tensor, "points n"]) -> Float[Tensor, "finite n"]:
    """Return the points whose numbers have a finite sum: none is NaN or infinite, and together they do not overflow."""
    return points[points.sum(1).isfinite()]


def _few(points: Float[Tensor, "points n"], most: int) -> Float[Tensor, "few n"]:
    """Return at most ``most`` of the points, evenly chosen from the first to the last."""
    return points if len(points) <= most else points[torch.linspace(0, len(points) - 1, most).round().long()]


def _scale(points: Float[Tensor, "points 2"]) -> Callable[[Sequence[float]], tuple[float, float]]:
    """Return the map from the plane to the drawing, which keeps angles."""
    low, high = points.amin(0), points.amax(0)
    middle, extent = ((low + high) / 2).tolist(), float((high - low).max()) or 1.0
    room = SIDE - 56

    def place(point: Sequence[float]) -> tuple[float, float]:
        return (
            SIDE / 2 + room * (point[0] - middle[0]) / extent,
            SIDE / 2 - room * (point[1] - middle[1]) / extent,
        )

    return place


def _start(x: float, y: float, style: str) -> str:
    return f'<circle class="start {style}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def _end(x: float, y: float, style: str) -> str:
    return f'<rect class="end {style}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" rx="1.5"/>'


def _diamond(x: float, y: float, size: float) -> str:
    return f'<path class="leap" d="M{x:.1f} {y - size:.1f}l{size} {size}l-{size} {size}l-{size} -{size}z"/>'


def _nothing() -> str:
    return f'<text x="{SIDE / 2}" y="{SIDE / 2}" text-anchor="middle" class="small">press Play</text>'
