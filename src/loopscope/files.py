"""Files that are either complete or absent: atomic writes, whole lines appended, and one clear line when a read fails.

Nothing here follows a planted link: temporary files and locks are created under names that do not exist yet.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
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
"""What to do about a failed write, by error number. For any other error: choose another folder."""


UNUSABLE = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM)
"""Errors of the system which mean that a path cannot be used, whether or not anything is there."""
SHOWN = 60
"""Largest number of characters of an impossible path that a message shows."""


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
    """Return a path in quotes, with unusual characters escaped, and only its beginning if it is long."""
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
                f"{link} is a link to a target that does not exist",
                "remove the link or choose another folder",
            )
        raise LoopscopeError(f"cannot write {path}: {reason}; {remedy}") from error


def _dangling_link(path: Path) -> Path | None:
    """Return the dangling link nearest to the path, among the path and its parents, or None."""
    return next((part for part in (path, *path.parents) if part.is_symlink() and not part.exists()), None)


def check_place(path: Path) -> None:
    """Refuse a path where no file can be written, before any work is done for it.

    Raises:
        LoopscopeError: it is a folder, its folder does not exist, its name is too long, or nothing can be written there.
    """
    with explain_write(path):
        fits = path.parent.is_dir() and not path.is_dir()
    if not fits:
        raise LoopscopeError(f"cannot write a file at {path}: choose a path in a folder that exists")
    with explain_write(path), TemporaryFile(dir=path.parent):
        pass


def make_folder(path: Path) -> Path:
    """Create a folder and its parents, and return it."""
    with explain_write(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def open_new(path: Path) -> IO[bytes]:
    """Create a file that does not exist yet and open it for writing. A link at the path is an error.

    Raises:
        OSError: the path exists already, or cannot be written.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")


def open_lock(path: Path) -> IO[bytes]:
    """Open a lock file, creating it if there is none. Its content is left unchanged.

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
    """Return whether a file's folder is absent, empty, or holds nothing but leftovers of an interrupted write of it."""
    folder = first.parent
    return not folder.is_dir() or {*folder.iterdir()} <= {*_leftovers(first)}


def _hidden(path: Path) -> str:
    """Return the prefix of a file's temporary files, short enough for every file system."""
    return f".{path.name[:50]}"


def _leftovers(path: Path) -> Iterator[Path]:
    """Yield what interrupted writes of a file left beside it. Earlier versions named it ``.name.partial``."""
    return path.parent.glob(f"{glob.escape(_hidden(path))}.*partial")


def drop_leftovers(path: Path) -> None:
    """Remove what interrupted writes of a file left beside it. No other process may be writing the file."""
    for leftover in _leftovers(path):
        leftover.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a temporary file, flush it to disk, then rename it. Readers see either the old file or the new one.

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
    """Write text in UTF-8, as ``write_bytes`` does."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON. NaN and infinity are refused, since JSON has no such numbers."""
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
        raise LoopscopeError(f"{path} is nested too deeply to be read as {kind}") from error
    except (ValueError, mistake) as error:  # ValueError: bytes that are not UTF-8, numbers of thousands of digits
        reason = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        # Python's advice is to lift its limit, which helps nobody here.
        reason = re.sub(r"Exceeds the limit \(\d+ digits\).*$", "it has a number of thousands of digits", reason)
        raise LoopscopeError(f"{path} is not valid {kind}: {reason}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        LoopscopeError: the file is missing, unreadable or not JSON.
    """
    return _read(path, json.loads, "JSON", json.JSONDecodeError)


def read_json_as(path: Path, kind: Any, remedy: str = "remove it and run again") -> Any:
    """Read a JSON file whose value must have a given type (see ``misfit``).

    Args:
        path: the file.
        kind: the type.
        remedy: what to do if the value has another type, for the message.

    Raises:
        LoopscopeError: ``read_json`` refuses the file, or the value has another type.
    """
    try:
        value = read_json(path)
    except LoopscopeError as error:
        raise LoopscopeError(f"{error}: {remedy}") from error
    if (wrong := misfit(value, kind)) is not None:
        raise LoopscopeError(f"{path} is damaged ({wrong}): {remedy}")
    return value


def read_json_if_any(path: Path, kind: Any, absent: Any = None) -> Any:
    """Like ``read_json_as``, but return ``absent`` if there is no such file."""
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
    """Read JSON lines, each with its line number, counted from 1.

    If the writer was interrupted, an incomplete last line is left out.

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
    """Make sure that a file ends with a complete line. Return whether an incomplete last line was removed.

    A last line that only lacks its newline, as some editors leave it, is kept: ``numbered_lines`` reads it too. Since rows
    are mappings, an incomplete one is never valid JSON.
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
