"""The page of a run: its task, its model at work, its accuracy and its examination."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loopscope.files import read_json_as, write_text
from loopscope.glossary import NORMS, RECALLS
from loopscope.reports.examination.page import WORDS, body_of, head_of
from loopscope.reports.kit.charts import COLOURS, draw_panels, svg
from loopscope.reports.kit.page import back, note, page, picture, text
from loopscope.reports.kit.styles import Style
from loopscope.reports.kit.words import more_words, word_list
from loopscope.reports.solving import solving
from loopscope.reports.study.figures import accuracy_panels
from loopscope.studies import Record, StudyFolder
from loopscope.tasks.registry import about_task
from loopscope.training.run_folder import RunFolder

UP = "../../report.html"
"""From the page of a run to the report of its study."""


def model_words(settings: dict[str, Any]) -> list[str]:
    """Return the words of the glossary for a run's recall and normalization.

    Args:
        settings: settings of the run, as plain values.
    """
    model = settings["model"]
    if model["architecture"] == "fixed-depth":
        return ["fixed depth"]
    return [RECALLS[model["recall"]], NORMS[model["norm"]]]


def words_of_models(several: Iterable[dict[str, Any]]) -> list[str]:
    """Return the words of the glossary for the models of several runs: recalls, then normalizations, then baselines.

    Args:
        several: settings of each run, as plain values.
    """
    order = [*RECALLS.values(), *NORMS.values()]
    found = {word for settings in several for word in model_words(settings)}
    return [word for word in order if word in found] + sorted(found - set(order))


def task_sentence(task: str) -> str:
    """Return a paragraph on what a task asks."""
    return f"<p><b>The task, {text(task.replace('-', ' '))}.</b> {text(about_task(task))}</p>"


def _model_sentence(settings: dict[str, Any]) -> str:
    model, training = settings["model"], settings["training"]
    blocks = "one block" if model["blocks"] == 1 else f"{model['blocks']} blocks"
    how = " and ".join(model_words(settings))
    return (
        f"<p><b>The model.</b> {blocks.capitalize()} of width {model['width']}, {text(how)}; trained for "
        f"{training['steps']} steps with at most {training['max_iterations']} iterations.</p>"
    )


def _accuracy(record: Record) -> str:
    """Return the figure of accuracy against iterations, or nothing if the run was not evaluated."""
    if not record.evaluation:
        return ""
    style, trained = Style(record.run, COLOURS[0], "", "o"), record.settings["training"]["max_iterations"]
    panels = accuracy_panels([record], {record.run: style}, trained)
    drawings = [svg(draw_panels([panel])[0], "accuracy") for panel in panels]
    caption = (
        "Whole answers right after each number of iterations, one panel per split. Shaded: the iterations of training."
    )
    return "<h2>Accuracy against iterations</h2>" + picture(drawings, caption)


def study_of(run: RunFolder) -> str | None:
    """Return the relative address of the report of the study that a run belongs to, or None if it belongs to none."""
    study = StudyFolder(run.path.resolve().parent.parent)
    belongs = study.run(run.path.name).path == run.path.resolve() and study.ledger.path.is_file()
    return UP if belongs else None


def record_of(run: RunFolder) -> Record:
    """Return what the folder of a run holds, as the record of a finished run.

    Raises:
        LoopscopeError: the folder holds no run, or a file in it is damaged.
    """
    examined = run.examination.is_file()
    return Record(
        run=run.path.resolve().name,
        status="finished",
        settings=run.settings().to_dict(),
        seconds={},
        evaluation=run.curves() or None,
        examination=read_json_as(run.examination, dict[str, Any], "examine the model again") if examined else None,
    )


def write_run_page(path: Path, run: RunFolder, record: Record, up: str | None) -> None:
    """Write the page of a run.

    Args:
        path: the HTML file.
        run: folder of the run. If it holds the model, the page shows a problem being solved.
        record: what was measured on the run.
        up: relative address of the study's report, if the run belongs to a study.
    """
    exam = record.exam
    head = head_of(exam) if exam is not None else note("Not examined yet: loopscope examine does.")
    words = word_list(model_words(record.settings)) + (more_words(WORDS) if exam is not None else "")
    told = task_sentence(record.settings["task"]) + _model_sentence(record.settings) + words
    parts = [
        back(up, "all runs of this study") if up else "",
        f"<h1>{text(record.run)}</h1>",
        head,
        f'<div class="pair"><div>{told}</div><div>{solving(run.path, record.run)}</div></div>',
        _accuracy(record),
        body_of(exam) if exam is not None else "",
        back(up, "all runs of this study") if up else "",
    ]
    write_text(path, page(record.run, "\n".join(parts)))
