"""The page of one examination, and of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loopscope.files import write_text
from loopscope.reports.examination.figures import FIGURES, ExaminationFigure
from loopscope.reports.examination.quantities import quantity_rows
from loopscope.reports.kit.charts import draw_panels, share_limits, svg
from loopscope.reports.kit.formats import DASH
from loopscope.reports.kit.page import chip, note, page, picture, table, text
from loopscope.stability import THRESHOLDS, Axis, Examination, Verdict
from loopscope.stability.examination import inputs_seen, shown
from loopscope.stability.verdict import TESTED_ON, priors_of

QUESTIONS = {
    "reachability": "Does the iteration arrive?",
    "input-dependence": "Is it this problem's own fixed point?",
    "geometry": "Is it smooth there, and can gradients pass?",
    "answer retention": "Do answers stay as iterations go on?",
    "error growth": "Do small errors die out along the orbit?",
}
TONES = {
    Verdict.STABLE_AND_ACCURATE: "holds",
    Verdict.STABLE: "holds",
    Verdict.INPUT_INDEPENDENT: "fails",
    Verdict.PATH_DEPENDENT: "borderline",
    Verdict.FRAGILE: "fails",
    Verdict.UNSETTLED: "borderline",
    Verdict.UNSTABLE: "fails",
    Verdict.UNDECIDED: "unknown",
}
NOTHING = "<p>Nothing could be measured.</p>"


def _deciding(measure: str, value: float | None) -> str:
    """Return a deciding number beside its thresholds and their origin."""
    limit = THRESHOLDS[measure]
    above, below = ("≥", "≤") if limit.larger_is == "better" else ("≤", "≥")
    return (
        f'<dt>{text(measure)} <b class="{limit.status(value)}">{shown(value)}</b></dt>'
        f"<dd>holds {above} {limit.holds:g}, fails {below} {limit.fails:g}; origin: {text(limit.origin)}. "
        f"{text(limit.why.capitalize())}.</dd>"
    )


def _card(axis: Axis) -> str:
    numbers = "".join(_deciding(measure, value) for measure, value in axis.numbers.items())
    return (
        f'<section class="card"><h3>{text(axis.name.capitalize())}</h3>{chip(axis.status, axis.status)}'
        f"{note(QUESTIONS.get(axis.name, ''))}<p>{text(axis.reason)}</p><dl>{numbers}</dl></section>"
    )


def _cards(axes: Sequence[Axis]) -> str:
    return f'<div class="cards">{"".join(map(_card, axes))}</div>'


def _settings(exam: Examination) -> str:
    """Return in a sentence what was examined, and how."""
    settings = exam.settings
    accuracy = "not known" if settings.accuracy is None else f"{100 * settings.accuracy:.1f}%"
    trained = settings.trained_iterations
    training = f"trained with at most {trained}" if trained else "trained iterations not known"
    prediction = " (prediction mode: no orbit goes beyond training)" if settings.prediction else ""
    said = (
        f"{inputs_seen(settings)}, at most {settings.iterations} iterations{prediction}; {training}; "
        f"right at the end: {accuracy}; tolerance {settings.tolerance:g}, effort {settings.effort}, "
        f"{settings.dtype}, seed {settings.seed}; {exam.seconds['total']:.1f} s"
    )
    return note(f"{said}.")


def _verdict(exam: Examination) -> str:
    provisional = note(_provisional(exam)) if exam.provisional else ""
    return (
        f'<div class="verdict {TONES[exam.verdict]}"><strong>{text(exam.headline[0].upper() + exam.headline[1:])}'
        f"{' (provisional)' if exam.provisional else ''}</strong><p>{text(exam.advice)}</p>{provisional}</div>"
    )


def _provisional(exam: Examination) -> str:
    if exam.kind.undefined:
        return f"Provisional: {priors_of(exam.axes)}."
    return (
        f"Provisional: {priors_of(exam.axes)}. They were tested on {TESTED_ON}; thresholds fitted on one half of these models were no "
        "better on the other half."
    )


def _kind(exam: Examination) -> str:
    """Return what kind of loop it is and what is not defined for it; nothing for an autonomous loop."""
    return "" if exam.kind.is_plain else f"<p><b>Kind of loop:</b> {text(exam.kind.sentence)}.</p>"


def _head(title: str, exam: Examination) -> str:
    return f"<h1>{text(title)}</h1>{_verdict(exam)}{_kind(exam)}{_settings(exam)}"


def _directions(exam: Examination) -> str:
    if exam.normalized_axes is None:
        return ""
    return (
        "<h3>Directions of the state alone</h3>"
        + note("Most orbits drift: their norm grows. These axes are judged on states normalized per token.")
        + _cards(exam.normalized_axes)
    )


def missing_rows(exam: Examination) -> list[list[str]]:
    """Return what was not computed, and why."""
    rows = [[part, reason] for part, reason in exam.unknown.items()]
    for figure in FIGURES:
        if figure.applies(exam) and not figure.needs(exam) and not set(figure.names) & set(exam.unknown):
            rows.append([f"figure: {figure.title}", f"no value to show (effort {exam.settings.effort})"])
    return rows


def _missing(exam: Examination) -> str:
    rows = missing_rows(exam)
    return table(["part", "why"], rows, texts=("part", "why")) if rows else "<p>Everything was computed.</p>"


def _quantities(exam: Examination) -> str:
    columns, rows = ["quantity", "median", "10–90%", "values", "meaning"], quantity_rows(exam)
    return table(columns, rows, texts=("quantity", "meaning")) if rows else NOTHING


def _seconds(exam: Examination) -> str:
    spent = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in exam.seconds.items())
    return note(f"Time: {spent}.")


def _drawings(figure: ExaminationFigure[Any], exams: Sequence[Examination]) -> list[str]:
    """Return a figure of each examination, with equal limits where they can be compared; empty where one lacks it."""
    drawn = [draw_panels([figure.panel(exam)]) if figure.needs(exam) else None for exam in exams]
    axes = [one[1][0] for one in drawn if one is not None]
    if figure.comparable and len(axes) > 1:
        share_limits(axes)
    return ["" if one is None else svg(one[0], figure.title) for one in drawn]


def write_examination(path: Path, exam: Examination, title: str = "Examination") -> None:
    """Write the page of one examination.

    Args:
        path: the HTML file.
        exam: the examination.
        title: what was examined.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z / 2 + e, read=lambda z: z
        ... )
        >>> exam = ls.examine(loop, torch.eye(4), effort="quick", iterations=60)
        >>> with TemporaryDirectory() as folder:
        ...     page = Path(folder) / "exam.html"
        ...     ls.write_examination(page, exam, title="Half")
        ...     "<h1>Half</h1>" in page.read_text()
        True
    """
    drawn = [(figure, _drawings(figure, [exam])[0]) for figure in FIGURES]
    pictures = [picture([drawing], figure.caption, figure.title) for figure, drawing in drawn if drawing]
    parts = [
        _head(title, exam),
        "<h2>Three axes</h2>",
        _cards(exam.axes),
        _directions(exam),
        "<h2>Figures</h2>",
        f'<div class="grid">{"".join(pictures)}</div>' if pictures else NOTHING,
        "<h2>Numbers</h2>",
        _quantities(exam),
        "<h2>What could not be computed</h2>",
        _missing(exam),
        _seconds(exam),
    ]
    write_text(path, page(title, "\n".join(parts)))


def _pair(titles: Sequence[str], cells: Sequence[str]) -> str:
    """Return a cell for each title, side by side where there is room."""
    named = (f"<div>{note(title)}{cell}</div>" for title, cell in zip(titles, cells, strict=True))
    return f'<div class="pair">{"".join(named)}</div>'


def _compared_numbers(exams: Mapping[str, Examination]) -> str:
    """Return one table of medians, with a column for each examination."""
    found = [{(row[0], row[-1]): row[1] for row in quantity_rows(exam)} for exam in exams.values()]
    keys = list(dict.fromkeys(key for rows in found for key in rows))
    columns = ["quantity", *exams, "meaning"]
    rows = [[name, *(one.get((name, meaning), DASH) for one in found), meaning] for name, meaning in keys]
    return table(columns, rows, texts=("quantity", "meaning"))


def write_comparison(path: Path, exams: Mapping[str, Examination]) -> None:
    """Write a page with examinations side by side, part by part.

    Args:
        path: the HTML file.
        exams: the examinations by title.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z / 2 + e, read=lambda z: z
        ... )
        >>> exam = ls.examine(loop, torch.eye(4), effort="quick", iterations=60)
        >>> with TemporaryDirectory() as folder:
        ...     page = Path(folder) / "both.html"
        ...     ls.write_comparison(page, {"First": exam, "Second": exam})
        ...     "<h1>Second</h1>" in page.read_text()
        True
    """
    titles, found = list(exams), list(exams.values())
    heads = "".join(f"<div>{_head(title, exam)}</div>" for title, exam in exams.items())
    parts = [f'<div class="pair">{heads}</div>', "<h2>Three axes</h2>"]
    for axes in zip(*(exam.axes for exam in found), strict=True):
        parts.append(_pair(titles, [_card(axis) for axis in axes]))
    parts += [_pair([title], [_directions(exam)]) for title, exam in exams.items() if exam.normalized_axes]
    parts.append("<h2>Figures</h2>")
    for figure in FIGURES:
        drawings = _drawings(figure, found)
        if any(drawings):
            pair = _pair(titles, [drawing or "<p>Not measured.</p>" for drawing in drawings])
            parts.append(picture([pair], figure.caption, figure.title))
    parts += [
        "<h2>Numbers</h2>",
        note("Medians over inputs."),
        _compared_numbers(exams),
        "<h2>What could not be computed</h2>",
        _pair(titles, [_missing(exam) + _seconds(exam) for exam in found]),
    ]
    write_text(path, page(" and ".join(exams), "\n".join(parts), wide=True))
