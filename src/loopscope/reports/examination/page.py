"""The page of one examination, and of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loopscope.files import write_text
from loopscope.reports.examination.figures import FIGURES, ExaminationFigure, Values
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
}
TONES = {
    Verdict.EXTRAPOLATES: "holds",
    Verdict.KEEPS_ITS_ANSWER: "holds",
    Verdict.SHARED_ANSWER: "fails",
    Verdict.PATH_DEPENDENT: "borderline",
    Verdict.FRAGILE: "fails",
    Verdict.RESTLESS: "borderline",
    Verdict.UNSTABLE: "fails",
    Verdict.UNKNOWN: "unknown",
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


def _settings(values: Values) -> str:
    """Return in a sentence what was examined, and how."""
    settings = values["settings"]
    accuracy = "not known" if settings["accuracy"] is None else f"{100 * settings['accuracy']:.1f}%"
    trained = settings["trained_iterations"]
    training = f"trained with at most {trained}" if trained else "trained iterations not known"
    forecast = " (a forecast: no orbit goes beyond training)" if settings["prediction"] else ""
    said = (
        f"{inputs_seen(settings)}, at most {settings['iterations']} iterations{forecast}; {training}; "
        f"right at the end: {accuracy}; tolerance {settings['tolerance']:g}, effort {settings['effort']}, "
        f"{settings['dtype']}, seed {settings['seed']}; {values['seconds']['total']:.1f} s"
    )
    return note(f"{said}.")


def _verdict(exam: Examination) -> str:
    provisional = (
        note(
            f"Provisional: {priors_of(exam.axes)}, tested on {TESTED_ON}; what some of these set for them was no better on the others."
        )
        if exam.provisional
        else ""
    )
    return (
        f'<div class="verdict {TONES[exam.verdict]}"><strong>{text(exam.verdict.value.capitalize())}'
        f"{' (provisional)' if exam.provisional else ''}</strong><p>{text(exam.advice)}</p>{provisional}</div>"
    )


def _head(title: str, exam: Examination, values: Values) -> str:
    return f"<h1>{text(title)}</h1>{_verdict(exam)}{_settings(values)}"


def _directions(exam: Examination) -> str:
    if exam.normalized_axes is None:
        return ""
    return (
        "<h3>Of directions alone</h3>"
        + note("Most orbits drift: their norm grows. Here is what the axes say of states normalized per token.")
        + _cards(exam.normalized_axes)
    )


def missing_rows(values: Values) -> list[list[str]]:
    """Return what could not be computed, or was not, and why."""
    rows = [[part, reason] for part, reason in values["unknown"].items()]
    for figure in FIGURES:
        if not figure.needs(values) and not set(figure.parts) & set(values["unknown"]):
            rows.append([f"figure: {figure.title}", f"no value to show (effort {values['settings']['effort']})"])
    return rows


def _missing(values: Values) -> str:
    rows = missing_rows(values)
    return table(["part", "why"], rows, texts=("part", "why")) if rows else "<p>Everything was computed.</p>"


def _quantities(values: Values) -> str:
    columns, rows = ["quantity", "median", "10–90%", "values", "what it says"], quantity_rows(values)
    return table(columns, rows, texts=("quantity", "what it says")) if rows else NOTHING


def _seconds(values: Values) -> str:
    spent = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in values["seconds"].items())
    return note(f"Time: {spent}.")


def _drawings(figure: ExaminationFigure, exams: Sequence[Values]) -> list[str]:
    """Return a figure of each examination, with equal limits where they can be compared; empty where one lacks it."""
    drawn = [draw_panels([figure.panel(values)]) if figure.needs(values) else None for values in exams]
    axes = [one[1][0] for one in drawn if one is not None]
    if figure.comparable and len(axes) > 1:
        share_limits(axes)
    return ["" if one is None else svg(one[0], figure.title) for one in drawn]


@dataclass(frozen=True)
class _Subject:
    """One examination on a page."""

    title: str
    exam: Examination
    values: Values


def _subjects(exams: Mapping[str, Examination]) -> list[_Subject]:
    return [_Subject(title, exam, exam.to_dict()) for title, exam in exams.items()]


def write_examination(path: Path, exam: Examination, title: str = "Examination") -> None:
    """Write the page of one examination.

    Args:
        path: the HTML file.
        exam: the examination.
        title: what was examined.
    """
    values = exam.to_dict()
    drawn = [(figure, _drawings(figure, [values])[0]) for figure in FIGURES]
    pictures = [picture([drawing], figure.caption, figure.title) for figure, drawing in drawn if drawing]
    parts = [
        _head(title, exam, values),
        "<h2>Three axes</h2>",
        _cards(exam.axes),
        _directions(exam),
        "<h2>To look at</h2>",
        f'<div class="grid">{"".join(pictures)}</div>' if pictures else NOTHING,
        "<h2>Numbers</h2>",
        _quantities(values),
        "<h2>What could not be computed</h2>",
        _missing(values),
        _seconds(values),
    ]
    write_text(path, page(title, "\n".join(parts)))


def _pair(subjects: Sequence[_Subject], cells: Sequence[str]) -> str:
    """Return what is said of each subject, under its name, side by side where there is room."""
    named = (f"<div>{note(one.title)}{cell}</div>" for one, cell in zip(subjects, cells, strict=True))
    return f'<div class="pair">{"".join(named)}</div>'


def _compared_numbers(subjects: Sequence[_Subject]) -> str:
    """Return one table of medians, a column for each examination."""
    found = [{(row[0], row[-1]): row[1] for row in quantity_rows(subject.values)} for subject in subjects]
    keys = list(dict.fromkeys(key for rows in found for key in rows))
    columns = ["quantity", *(subject.title for subject in subjects), "what it says"]
    rows = [[name, *(one.get((name, meaning), DASH) for one in found), meaning] for name, meaning in keys]
    return table(columns, rows, texts=("quantity", "what it says"))


def write_comparison(path: Path, exams: Mapping[str, Examination]) -> None:
    """Write a page with examinations side by side, part by part.

    Args:
        path: the HTML file.
        exams: the examinations by title.
    """
    subjects = _subjects(exams)
    title = " and ".join(exams)
    heads = "".join(f"<div>{_head(one.title, one.exam, one.values)}</div>" for one in subjects)
    parts = [f'<div class="pair">{heads}</div>', "<h2>Three axes</h2>"]
    for axes in zip(*(one.exam.axes for one in subjects), strict=True):
        parts.append(_pair(subjects, [_card(axis) for axis in axes]))
    parts += [_pair([one], [_directions(one.exam)]) for one in subjects if one.exam.normalized_axes]
    parts.append("<h2>To look at</h2>")
    for figure in FIGURES:
        drawings = _drawings(figure, [one.values for one in subjects])
        if any(drawings):
            pair = _pair(subjects, [drawing or "<p>Not measured.</p>" for drawing in drawings])
            parts.append(picture([pair], figure.caption, figure.title))
    parts += [
        "<h2>Numbers</h2>",
        note("Medians over inputs."),
        _compared_numbers(subjects),
        "<h2>What could not be computed</h2>",
        _pair(subjects, [_missing(one.values) + _seconds(one.values) for one in subjects]),
    ]
    write_text(path, page(title, "\n".join(parts), wide=True))
