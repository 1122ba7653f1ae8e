"""Where commands write: the file that --out names, or a file of the run, and what is never overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from loopscope.cli.console import say
from loopscope.errors import LoopscopeError, check_choice
from loopscope.files import check_place
from loopscope.training.run_folder import RunFolder


def asked_place(out: str, endings: Iterable[str] | None = None) -> Path:
    """Return the file that --out names.

    Args:
        out: the value of --out.
        endings: the endings that the file may have; None for any.

    Raises:
        LoopscopeError: the file has another ending, belongs to a run, or cannot be written.
    """
    place = Path(out)
    check_place(place)
    if _belongs_to_a_run(place):
        raise LoopscopeError(f"--out {out} names a file that belongs to a run: choose another file")
    if endings is not None:
        check_choice("the ending of --out", place.suffix, endings)
    return place


def place_for(own: Path, out: str | None, other_data: bool) -> Path:
    """Return the file to write a measurement of a run to.

    Args:
        own: the file of the run that holds this measurement on the run's own data.
        out: the value of --out, if given.
        other_data: whether the measurement is on other data.

    Raises:
        LoopscopeError: other data were given without --out; or see ``asked_place``.
    """
    if out is not None:
        return asked_place(out, [".json"])
    if other_data:
        raise LoopscopeError(f"{own} is for the run's own data, and other data were given: name a file with --out FILE")
    return own


def keep_or_check(place: Path, kept: str | None) -> None:
    """Before measuring, say that a stored result is kept, or check that the new one can be written.

    Args:
        place: the file.
        kept: the stored result that the new one must not overwrite, in words; None where there is none.

    Raises:
        LoopscopeError: see ``check_place``.
    """
    if kept is None:
        check_place(place)
        return
    say(f"not written: {place} holds {kept}, which covers more and is kept; --out FILE writes this result elsewhere")


def _belongs_to_a_run(place: Path) -> bool:
    # Unlike Path.resolve, this does not fail where links lead round in a circle.
    place = Path(os.path.realpath(place))
    runs = [run for folder in place.parents if (run := RunFolder(folder)).config.is_file()]
    return any(place.is_relative_to(part) for run in runs for part in run.parts())
