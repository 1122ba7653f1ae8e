"""How each configuration of a study is drawn: the same colour, dash and mark in every figure and table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from loopscope.reports.charts import COLOURS, INK, THEMED
from loopscope.studies import StudyPlan

DASHES = ("", "6 2.5", "1.5 2", "7 2 1.5 2", "3 1.5")
"""Lengths of line and gap, in line widths: solid, dashed, dotted, dash-dotted, short dashes."""
MARKS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "X": "✖"}
"""Marks of matplotlib, and how a page shows them; the last one is the baseline's."""
BASELINE_DASH = "1 3"


@dataclass(frozen=True)
class Look:
    """How a configuration is drawn; runs that differ only in their seeds look alike.

    Args:
        label: the settings in which it differs from others.
        colour: by the first varied setting.
        dash: by the other ones; lengths of line and gap, empty for a solid line.
        mark: matplotlib's marker, by the same.
    """

    label: str
    colour: str
    dash: str
    mark: str

    @property
    def line(self) -> dict[str, Any]:
        """What matplotlib's plot takes."""
        return {"color": self.colour, "ls": (0, tuple(map(float, self.dash.split()))) if self.dash else "-"}


def _value(settings: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.rpartition(".")
    return settings.get(section, {}).get(name) if section else settings.get(name)


def _words(key: str, value: Any) -> str:
    """Return a setting in words: names stand alone, numbers carry their option's name."""
    return value if isinstance(value, str) else f"{key.rpartition('.')[2].replace('_', ' ')} {value}"


def looks(plan: StudyPlan) -> dict[str, Look]:
    """Return the look of each run by name: of all planned runs, so that it stays while a study grows."""
    settings = {run.name: run.settings.to_dict() for run in plan.runs}
    fixed = {name for name, values in settings.items() if values["model"]["architecture"] == "fixed-depth"}
    looped = {name: values for name, values in settings.items() if name not in fixed}
    keys = [key for key in plan.varied if key.rpartition(".")[2] != "seed"]
    values = {name: tuple(_words(key, _value(own, key)) for key in keys) for name, own in looped.items()}
    varying = [i for i in range(len(keys)) if len({own[i] for own in values.values()}) > 1]
    firsts = list(dict.fromkeys(own[i] for own in values.values() for i in varying[:1]))
    rests = list(dict.fromkeys(tuple(own[i] for i in varying[1:]) for own in values.values()))
    found = {}
    for name, whole in settings.items():
        if name in fixed:
            found[name] = Look(f"fixed depth, {whole['model']['blocks']} blocks", INK, BASELINE_DASH, list(MARKS)[-1])
            continue
        own = values[name]
        colour = firsts.index(own[varying[0]]) if varying else 0
        rest = rests.index(tuple(own[i] for i in varying[1:]))
        label = " + ".join(own[i] for i in varying) or plan.name
        found[name] = Look(
            label, COLOURS[colour % len(COLOURS)], DASHES[rest % len(DASHES)], list(MARKS)[rest % len(DASHES)]
        )
    return found


def distinct(found: Iterable[Look]) -> list[Look]:
    """Return each look once, in order."""
    return list(dict.fromkeys(found))


def line_handle(look: Look) -> Line2D:
    """Return a look's line for a legend of matplotlib."""
    return Line2D([], [], lw=2, label=look.label, **look.line)


def mark_handle(look: Look) -> Line2D:
    """Return a look's mark for a legend of matplotlib."""
    return Line2D([], [], ls="", marker=look.mark, color=look.colour, label=look.label)


def add_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put a legend under a figure, in space that it adds."""
    width, height = figure.get_size_inches()
    columns = max(1, min(len(handles), int(width / 1.9)))
    figure.set_size_inches(width, height + 0.22 * -(-len(handles) // columns) + 0.1)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=3)


def swatch(look: Look) -> str:
    """Return a short piece of a look's line, for a page's legend and tables."""
    dash = " ".join(f"{2 * float(part):g}" for part in look.dash.split())
    line = f'<line x1="1" x2="33" y1="5" y2="5" stroke="{_themed(look)}" stroke-width="2.4" stroke-dasharray="{dash}"/>'
    return f'<svg class="swatch" width="34" height="10" aria-hidden="true">{line}</svg>'


def mark_swatch(look: Look) -> str:
    """Return a look's mark, for a page's legend."""
    return f'<b class="swatch" style="color:{_themed(look)}" aria-hidden="true">{MARKS[look.mark]}</b>'


def _themed(look: Look) -> str:
    return THEMED.get(look.colour, look.colour)
