"""What ``examine`` and ``forecast`` share: their subject, which is a run or any loop that a function returns."""

from __future__ import annotations

from dataclasses import replace

from jsonargparse import ArgumentParser, Namespace

from loopscope.files import check_path
from loopscope.subjects import Subject, from_function, from_run


def add_subject(parser: ArgumentParser) -> None:
    """Add the arguments that name a subject."""
    parser.add_argument(
        "subject",
        help="Folder of a trained run, or package.module:function. The function returns (loop, inputs), "
        "(loop, inputs, targets) or (loop, inputs, targets, trained iterations). Its module is looked for in the current "
        "folder first, then among the installed packages; importing it and calling the function runs its code.",
    )
    parser.add_argument(
        "--trained-iterations",
        type=int | None,
        help="Most iterations in training; by default what the run or the function says.",
    )


def subject_of(options: Namespace) -> Subject:
    """Return the subject that the options name.

    Raises:
        LoopscopeError: there is no such run, module or function, or the function returns something else.
    """
    name = options.subject
    path = check_path(name)
    subject = from_function(name) if ":" in name and not path.exists() else from_run(path)
    given = options.trained_iterations
    return subject if given is None else replace(subject, trained_iterations=given)
