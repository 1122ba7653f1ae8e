"""Accuracy of one task's models against iterations, with a panel for each recall.

If all models were trained with the same number of iterations, colours show the normalization. Otherwise colours show that
number and dashes the normalization, since a mean over models that were trained differently describes none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.prediction.analysis.breakdowns import recall_name
from experiments.prediction.population import Member, ThinCurve
from loopscope.reports.kit.charts import (
    SHADE,
    Panel,
    iteration_axis,
    ordered_colours,
    percent_axis,
    shade_training,
    tidy,
)
from loopscope.reports.kit.styles import NORMS, RECALLS, Style, baseline_style, norm_dash, norm_style

WIDTH, HEIGHT = 3.7, 3.1
FIRST_MARK, APART, BESIDE = 1.9, 2.8, 1.22
"""Marks on the line of a normalization begin at this iteration, a factor apart from each other, and a factor beside those of
the previous normalization."""
THIN: dict[str, Any] = {"lw": 0.6, "alpha": 0.4}


def _in_order(found: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return each name once: known names in their order, then the others as they come."""
    return [*(name for name in known if name in found), *(name for name in dict.fromkeys(found) if name not in known)]


def _evaluated(members: Sequence[Member]) -> tuple[list[Member], list[Member]]:
    """Return the looped models that were evaluated, and the baselines."""
    known = [member for member in members if member.easy is not None]
    return [one for one in known if one.looped], [one for one in known if not one.looped]


def _trained(looped: Sequence[Member]) -> list[int]:
    return sorted({member.trained_iterations for member in looped})


def _ends(trained: Sequence[int]) -> dict[int, str]:
    """Return a colour for each number of iterations in training."""
    return dict(zip(trained, ordered_colours(len(trained)), strict=True))


def _style_of(trained: Sequence[int]) -> Callable[[Member], Style]:
    """Return the function that says how a model is drawn, given the numbers of iterations in training."""
    if len(trained) < 2:
        return lambda member: norm_style(member.norm)
    colours = _ends(trained)

    def style_of(member: Member) -> Style:
        norm, count = member.norm, member.trained_iterations
        return Style(f"{norm}, {count}", colours[count], norm_dash(norm), "o")

    return style_of


def _level(member: Member) -> Style:
    return replace(baseline_style(member.settings["model"]["blocks"]), mark="")


def curve_styles(members: Sequence[Member]) -> list[Style]:
    """Return the legend of ``curve_panels``."""
    looped, deep = _evaluated(members)
    trained, levels = _trained(looped), list(dict.fromkeys(map(_level, deep)))
    norms = _in_order([member.norm for member in looped], NORMS)
    if len(trained) < 2:
        return [*map(norm_style, norms), *levels]
    ends = [Style(f"trained with {count} iterations", colour, "", "o") for count, colour in _ends(trained).items()]
    return [*ends, *(Style(norm, SHADE, norm_dash(norm), "") for norm in norms), *levels]


def _groups(members: Sequence[Member], style_of: Callable[[Member], Style]) -> dict[Style, list[Member]]:
    groups: dict[Style, list[Member]] = {}
    for member in members:
        groups.setdefault(style_of(member), []).append(member)
    return groups


def _mean(curves: Sequence[ThinCurve]) -> tuple[list[int], np.ndarray]:
    """Return the iterations that all curves keep, and the mean accuracy there."""
    at = sorted(set.intersection(*(set(curve.iterations) for curve in curves)))
    kept = [dict(zip(curve.iterations, curve.accuracy, strict=True)) for curve in curves]
    return at, np.mean([[curve[iteration] for iteration in at] for curve in kept], axis=0)


def _spread(last: int, order: int) -> list[float]:
    """Return the iterations of the marks on a line, which stand beside those of the lines before it."""
    first = FIRST_MARK * BESIDE**order
    count = 1 + int(np.log(max(last / first, 1.0)) / np.log(APART))
    return [first * APART**place for place in range(count)]


def curve_panels(members: Sequence[Member], hardest: bool) -> list[Panel]:
    """Return accuracy against iterations of one task's models: models as thin lines, means over a kind as thick ones.

    Args:
        members: the models.
        hardest: whether to show the hardest problems instead of the easy ones.
    """
    looped, deep = _evaluated(members)
    trained = _trained(looped)
    style_of = _style_of(trained)

    def curve(member: Member) -> ThinCurve:
        found = member.hard if hardest else member.easy
        assert found is not None
        return found

    longest = max((curve(member).iterations[-1] for member in looped), default=2)
    highest = max((max(curve(member).accuracy) for member in (*looped, *deep)), default=1.0)
    top = 100 if highest > 0.6 else 20 * max(1, int(np.ceil(5 * highest)))

    def thick(axes: Axes, drawn: Style, group: Sequence[Member], order: int) -> None:
        at, mean = _mean(list(map(curve, group)))
        axes.plot(at, 100 * mean, lw=2, zorder=3, **drawn.line)
        wanted = _spread(at[-1], order) if len(trained) < 2 else [group[0].trained_iterations]
        places = [int(np.argmin(np.abs(np.log(at) - np.log(iteration)))) for iteration in wanted]
        style: dict[str, Any] = {"ms": 6, "mec": "white", "mew": 0.8, "zorder": 4}
        axes.plot(np.array(at)[places], 100 * mean[places], drawn.mark, c=drawn.colour, **style)

    def levels(axes: Axes) -> None:
        for drawn, group in _groups(deep, _level).items():
            for member in group:
                axes.axhline(100 * curve(member).last, **THIN, **drawn.line)
            mean = 100 * float(np.mean([curve(member).last for member in group]))
            axes.axhline(mean, lw=1.3, zorder=2.5, **drawn.line)
            words, place = drawn.label.replace(" ", "\n", 2), axes.get_yaxis_transform()
            axes.text(1.02, mean, words, transform=place, va="center", fontsize=7.5, color=drawn.colour)

    def panel(recall: str) -> Panel:
        own = [member for member in looped if member.recall == recall]

        def draw(axes: Axes) -> None:
            iteration_axis(axes, longest)
            if len(trained) == 1:
                shade_training(axes, trained[0])
            for member in own:
                thin = curve(member)
                axes.plot(thin.iterations, 100 * np.array(thin.accuracy), c=style_of(member).colour, **THIN)
            for order, (drawn, group) in enumerate(_groups(own, style_of).items()):
                thick(axes, drawn, group, order)
            levels(axes)
            percent_axis(axes, top)
            title = f"{recall_name(recall)}, {len(own)} models"
            tidy(axes, "iterations", f"{'hardest' if hardest else 'easy'} problems right, %", title)

        return Panel(draw, WIDTH, HEIGHT)

    return [panel(recall) for recall in _in_order([member.recall for member in looped], RECALLS)]
