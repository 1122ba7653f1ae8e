"""The interactive figure of accuracy against iterations, drawn by plotly, whose script is embedded in the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from loopscope.extras import check_installed
from loopscope.reports.kit.charts import COLOURS, INK, SHADE
from loopscope.reports.kit.styles import Style
from loopscope.reports.study.figures import accuracy_curves
from loopscope.reports.study.table import split_names
from loopscope.studies import Record

if TYPE_CHECKING:
    import plotly.graph_objects as go

QUIET = "#7d8795"
"""A colour that is legible on white and on black, because text of plotly cannot follow the theme of the page."""
PANEL, LINE, MARGIN = 250, 24, 130
"""Heights in pixels of the panel of a split, of a line of the legend, and of the margins."""


def explore_figure(records: Sequence[Record], styles: Mapping[str, Style], trained: int) -> go.Figure:
    """Return the interactive figure of accuracy against iterations, one row per split.

    Raises:
        LoopscopeError: plotly is not installed.
    """
    check_installed("plotly", "a figure to explore")
    from plotly.subplots import make_subplots

    splits = split_names(records)
    figure = make_subplots(
        rows=len(splits), cols=1, shared_xaxes=True, vertical_spacing=0.2 / len(splits), subplot_titles=splits
    )
    shown: set[str] = set()
    for row, split in enumerate(splits, start=1):
        curves = accuracy_curves(records, split)
        longest = max(map(len, curves.values()))
        for run, curve in curves.items():
            style, level = styles[run], len(curve) == 1
            dash = " ".join(f"{2 * float(part):g}px" for part in style.dash.split())
            figure.add_scatter(
                x=[1, longest] if level else None,
                x0=None if level else 1,
                y=[round(float(curve[0]), 2)] * 2 if level else [round(float(value), 2) for value in curve],
                mode="lines",
                name=style.label,
                legendgroup=style.label,
                showlegend=style.label not in shown,
                line={"color": QUIET if style.colour == INK else style.colour, "dash": dash or "solid", "width": 2},
                hovertemplate=f"{run}: %{{y:.1f}}%<extra></extra>",
                row=row,
                col=1,
            )
            shown.add(style.label)
        figure.add_vrect(x0=1, x1=trained, fillcolor=SHADE, opacity=0.18, line_width=0, row=row, col=1)
        figure.update_yaxes(title_text="right, %", range=[-3, 103], row=row, col=1)
    # Only the browser knows the width of the legend. Assume two names per line.
    top = MARGIN + LINE * len(shown) // 2
    height = PANEL * len(splits) + top
    figure.update_xaxes(
        type="log", tickvals=[1, 3, 10, 30, 100, 300, 1000, 3000, 10000], gridcolor="rgba(138,148,167,.25)"
    )
    figure.update_yaxes(gridcolor="rgba(138,148,167,.25)", zeroline=False)
    figure.update_xaxes(title_text="iterations", row=len(splits), col=1)
    figure.update_layout(
        height=height,
        margin={"l": 55, "r": 10, "t": 30, "b": top - 30},
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0},
        font={"color": QUIET, "family": "system-ui, 'DejaVu Sans', sans-serif", "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": QUIET, "activecolor": COLOURS[0]},
        hovermode="x unified",  # names every run at an iteration, so that lines below others are found
        dragmode=False,  # so that scrolling on a touch screen does not zoom the figure
    )
    return figure


def explore(records: Sequence[Record], styles: Mapping[str, Style], trained: int) -> str:
    """Return the interactive figure as HTML, including the script of plotly."""
    config = {
        "responsive": True,
        "displaylogo": False,
        "modeBarButtons": [["zoom2d", "resetScale2d", "toImage"]],
    }
    html: str = explore_figure(records, styles, trained).to_html(
        full_html=False, include_plotlyjs=True, div_id="explore", config=config
    )
    return html
