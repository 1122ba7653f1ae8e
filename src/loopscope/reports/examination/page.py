"""The page of one examination, and of several side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopscope.files import check_path, write_text
from loopscope.glossary import MEANINGS
from loopscope.reports.examination.figures import FIGURES, ExaminationFigure
from loopscope.reports.examination.language import language_head, language_sections
from loopscope.reports.examination.quantities import quantity_rows
from loopscope.reports.kit.charts import draw_panels, share_limits, svg
from loopscope.reports.kit.formats import DASH
from loopscope.reports.kit.page import Html, capitalized, chip, explained, note, page, picture, table, text
from loopscope.reports.kit.words import meaning, more_words
from loopscope.stability import THRESHOLDS, Axis, Examination, Verdict
from loopscope.stability.examination import inputs_seen, rounding_of, shown
from loopscope.stability.verdict import PRIOR, TESTED_ON, Status, fitted_on, priors_of

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
DECIDING = {
    Verdict.INPUT_INDEPENDENT: 1,
    Verdict.PATH_DEPENDENT: 1,
    Verdict.FRAGILE: 2,
    Verdict.UNSETTLED: 0,
    Verdict.UNSTABLE: 0,
}
"""The place of the axis that decides a verdict alone."""
WORDS = (
    "iteration",
    "state",
    "orbit",
    "residual",
    "fixed point",
    "arrived",
    "drift",
    "cycle",
    "recalled input",
    "swap test",
    "Jacobian",
    "spectral radius",
    "Lipschitz constant",
    "gradient growth",
    "effort",
    "prior",
    "provisional",
)
"""Words of every examination, which a page explains."""
NOTHING = "<p>Nothing could be measured.</p>"
JUDGED = "judged"
"""The anchor of the section on thresholds."""


def _deciding(measure: str, value: float | None, tone: str, axis: Axis) -> str:
    """Return a deciding number, in the colour of its axis where it says what the axis says."""
    says_the_same = THRESHOLDS[measure].status(value) is axis.status
    return f'<dt>{text(measure)} <b class="{tone if says_the_same else "quiet"}">{shown(value)}</b></dt>'


def _card(axis: Axis, said: str, tone: str) -> str:
    """Return an axis with what it says, in a colour."""
    numbers = "".join(_deciding(measure, value, tone, axis) for measure, value in axis.numbers.items())
    question = note(capitalized(meaning(axis.name))) if axis.name in MEANINGS else ""
    return (
        f'<section class="card"><h3>{text(axis.name.capitalize())}</h3>{chip(said, tone)}{question}'
        f"<p>{text(axis.reason)}</p><dl>{numbers}</dl></section>"
    )


def _axis_card(axis: Axis, exam: Examination) -> str:
    """Return the card of an axis. What holds is green only below a verdict that is: elsewhere another axis decides."""
    if axis.status is not Status.HOLDS or TONES[exam.verdict] == "holds":
        return _card(axis, axis.status, axis.status)
    decides = DECIDING.get(exam.verdict)
    return _card(axis, "holds" if decides is None else f"holds, but {exam.axes[decides].name} decides", "quiet")


def _cards(cards: Iterable[str]) -> str:
    return f'<div class="cards">{"".join(cards)}</div>'


def _thresholds(exams: Sequence[Examination]) -> str:
    """Return the thresholds of the axes of some examinations: one table, and one line on their origin."""
    axes = [axis for exam in exams for axis in (*exam.axes, *(exam.normalized_axes or ()))]
    limits = [THRESHOLDS[measure] for measure in dict.fromkeys(measure for axis in axes for measure in axis.numbers)]
    rows = []
    for limit in limits:
        above, below = ("≥", "≤") if limit.larger_is == "better" else ("≤", "≥")
        why = f"{limit.why.capitalize()}."
        rows.append([explained(limit.measure, why), f"{above} {limit.holds:g}", f"{below} {limit.fails:g}"])
    origins = [f"{', '.join(measures)}: fitted on {models}." for models, measures in fitted_on(axes).items()]
    if any(limit.origin == PRIOR for limit in limits):
        tested = (
            f", and tested on {TESTED_ON}; no other threshold fitted on half of these models passed every test on the rest"
            if any(not exam.kind.undefined for exam in exams)
            else ""
        )
        origins.append(f"{'All others are' if origins else 'They are'} priors: set by reasoning{tested}.")
    return (
        f'<h2 id="{JUDGED}">How the axes are judged</h2>'
        + table(["number", "holds", "fails"], rows, texts=("number",))
        + note(f"Origin of the thresholds. {capitalized(' '.join(origins))}")
    )


def _settings(exam: Examination) -> str:
    """Return in a sentence what was examined, and how."""
    settings = exam.settings
    accuracy = "not known" if settings.accuracy is None else f"{100 * settings.accuracy:.1f}%"
    trained = settings.trained_iterations
    training = f"trained with at most {trained}" if trained else "trained iterations not known"
    prediction = " (prediction mode: no orbit goes beyond training)" if settings.prediction else ""
    said = (
        f"{inputs_seen(settings)}, at most {settings.iterations} iterations{prediction}; {training}; "
        f"{'tokens ' if settings.answers_per == 'token' else ''}right at the end: {accuracy}; "
        f"tolerance {settings.tolerance:g}, effort {settings.effort}, "
        f"{settings.dtype}{rounding_of(settings)}, seed {settings.seed}; {exam.seconds['total']:.1f} s"
    )
    return note(f"{said}.")


def _verdict(exam: Examination) -> str:
    said = [Html(f"That is: {meaning(exam.verdict.value).removeprefix('a verdict: ')}.")]
    if exam.provisional:
        link = Html(f'<a href="#{JUDGED}">How the axes are judged</a>')
        said.append(Html(f"Provisional: {text(priors_of(exam.axes))} ({link})."))
    return (
        f'<div class="verdict {TONES[exam.verdict]}"><strong>{text(exam.headline[0].upper() + exam.headline[1:])}'
        f"{' (provisional)' if exam.provisional else ''}</strong><p>{text(exam.advice)}</p>"
        f"{note(Html(' '.join(said)))}</div>"
    )


def _kind(exam: Examination) -> str:
    """Return what kind of loop it is and what is not defined for it; nothing for an autonomous loop."""
    return "" if exam.kind.is_plain else f"<p><b>Kind of loop:</b> {text(exam.kind.sentence)}.</p>"


def _directions(exam: Examination) -> str:
    if exam.normalized_axes is None:
        return ""
    return (
        "<h3>Directions of the state alone</h3>"
        + note(
            "Most orbits drift: their norm grows. These axes are judged on states normalized per token, and do not decide the "
            "verdict."
        )
        + _cards(_card(axis, axis.status, "quiet") for axis in exam.normalized_axes)
    )


def missing_rows(exam: Examination) -> list[list[str]]:
    """Return what was not computed, and why."""
    rows = [[part, reason] for part, reason in exam.unknown.items()]
    for figure in FIGURES:
        if figure.applies(exam) and not figure.needs(exam) and not set(figure.names) & set(exam.unknown):
            reason = figure.absent or f"nothing to show at effort {exam.settings.effort}"
            rows.append([f"figure: {figure.title}", reason])
    return rows


def _missing(exam: Examination) -> str:
    rows = missing_rows(exam)
    return table(["part", "why"], rows, texts=("part", "why")) if rows else "<p>Everything was computed.</p>"


def _quantities(exam: Examination) -> str:
    rows = [[explained(name, said), *values] for name, *values, said in quantity_rows(exam)]
    return table(["quantity", "median", "10–90%", "values"], rows, texts=("quantity",)) if rows else NOTHING


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


def write_examination(path: str | Path, exam: Examination, title: str = "Examination") -> None:
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
    write_text(
        check_path(path),
        page(title, "\n".join([f"<h1>{text(title)}</h1>", head_of(exam), more_words(WORDS), body_of(exam, title)])),
    )


def head_of(exam: Examination) -> str:
    """Return the verdict of an examination, and what was examined."""
    return language_head(exam) + _verdict(exam) + _kind(exam) + _settings(exam)


def body_of(exam: Examination, title: str = "Examination") -> str:
    """Return the axes, figures, numbers and thresholds of an examination.

    Args:
        exam: the examination.
        title: what was examined.
    """
    drawn = [(figure, _drawings(figure, [exam])[0]) for figure in FIGURES]
    pictures = [picture([drawing], figure.caption_of([exam]), figure.title) for figure, drawing in drawn if drawing]
    parts = [
        "<h2>Three axes</h2>",
        _cards(_axis_card(axis, exam) for axis in exam.axes),
        _directions(exam),
        *language_sections(exam, title),
        "<h2>Figures</h2>",
        f'<div class="grid">{"".join(pictures)}</div>' if pictures else NOTHING,
        "<h2>Numbers</h2>",
        _quantities(exam),
        _thresholds([exam]),
        "<h2>What could not be computed</h2>",
        _missing(exam),
        _seconds(exam),
    ]
    return "\n".join(parts)


def _pair(titles: Sequence[str], cells: Sequence[str]) -> str:
    """Return a cell for each title, side by side where there is room."""
    named = (f"<div>{note(title)}{cell}</div>" for title, cell in zip(titles, cells, strict=True))
    return f'<div class="pair">{"".join(named)}</div>'


def _compared_numbers(exams: Mapping[str, Examination]) -> str:
    """Return one table of medians, with a column for each examination."""
    found = [{(row[0], row[-1]): row[1] for row in quantity_rows(exam)} for exam in exams.values()]
    keys = list(dict.fromkeys(key for rows in found for key in rows))
    rows = [[explained(*key), *(one.get(key, DASH) for one in found)] for key in keys]
    return table(["quantity", *exams], rows, texts=("quantity",))


def write_comparison(path: str | Path, exams: Mapping[str, Examination]) -> None:
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
    heads = "".join(f"<div><h1>{text(title)}</h1>{head_of(exam)}</div>" for title, exam in exams.items())
    parts = [f'<div class="pair">{heads}</div>', more_words(WORDS), "<h2>Three axes</h2>"]
    for axes in zip(*(exam.axes for exam in found), strict=True):
        parts.append(_pair(titles, [_axis_card(axis, exam) for axis, exam in zip(axes, found, strict=True)]))
    parts += [_pair([title], [_directions(exam)]) for title, exam in exams.items() if exam.normalized_axes]
    parts.append("<h2>Figures</h2>")
    for figure in FIGURES:
        drawings = _drawings(figure, found)
        if any(drawings):
            pair = _pair(titles, [drawing or "<p>Not measured.</p>" for drawing in drawings])
            parts.append(picture([pair], figure.caption_of(found), figure.title))
    parts += [
        "<h2>Numbers</h2>",
        note("Medians over inputs."),
        _compared_numbers(exams),
        _thresholds(found),
        "<h2>What could not be computed</h2>",
        _pair(titles, [_missing(exam) + _seconds(exam) for exam in found]),
    ]
    write_text(check_path(path), page(" and ".join(exams), "\n".join(parts), wide=True))
