"""Styles of the configurations of a study: the same colour, dash and mark in every figure and table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from loopscope.reports.kit.charts import COLOURS, INK, THEMED
from loopscope.reports.kit.page import text
from loopscope.studies import StudyPlan

DASHES = ("", "6 2.5", "1.5 2", "7 2 1.5 2", "3 1.5")
"""Lengths of dashes and gaps, in line widths: solid, dashed, dotted, dash-dotted, short dashes."""
RECALLS = ("internal", "external", "none")
NORMS = ("outer", "pre", "gru", "sandwich", "peri")
"""Recalls and normalizations in the order of their colours, dashes and marks, which are the same in every figure. A figure
colours by one of the two. Normalizations in cold colours (blue, green, purple) bound the state, those in warm colours do not.
"""
FIXED = {"model.recall": RECALLS, "model.norm": NORMS}
"""Settings whose values have fixed styles. Values of other settings get styles in the order in which they occur."""
MARKS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "X": "✖"}
"""Markers of matplotlib with their characters in a page. The last one is for the baseline."""
BASELINE_DASH = "9 3"


@dataclass(frozen=True)
class Style:
    """The style of a configuration. Runs that differ only in their seeds have the same style.

    Args:
        label: settings in which the configuration differs from others.
        colour: colour, chosen by the first varied setting.
        dash: lengths of dashes and gaps, chosen by the other varied settings; empty for a solid line.
        mark: marker of matplotlib, chosen like the dash; empty for none.
    """

    label: str
    colour: str
    dash: str
    mark: str

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments for matplotlib's plot."""
        return {"color": self.colour, "ls": (0, tuple(map(float, self.dash.split()))) if self.dash else "-"}


def _value(settings: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.rpartition(".")
    return settings.get(section, {}).get(name) if section else settings.get(name)


def _words(key: str, value: Any) -> str:
    """Return a setting as text. A name stands alone; a number follows the name of its option."""
    return value if isinstance(value, str) else f"{key.rpartition('.')[2].replace('_', ' ')} {value}"


def _order(keys: Sequence[str], seen: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the distinct values of some settings in the order of their styles."""
    fixed = [(name,) for name in FIXED.get(keys[0], ())] if len(keys) == 1 else []
    return list(dict.fromkeys([*fixed, *seen]))


def norm_style(norm: str) -> Style:
    """Return the style of a normalization in a figure that colours by it. Unknown ones share a style."""
    place = NORMS.index(norm) if norm in NORMS else len(NORMS)
    return Style(norm, COLOURS[place], "", list(MARKS)[place])


def norm_dash(norm: str) -> str:
    """Return the dash of a normalization in a figure whose colours mean something else."""
    return DASHES[NORMS.index(norm) if norm in NORMS else -1]


def baseline_style(blocks: int) -> Style:
    """Return the style of models of fixed depth."""
    return Style(f"fixed depth, {blocks} blocks", INK, BASELINE_DASH, list(MARKS)[-1])


def styles_of(plan: StudyPlan) -> dict[str, Style]:
    """Return the style of every planned run by name. Styles do not change as a study progresses."""
    settings = {run.name: run.settings.to_dict() for run in plan.runs}
    fixed = {name for name, values in settings.items() if values["model"]["architecture"] == "fixed-depth"}
    looped = {name: values for name, values in settings.items() if name not in fixed}
    keys = [key for key in plan.varied if key.rpartition(".")[2] != "seed"]
    values = {name: tuple(_words(key, _value(own, key)) for key in keys) for name, own in looped.items()}
    varying = [i for i in range(len(keys)) if len({own[i] for own in values.values()}) > 1]
    varied = [keys[i] for i in varying]
    firsts = _order(varied[:1], (tuple(own[i] for i in varying[:1]) for own in values.values()))
    rests = _order(varied[1:], (tuple(own[i] for i in varying[1:]) for own in values.values()))
    found = {}
    for name, whole in settings.items():
        if name in fixed:
            found[name] = baseline_style(whole["model"]["blocks"])
            continue
        own = values[name]
        colour = firsts.index(tuple(own[i] for i in varying[:1]))
        rest = rests.index(tuple(own[i] for i in varying[1:]))
        label = " + ".join(own[i] for i in varying) or plan.name
        found[name] = Style(
            label, COLOURS[colour % len(COLOURS)], DASHES[rest % len(DASHES)], list(MARKS)[rest % len(DASHES)]
        )
    return found


def distinct(found: Iterable[Style]) -> list[Style]:
    """Return the distinct styles, in order."""
    return list(dict.fromkeys(found))


def line_handle(style: Style) -> Line2D:
    """Return the line of a style for a legend of matplotlib."""
    return Line2D([], [], lw=2, label=style.label, **style.line)


def marked_line_handle(style: Style) -> Line2D:
    """Return the line of a style with its mark for a legend of matplotlib."""
    return Line2D([], [], lw=2, marker=style.mark, mec="white", ms=7, label=style.label, **style.line)


def mark_handle(style: Style) -> Line2D:
    """Return the mark of a style for a legend of matplotlib."""
    return Line2D([], [], ls="", marker=style.mark, color=style.colour, label=style.label)


def add_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Add a legend below a figure, and enlarge the figure to make room for it."""
    width, height = figure.get_size_inches()
    columns = max(1, min(len(handles), int(width / 1.9)))
    figure.set_size_inches(width, height + 0.22 * -(-len(handles) // columns) + 0.1)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=3)


def legend(shown: Sequence[Style], draw: Callable[[Style], str]) -> str:
    """Return the legend of a page: each style, drawn by ``swatch`` or ``mark_swatch``, and its label."""
    entries = "".join(f"<span>{draw(style)}{text(style.label)}</span>" for style in shown)
    return f'<div class="legend">{entries}</div>'


def swatch(style: Style) -> str:
    """Return a short piece of the line of a style, for legends and tables of a page."""
    return _swatch(style, "")


def marked_swatch(style: Style) -> str:
    """Return a short piece of the line of a style with its mark, for the legend of a page."""
    if not style.mark:
        return swatch(style)
    place = f'x="17" y="9.2" font-size="12" text-anchor="middle" fill="{_themed(style)}"'
    return _swatch(style, f"<text {place}>{MARKS[style.mark]}</text>")


def _swatch(style: Style, over: str) -> str:
    dash = " ".join(f"{2 * float(part):g}" for part in style.dash.split())
    line = (
        f'<line x1="1" x2="33" y1="5" y2="5" stroke="{_themed(style)}" stroke-width="2.4" stroke-dasharray="{dash}"/>'
    )
    return f'<svg class="swatch" width="34" height="10" aria-hidden="true">{line}{over}</svg>'


def mark_swatch(style: Style) -> str:
    """Return the mark of a style, for the legend of a page."""
    return f'<b class="swatch" style="color:{_themed(style)}" aria-hidden="true">{MARKS[style.mark]}</b>'


def _themed(style: Style) -> str:
    return THEMED.get(style.colour, style.colour)
