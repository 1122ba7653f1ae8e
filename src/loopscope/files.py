"""Files that are whole or absent: write beside and rename, append whole lines, read with one clear line on failure.

Nothing here follows a link that somebody planted: temporary files and locks are created by names that nobody else holds.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import yaml

from loopscope import strict_yaml
from loopscope.errors import LoopscopeError
from loopscope.schema import misfit

REMEDIES = {
    errno.ENOSPC: "free space or choose another folder",
    errno.EDQUOT: "free space or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What to do about a failed write, by the number of its error; for any other one: choose another folder."""


UNUSABLE = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM)
"""Errors of the system that say that a path cannot be used, whether or not anything is there."""
SHOWN = 60
"""Characters of an impossible path that a message shows."""


def check_path(given: object) -> Path:
    """Return a string or path as a ``Path``; refuse one that no file system can hold, before anything is done with it.

    Raises:
        LoopscopeError: it is not a path, is empty or too long, holds a character that names cannot hold, or leads through a
            folder that may not be read.

    Example:
        >>> check_path("runs/one").name
        'one'
        >>> check_path(300 * "n")
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: cannot use 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn'... (300 ...
    """
    text = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise LoopscopeError(f"expected a path, got {type(given).__name__}: give a string or a pathlib.Path")
    if not text:
        raise LoopscopeError("the path is empty: name a file or a folder")
    try:
        os.lstat(text)
    except ValueError as error:  # a null character, or one that the system cannot encode
        raise LoopscopeError(f"cannot use {_shown(text)}: names of files cannot hold such characters") from error
    except OSError as error:
        if error.errno in UNUSABLE:
            remedy = REMEDIES.get(error.errno, "choose another path")
            raise LoopscopeError(f"cannot use {_shown(text)}: {error.strerror}; {remedy}") from error
    return Path(text)


def _shown(text: str) -> str:
    """Return a path in quotes, with unusual characters escaped, and only its beginning where it is long."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}... ({len(text)} characters)"


@contextmanager
def explain_write(path: Path) -> Iterator[None]:
    """Turn a failed write (no permission, full disk) into one line that names the file and says what to do."""
    check_path(path)
    try:
        yield
    except OSError as error:
        reason, remedy = error.strerror or str(error), REMEDIES.get(error.errno or 0, "choose another folder")
        if error.errno in (errno.EEXIST, errno.ELOOP) and (link := _dangling_link(path)) is not None:
            reason, remedy = (
                f"{link} is a link to a place that does not exist",
                "remove the link or choose another folder",
            )
        raise LoopscopeError(f"cannot write {path}: {reason}; {remedy}") from error


def _dangling_link(path: Path) -> Path | None:
    """Return the path or the nearest of its parents that is a link to nothing, or None."""
    return next((part for part in (path, *path.parents) if part.is_symlink() and not part.exists()), None)


def check_place(path: Path) -> None:
    """Refuse a place where no file can be written, before the work whose result the file will hold.

    Raises:
        LoopscopeError: it is a folder, its folder does not exist, its name is too long, or nothing can be written there.
    """
    with explain_write(path):
        fits = path.parent.is_dir() and not path.is_dir()
    if not fits:
        raise LoopscopeError(f"{path} is no place for a file: name one in a folder that exists")
    with explain_write(path), TemporaryFile(dir=path.parent):
        pass


def make_folder(path: Path) -> Path:
    """Make a folder and its parents; return it."""
    with explain_write(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def open_new(path: Path) -> IO[bytes]:
    """Create a file that does not exist yet and open it for writing; a link in its place is an error.

    Raises:
        OSError: something is there already, or nothing can be written.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")


def open_lock(path: Path) -> IO[bytes]:
    """Open a lock file, creating it where there is none; its content is left as it is.

    Raises:
        LoopscopeError: it is a link or not a regular file, or it cannot be opened.
    """
    refusal = f"{path} is a link or not a regular file: remove it and run again"
    if path.is_symlink():
        raise LoopscopeError(refusal)
    with explain_write(path):
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise LoopscopeError(refusal)
    return os.fdopen(number, "r+b")


