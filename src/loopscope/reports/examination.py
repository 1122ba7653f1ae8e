"""The page of one examination, and of two side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from loopscope.files import write_text
from loopscope.reports import figures
from loopscope.reports.page import page, picture, png, table, text
from loopscope.stability import THRESHOLDS, Axis, Examination


def _figures() -> list[tuple[Callable[[Mapping[str, Any]], Any], Callable[[Mapping[str, Any]], Figure], str]]:
    """Return, for each figure: what it needs, how it is drawn, and how to read it."""
    return [
        (
            lambda exam: exam["curves"]["residual"],
            figures.residual_fan,
            "How much one iteration still changes the state (median and 10-90% of the inputs; training range shaded; "
            "tolerance dashed). Falling to the floor means a fixed point; a plateau, a cycle or chaos; 1/t, a drift.",
        ),
        (
            lambda exam: exam["curves"]["norm"],
            figures.norm_fan,
            "The size of the state. A readout that normalizes hides a state that grows without bound; here it shows.",
        ),
        (
            lambda exam: exam["spectrum"].get("eigenvalue"),
            figures.eigenvalue_plane,
            "Eigenvalues of the step's Jacobian. Inside the circle, small errors shrink; the dominant one sets the pace.",
        ),
        (
            lambda exam: exam["portrait"].get("path"),
            figures.portrait_figure,
            "One input's orbit in the two directions that show most of it, and one from a random start (squares: starts). "
            "Both ending on one star: one attracting fixed point.",
        ),
        (
            lambda exam: exam["input_dependence"].get("distinct_common"),
            figures.distinct_figure,
            "Distinct fixed points among the first N inputs. Only growth under one common start shows that the fixed "
            "point depends on the input and not merely on where the orbit began.",
        ),
        (
            lambda exam: any(value is not None for value in exam["basin"].get("returned", [])),
            figures.basin_figure,
            "How far the state can be pushed and still come back to the same fixed point.",
        ),
        (
            lambda exam: exam["geometry"].get("gradient_norms"),
            figures.gradient_figure,
            "The norm of a gradient on its way back through the iterations: level is easy to train, steep is not.",
        ),
        (
            lambda exam: exam["tokens"] and any(settled > 0 for settled in exam["tokens"][0]),
            figures.token_map,
            "When each token of the first input settled for good; blank tokens never did.",
        ),
    ]


def _axis_rows(axes: Sequence[Axis], what: str = "") -> list[list[str]]:
    rows = []
    for axis in axes:
        for number, (measure, value) in enumerate(axis.numbers.items()):
            limit = THRESHOLDS[measure]
            sign = "≥" if limit.larger_is == "better" else "≤"
            rows.append(
                [
                    f"{axis.name}{what}" if number == 0 else "",
                    axis.status.value if number == 0 else "",
                    measure,
                    "not known" if value is None else f"{value:.4g}",
                    f"{sign} {limit.holds:g}",
                    limit.origin,
                    axis.reason if number == 0 else "",
                ]
            )
    return rows


def body(exam: Examination, title: str) -> str:
    """Return the inside of an examination's page."""
    values = exam.to_dict()
    settings = values["settings"]
    columns = ["axis", "says", "number", "measured", "holds if", "threshold", "seen"]
    rows = _axis_rows(exam.axes)
    if exam.normalized_axes is not None:
        rows += _axis_rows(exam.normalized_axes, " of directions")
    status = {"extrapolates": "holds", "keeps its answer": "holds", "unknown": "unknown"}.get(
        exam.verdict.value, "fails"
    )
    provisional = " (provisional: its thresholds are priors)" if exam.provisional else ""
    accuracy = "not known" if settings["accuracy"] is None else f"{100 * settings['accuracy']:.1f}%"
    parts = [
        f"<h1>{text(title)}</h1>",
        f'<p class="verdict {status}">{text(exam.verdict.value)}<span class="soft">{text(provisional)}</span></p>',
        f"<p>{text(exam.advice)}</p>",
        f'<p class="soft">{settings["inputs"]} inputs, at most {settings["iterations"]} iterations'
        f"{' (forecast: no orbit goes beyond training)' if settings['prediction'] else ''}, trained with at most "
        f"{settings['trained_iterations'] or 'an unknown number of'}; right at the end: {accuracy}; "
        f"effort {settings['effort']}, {settings['dtype']}, seed {settings['seed']}, {values['seconds']['total']:.0f} s.</p>",
        "<h2>Three axes</h2>",
        table(columns, rows, texts=("axis", "says", "number", "threshold", "seen")),
        '<h2>To look at</h2><div class="grid">',
        *(picture(png(draw(values)), caption) for needed, draw, caption in _figures() if needed(values)),
        "</div>",
    ]
    if exam.unknown:
        missing = [[name, reason] for name, reason in exam.unknown.items()]
        parts += ["<h2>What could not be computed</h2>", table(["part", "why"], missing, texts=("part", "why"))]
    return "\n".join(parts)


def write_examination(path: Path, exam: Examination, title: str = "Examination") -> None:
    """Write the page of one examination."""
    write_text(path, page(title, body(exam, title)))


def write_comparison(path: Path, exams: Mapping[str, Examination]) -> None:
    """Write a page with examinations side by side, by title."""
    inside = "".join(f"<div>{body(exam, title)}</div>" for title, exam in exams.items())
    title = " and ".join(exams)
    write_text(path, page(title, f'<style>body {{ max-width: 1800px; }}</style><div class="pair">{inside}</div>'))
