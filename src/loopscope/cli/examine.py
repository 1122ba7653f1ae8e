"""``loopscope examine``: measure the stability of a run, or of any loop, and give a verdict."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from loopscope.cli.command import Command
from loopscope.cli.console import columns, console, say
from loopscope.cli.places import asked_place, keep_or_check
from loopscope.cli.subject import add_subject, subject_of
from loopscope.errors import LoopscopeError
from loopscope.files import check_place
from loopscope.parsing import add_settings, new_parser
from loopscope.stability import Examination, ExaminationConfig
from loopscope.subjects import Subject, examine_subject
from loopscope.training.run_folder import RunFolder
from loopscope.trees import batch_size


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        "Measure the three axes of stability of a looped model, and say whether it keeps its answers over many more "
        "iterations than it was trained with. Given package.module:function, the command runs that code from the current "
        "folder. A stored examination of a run with more effort, inputs or iterations is kept."
    )
    add_subject(parser)
    parser.add_argument(
        "--out", type=str | None, help="File to write, .html or .json; by default report.html in the run's folder."
    )
    parser.add_argument("--compare", type=str | None, help="Folder of an examined run to put beside this one.")
    add_settings(parser, ExaminationConfig, "examination")
    return parser


def run(options: Namespace) -> int:
    """Examine a run, or any loop that an importable function returns; return the exit status."""
    from loopscope.reports.examination.page import write_comparison
    from loopscope.reports.run import record_of, study_of, write_run_page
    from loopscope.reports.terminal import part_progress
    from loopscope.stability.examination import WRITERS

    config = options.examination
    folder = RunFolder(Path(options.subject))
    page = asked_place(options.out, [".html"] if options.compare else WRITERS) if options.out else None
    other = Examination.load(RunFolder(Path(options.compare)).examination) if options.compare else None
    subject = subject_of(options)
    is_run = folder.config.is_file()
    kept = _larger_examination(folder, subject, config)
    if is_run:
        keep_or_check(folder.examination, kept)
    if page is None and (other is not None or (is_run and kept is None)):
        page = folder.report if is_run else Path("comparison.html")
        check_place(page)
    with part_progress(console, f"examine {options.subject}") as on_part:
        examination = examine_subject(subject, config, on_part)
    print(examination.describe(columns()))
    if is_run and kept is None:
        examination.save(folder.examination)
    if page is None:
        return 0
    if other is None:
        if page == folder.report:
            write_run_page(page, folder, record_of(folder), study_of(folder))
        else:
            examination.save(page)
        say(f"written: {page}")
    else:
        write_comparison(page, dict(zip(_titles(options.subject, options.compare), (examination, other), strict=True)))
        say(f"side by side: {page}")
    return 0


def _titles(subject: str, compared: str) -> tuple[str, str]:
    """Return the titles of two examinations side by side, told apart where both are of one run."""
    if Path(subject).resolve() == Path(compared).resolve():
        return f"{subject}, now", f"{compared}, as stored"
    return subject, compared


def _larger_examination(folder: RunFolder, subject: Subject, config: ExaminationConfig) -> str | None:
    """Describe a stored examination of a run that covers more than the new one would, or return None."""
    try:
        stored = Examination.load(folder.examination).settings if folder.examination.is_file() else None
    except LoopscopeError:
        return None  # damaged, or of an earlier version: the new one replaces it
    if stored is None or not config.sees_less(stored, batch_size(subject.inputs)):
        return None
    return (
        f"an examination of effort {stored.effort}, {stored.inputs} inputs and at most {stored.iterations} iterations"
    )


COMMAND = Command(make_parser, run)