def vacant(first: Path) -> bool:
    """Return whether a file's folder is free for it: absent, empty, or with no more than a killed write of it there."""
    folder = first.parent
    return not folder.is_dir() or {*folder.iterdir()} <= {*_leftovers(first)}


def _hidden(path: Path) -> str:
    """Return how the names of a file's temporary files begin: not longer than file systems allow."""
    return f".{path.name[:50]}"


def _leftovers(path: Path) -> Iterator[Path]:
    """Yield what killed writes of a file left beside it; ``.name.partial`` is how earlier versions called it."""
    return path.parent.glob(f"{glob.escape(_hidden(path))}.*partial")


def drop_leftovers(path: Path) -> None:
    """Remove what killed writes of a file left beside it; nobody else may be writing it."""
    for leftover in _leftovers(path):
        leftover.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place, flush it to disk, then rename it: readers see the old file or the new one.

    A link at ``path`` is replaced, not followed.
    """
    partial = path.with_name(f"{_hidden(path)}.{secrets.token_hex(4)}.partial")
    with explain_write(path):
        try:
            with open_new(partial) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write text as ``write_bytes`` does, in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON; numbers that are not finite are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line in a single write."""
    line = json.dumps(value, allow_nan=False).encode() + b"\n"
    with explain_write(path), open(path, "ab") as file:
        file.write(line)


def _read(path: Path, parse: Callable[[str], Any], kind: str, mistake: type[Exception]) -> Any:
    check_path(path)
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LoopscopeError(f"{path} does not exist") from error
    except OSError as error:
        raise LoopscopeError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError as error:
        raise LoopscopeError(f"{path} is nested too deep to be read as {kind}") from error
    except (ValueError, mistake) as error:  # ValueError: bytes that are not UTF-8, numbers of thousands of digits
        reason = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise LoopscopeError(f"{path} is not valid {kind}: {reason}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        LoopscopeError: the file is missing, unreadable or not JSON.
    """
    return _read(path, json.loads, "JSON", json.JSONDecodeError)


def read_json_as(path: Path, kind: Any, remedy: str = "remove it and run again") -> Any:
    """Read a JSON file whose value is to be of a type (see ``misfit``).

    Args:
        path: the file.
        kind: the type.
        remedy: what to do where it is not, for the message.

    Raises:
        LoopscopeError: see ``read_json``; or the value is of another type.
    """
    try:
        value = read_json(path)
    except LoopscopeError as error:
        raise LoopscopeError(f"{error}: {remedy}") from error
    if (wrong := misfit(value, kind)) is not None:
        raise LoopscopeError(f"{path} is damaged ({wrong}): {remedy}")
    return value


def read_json_if_any(path: Path, kind: Any, absent: Any = None) -> Any:
    """Return what ``read_json_as`` does, or ``absent`` where there is no such file."""
    return read_json_as(path, kind) if check_path(path).exists() else absent


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        LoopscopeError: the file is missing, unreadable, not YAML, repeats a key, or holds something else.
    """
    value = _read(path, strict_yaml.load, "YAML", yaml.YAMLError)
    if not isinstance(value, dict):
        raise LoopscopeError(f"{path} holds {type(value).__name__}, expected a YAML mapping of settings")
    return value


def numbered_lines(path: Path) -> list[tuple[int, Any]]:
    """Read JSON lines of any kind, each with its number in the file, the first being 1.

    A last line that was cut (the writer was killed) is left out, since it was never complete.

    Raises:
        LoopscopeError: a line before the last is not JSON.
    """
    if not check_path(path).exists():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise LoopscopeError(f"cannot read {path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                rows.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise LoopscopeError(f"{path}, line {number} is not JSON: remove that line and run again") from error
    return rows


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def drop_cut_line(path: Path) -> bool:
    """End a file's last line, so that the next append begins one; return whether it was cut, and so dropped.

    A last line that lacks no more than its newline, as editors leave it, is kept: ``numbered_lines`` reads it too. Rows
    are mappings, no part of which is JSON.
    """
    if not path.exists():
        return False
    content = path.read_bytes()
    begin = content.rfind(b"\n") + 1
    last = content[begin:]
    if not last:
        return False
    whole = _is_json(last)
    write_bytes(path, content + b"\n" if whole else content[:begin])
    return not whole
