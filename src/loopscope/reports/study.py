"""The page of a study: figures, the table of all runs, and how to make it again."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from loopscope.files import make_folder, write_bytes, write_text
from loopscope.reports import figures
from loopscope.reports.examination import write_examination
from loopscope.reports.page import page, picture, png, table, text
from loopscope.reports.rows import RADIUS_NOTE, split_names, study_table
from loopscope.stability import Examination
from loopscope.studies import Record, StudyFolder, StudyPlan

CAPTIONS = {
    "accuracy": "Answers right against iterations, one panel per split, one line per run (seeds of one configuration look "
    "alike). The shaded range is what training used: everything to its right is extrapolation.",
    "residual": "How much one iteration still changes the state, and how large the state is. A residual that falls to the "
    "floor is a fixed point; one that falls slowly while the norm grows is a drift.",
    "radius": "Spectral radius of the step's Jacobian at the last state against the accuracy that is left at the last "
    "iteration. Open marks: the state there is no fixed point, so that the radius says less.",
}


def _processor() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def _seconds(records: Sequence[Record]) -> str:
    stages = ("train", "evaluate", "examine")
    totals = {stage: sum(record.seconds.get(stage, 0.0) for record in records) for stage in stages}
    return ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in totals.items())


def _headline(records: Sequence[Record]) -> str:
    splits = split_names(records)
    done = [record for record in records if record.evaluation and splits and splits[-1] in record.evaluation]
    if not done:
        return "No run has been evaluated yet."
    best = max(done, key=lambda record: (record.evaluation or {})[splits[-1]]["last"])
    curve = (best.evaluation or {})[splits[-1]]
    iterations = len(curve["answer_accuracy"])
    return (
        f"Best on {splits[-1]} at iteration {iterations}: {best.run} with {100 * curve['last']:.1f}% of answers right, "
        f"trained with at most {best.settings['training']['max_iterations']} iterations."
    )


def write_report(plan: StudyPlan, folder: StudyFolder, records: Mapping[str, Record]) -> Path:
    """Write a study's page, its figures as PNG files, and a page for each run that was examined.

    Args:
        plan: the study.
        folder: where it is kept; the page is ``report.html`` there.
        records: the latest record of each run that ended.
    """
    rows = [records[run.name] for run in plan.runs if run.name in records]
    trained = max(run.settings.training.max_iterations for run in plan.runs)
    images = make_folder(folder.path / "figures")
    parts = [f"<h1>{text(plan.title)}</h1>", f"<p>{text(_headline(rows))}</p>"]
    drawn = {}
    if any(record.evaluation for record in rows):
        drawn["accuracy"] = figures.accuracy_figure(rows, plan.varied, trained)
    if any(record.examination for record in rows):
        drawn["residual"] = figures.residual_figure(rows, plan.varied, trained)
        drawn["radius"] = figures.radius_figure(rows, plan.varied)
    for name, figure in drawn.items():
        image = png(figure)
        write_bytes(images / f"{name}.png", image)
        parts.append(picture(image, CAPTIONS[name]))
    columns, lines = study_table(rows)
    parts += [
        "<h2>All runs</h2>",
        table(columns, lines, texts=("run", "verdict")),
        f'<p class="soft">{RADIUS_NOTE}.</p>',
    ]
    parts.append(
        '<p class="soft">Accuracy in % of whole answers right at the last iteration; best and at: the best '
        "accuracy on the last split and its iteration.</p>"
    )
    links = []
    for record in rows:
        if record.examination is not None:
            run = folder.run(record.run)
            write_examination(run.path / "report.html", Examination.from_dict(record.examination), record.run)
            links.append(f'<a href="runs/{text(record.run)}/report.html">{text(record.run)}</a>')
    if links:
        parts += ["<h2>Each model's examination</h2>", f"<p>{' · '.join(links)}</p>"]
    if "accuracy" in drawn:
        interactive = figures.interactive_accuracy(rows, plan.varied, trained)
        parts += [
            "<h2>Explore</h2>",
            interactive.to_html(
                full_html=False, include_plotlyjs=True, config={"responsive": True, "displaylogo": False}
            ),
        ]
    waiting = [run.name for run in plan.runs if run.name not in records]
    if waiting:
        parts += ["<h2>Not done yet</h2>", f"<p>{text(', '.join(waiting))}</p>"]
    parts += [
        "<h2>How to make it again</h2>",
        f"<pre>loopscope study {text(plan.source)}</pre>",
        f'<p class="soft">loopscope {version("loopscope")}, torch {version("torch")}, Python {platform.python_version()}; '
        f"{text(_processor())}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {text(_seconds(rows))}.</p>",
        f"<details><summary>Settings of the first run</summary><pre>{text(json.dumps(plan.runs[0].settings.to_dict(), indent=1))}"
        "</pre></details>",
    ]
    write_text(folder.report, page(plan.title, "\n".join(parts)))
    return folder.report
