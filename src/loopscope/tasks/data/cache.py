"""A cache of prepared data: arrays read from a file, keyed by its path, size and modification time."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np

from loopscope.errors import LoopscopeError
from loopscope.files import make_folder, write_bytes

Arrays = dict[str, np.ndarray]


def cache_folder() -> Path:
    """Return the cache folder: LOOPSCOPE_CACHE, or loopscope in the user's cache folder."""
    given = os.environ.get("LOOPSCOPE_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loopscope"


def to_bytes(arrays: Arrays) -> bytes:
    """Return arrays as the bytes of an npz file, uncompressed so that it loads fast."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_bytes(content: bytes) -> Arrays:
    """Return the arrays in the bytes of an npz file. Nothing in it is unpickled."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def cached(source: Path, reading: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays that ``make`` reads from a file, or the cached ones if the file has not changed.

    A damaged cache is made again. A cache that cannot be written is skipped.

    Args:
        source: the file.
        reading: description of how the file is read: the version of the format and all options that affect the result.
        make: function that reads the file.
    """
    status = source.stat()
    key = f"{source.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n{reading}"
    kept = cache_folder() / f"{source.name.split('.')[0]}-{sha256(key.encode()).hexdigest()[:16]}.npz"
    try:
        return from_bytes(kept.read_bytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        arrays = make()
    with suppress(LoopscopeError):
        write_bytes(make_folder(kept.parent) / kept.name, to_bytes(arrays))
    return arrays
