"""The page of a study: figures, the table of all runs, and how to reproduce it."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from loopscope.extras import install_command, is_installed
from loopscope.files import make_folder, read_json, write_bytes, write_text
from loopscope.reports.examination.page import TONES, WORDS
from loopscope.reports.kit.charts import Panel, draw_panels, png, svg
from loopscope.reports.kit.markdown import markdown
from loopscope.reports.kit.page import Html, chip, note, page, picture, table, text
from loopscope.reports.kit.styles import (
    Style,
    add_legend,
    distinct,
    legend,
    line_handle,
    mark_handle,
    mark_swatch,
    styles_of,
    swatch,
)
from loopscope.reports.kit.words import more_words, word_list
from loopscope.reports.run import UP, task_sentence, words_of_models, write_run_page
from loopscope.reports.solving import solving
from loopscope.reports.study.figures import accuracy_panels, orbit_panels, radius_panel, radius_records, same_lines
from loopscope.reports.study.interactive import explore
from loopscope.reports.study.table import RADIUS_NOTE, at_fixed_points, split_names, study_table
from loopscope.shipped import MODELS
from loopscope.studies import Record, StudyFolder, StudyPlan
from loopscope.studies.machine import processor
from loopscope.training.run_folder import RunFolder

STAGES = ("train", "evaluate", "examine")
CAPTIONS = {
    "accuracy": "Answers right after each number of iterations, one panel per split. The shaded range was used in training. "
    "Everything to its right is extrapolation.",
    "residual": "How much one iteration still changes the state, and how large the state is. A residual that falls to the "
    "floor is a fixed point; one that falls slowly while the norm grows is a drift.",
    "radius": "Spectral radius of the step's Jacobian at the last state, against the accuracy that is left at the last "
    "iteration; one mark per run.",
}
OPEN = " Open marks: the state had not arrived at a fixed point, so the radius says less."
SEEDS = " Thin lines: each seed; thick: their median."


def _seconds(records: Sequence[Record]) -> str:
    totals = {stage: sum(record.seconds.get(stage, 0.0) for record in records) for stage in STAGES}
    return ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in totals.items())


def _explore(plan: StudyPlan, finished: Sequence[Record]) -> list[str]:
    """Return the interactive figure, or a note on how to get it if plotly is not installed."""
    if not is_installed("plotly"):
        return [
            note(
                f"The figure to explore needs plotly, which was not installed: {install_command('plotly')}, then give the "
                "command of the study again."
            )
        ]
    return [
        note("Point at a line for its values; click a name to hide it, twice to see it alone."),
        explore(finished, styles_of(plan), trained_iterations(plan)),
    ]


def best_record(records: Sequence[Record]) -> Record | None:
    """Return the run that is best on the hardest split at the last iteration, or None if none was evaluated there."""
    splits = split_names(records)
    done = [record for record in records if record.evaluation and splits[-1] in record.evaluation]
    return max(done, key=lambda record: (record.evaluation or {})[splits[-1]]["last"], default=None)


def headline(records: Sequence[Record]) -> str:
    """Return a sentence on which run is best on the hardest split at the last iteration."""
    splits, best = split_names(records), best_record(records)
    if best is None:
        return "No run has been evaluated yet."
    curve = (best.evaluation or {})[splits[-1]]
    return (
        f"Best on {splits[-1]} at iteration {len(curve['answer_accuracy'])}: {best.run} with {100 * curve['last']:.1f}% of "
        f"answers right, trained with at most {best.settings['training']['max_iterations']} iterations."
    )


def _counts(plan: StudyPlan, records: Sequence[Record]) -> str:
    failed = sum(record.status == "failed" for record in records)
    waiting = [run.name for run in plan.runs if run.name not in {record.run for record in records}]
    said = f"{len(plan.runs)} runs: {len(records) - failed} finished, {failed} failed"
    return f"{said}, {len(waiting)} not done yet ({', '.join(waiting)})." if waiting else f"{said}."


def _figure(images: Path, name: str, panels: Sequence[Panel], shown: Sequence[Style], caption: str) -> str:
    """Write a figure as a PNG file. Return its HTML, with separate panels that narrow screens can stack."""
    handle, drawn = (mark_handle, mark_swatch) if name == "radius" else (line_handle, swatch)
    figure, axes = draw_panels(panels)
    caption += "" if name == "radius" else same_lines(axes)
    add_legend(figure, [handle(style) for style in shown])
    write_bytes(images / f"{name}.png", png(figure))
    drawings = [svg(draw_panels([panel])[0], name) for panel in panels]
    return picture(drawings, caption, legend=legend(shown, drawn))


def _figures(plan: StudyPlan, images: Path, records: Sequence[Record]) -> dict[str, str]:
    """Write the figures that can be drawn so far, and return their HTML by name."""
    styles, trained = styles_of(plan), trained_iterations(plan)
    evaluated = [record for record in records if record.evaluation]
    examined = [record for record in records if record.examination]
    placed = radius_records(records)
    found = {}
    if evaluated:
        found["accuracy"] = accuracy_panels(evaluated, styles, trained), evaluated, SEEDS
    if examined:
        found["residual"] = orbit_panels(examined, styles, trained), examined, SEEDS
    if placed:
        found["radius"] = [radius_panel(placed, styles)], placed, ""
    drawn = {}
    for name, (panels, shown, seeds) in found.items():
        own = distinct(styles[record.run] for record in shown)
        caption = CAPTIONS[name] + (seeds if len(own) < len(shown) else "")
        caption += OPEN if name == "radius" and not all(at_fixed_points(record.exam) for record in placed) else ""
        drawn[name] = _figure(images, name, panels, own, caption)
    return drawn


def trained_iterations(plan: StudyPlan) -> int:
    """Return the largest number of training iterations of any run."""
    return max(run.settings.training.max_iterations for run in plan.runs)


def _runs_table(plan: StudyPlan, records: Sequence[Record]) -> str:
    """Return the table of runs, with links to the page of each run and coloured verdicts.

    The verdict follows the name, so that narrow screens show it.
    """
    styles = styles_of(plan)
    columns, rows = study_table(records)
    tones = {verdict.value: tone for verdict, tone in TONES.items()}
    for row, record in zip(rows, records, strict=True):
        name = text(record.run)
        if record.status == "finished" and record.examination is not None:
            name = f'<a href="runs/{quote(record.run)}/report.html">{name}</a>'
        row[0] = Html(f"{swatch(styles[record.run])}{name}")
        if record.status == "failed":
            row[-1] = Html(f"{chip('failed', 'fails')}: {text(record.error)}")
        elif row[-1] in tones:
            row[-1] = chip(row[-1], tones[row[-1]])
    ordered = [(row[0], row[-1], *row[1:-1]) for row in (columns, *rows)]
    return table(ordered[0], ordered[1:], texts=("run", "verdict"))


def _verdict_words(records: Sequence[Record]) -> str:
    """Return what the verdicts in the table of runs mean."""
    return word_list(record.exam.verdict.value for record in records if record.exam is not None)


def _again(plan: StudyPlan, records: Sequence[Record]) -> str:
    """Return the command that reproduces the study, and the software and machine that made it."""
    settings = json.dumps(plan.runs[0].settings.to_dict(), indent=1)
    made_with = (
        f"loopscope {version('loopscope')}, torch {version('torch')}, Python {platform.python_version()}; {processor()}; "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC. Time of all runs together: {_seconds(records)}."
    )
    return (
        f"<pre>loopscope study {text(shlex.quote(str(plan.source)))}</pre>{note(made_with)}"
        f"<details><summary>Settings of the first run</summary><pre>{text(settings)}</pre></details>"
    )


def _shipped() -> str:
    """Return the table of shipped models with their tasks, accuracy, commands and cards."""
    rows, cards = [], []
    for folder in sorted(MODELS.glob("*/card.md")):
        run = RunFolder(folder.parent)
        settings = run.settings()
        name, easy = next(iter(read_json(run.evaluation)["splits"].items()))
        block = f"{settings.model.recall} + {settings.model.norm}, width {settings.model.width}"
        said = f"{100 * easy['last']:.1f}% of {name} after {len(easy['answer_accuracy'])} iterations"
        rows.append((settings.task, block, said, f"loopscope solve {settings.task}"))
        card = markdown(folder.read_text())
        cards.append(f"<details><summary>Card of the model for {text(settings.task)}</summary>{card}</details>")
    return table(("task", "model", "right", "ask it"), rows, texts=("task", "model", "right", "ask it")) + "".join(
        cards
    )


def _introduction(plan: StudyPlan, folder: StudyFolder, finished: Sequence[Record]) -> str:
    """Return what the task is, which run is best, what the names of runs mean, and a problem that the best run solves."""
    best, settings = best_record(finished), [run.settings.to_dict() for run in plan.runs]
    words = word_list(words_of_models(settings))
    told = f"{task_sentence(settings[0]['task'])}<p>{text(headline(finished))}</p>{words}{more_words(WORDS)}"
    shown = "" if best is None else solving(folder.run(best.run).path, best.run)
    return f'<div class="pair"><div>{told}</div><div>{shown}</div></div>'


def write_report(plan: StudyPlan, folder: StudyFolder, records: Mapping[str, Record]) -> Path:
    """Write a study's page, its figures as PNG files, and a page for each run that was examined.

    Args:
        plan: the study.
        folder: folder of the study. The page is ``report.html`` in it.
        records: the latest record of each run that ended.
    """
    rows = [records[run.name] for run in plan.runs if run.name in records]
    # Partial results of a failed run are not results. Only the table mentions the run.
    finished = [record for record in rows if record.status == "finished"]
    figures = _figures(plan, make_folder(folder.path / "figures"), finished)
    for record in finished:
        if record.exam is not None:
            run = folder.run(record.run)
            make_folder(run.path)
            write_run_page(run.report, run, record, UP)
    parts = [
        f"<h1>{text(plan.title)}</h1>",
        _introduction(plan, folder, finished),
        note(_counts(plan, rows)),
        "<h2>Accuracy against iterations</h2>" + figures["accuracy"] if "accuracy" in figures else "",
        "<h2>All runs</h2>",
        _runs_table(plan, rows),
        _verdict_words(finished),
        note(
            "Accuracy in % of whole answers right at the last iteration; best and at: the best accuracy on the last split, "
            f"and its iteration. {RADIUS_NOTE}. A run's name leads to its examination."
        ),
    ]
    if "residual" in figures:
        parts += ["<h2>Does the state settle?</h2>", figures["residual"]]
    if "radius" in figures:
        parts += ["<h2>Spectral radius against extrapolation</h2>", figures["radius"]]
    if "accuracy" in figures:
        parts += [
            "<h2>Explore</h2>",
            *_explore(plan, finished),
        ]
    parts += [
        "<h2>Models that come with the package</h2>",
        note("Trained before, not by this study; each answers a problem that you type in."),
        _shipped(),
        "<h2>How to make it again</h2>",
        _again(plan, rows),
    ]
    write_text(folder.report, page(plan.title, "\n".join(parts)))
    return folder.report
