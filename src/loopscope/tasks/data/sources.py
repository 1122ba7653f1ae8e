"""Sources of a task's data, and reading and writing of its plain or compressed text files."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

from loopscope.errors import LoopscopeError, check_choice
from loopscope.extras import require
from loopscope.files import check_path, write_bytes
from loopscope.tasks.data.cache import cache_folder
from loopscope.tasks.data.download import download

Source = Literal["auto", "file", "download", "generated", "shipped"]
"""Source of data. auto: a file if one is given or found, else a download; generated: made by this package when needed;
shipped: the small set that comes with the package."""

DATA_FOLDER = "LOOPSCOPE_DATA"
"""The environment variable that names a folder of data."""

MAGIC = {".xz": b"\xfd7zXZ\x00", ".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
"""First bytes of the compressed files that can be read, by ending."""

WRITERS: dict[str, Callable[[bytes], bytes]] = {
    ".csv": bytes,
    ".gz": partial(gzip.compress, mtime=0),  # no timestamp, so that the bytes are reproducible
    ".xz": lzma.compress,
}
"""Endings of the files that ``write_text_file`` writes, each with the compression of their content."""

CHUNK = 1 << 20
COMPRESSED = 512
"""Bytes of a .zst file that are decompressed at once. They expand to at most 16 MiB."""

LONGEST_LINE = 200_000
"""Largest number of characters in a line. Lines of puzzle files have a few hundred."""


class _ZstdStream(io.RawIOBase):
    """The content of a .zst file of one or several frames. A truncated or damaged file raises EOFError."""

    def __init__(self, file: io.BufferedReader) -> None:
        zstandard = require("zstandard", "reading a .zst file")
        self._file = file
        self._damage: type[Exception] = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._within_frame = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            compressed = (self._frame.unused_data if self._frame.eof else b"") or self._file.read(COMPRESSED)
            if not compressed:
                if self._within_frame:
                    raise EOFError("it ends within a frame")
                return 0
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(compressed))
            except self._damage as error:
                raise EOFError(str(error)) from error
            self._within_frame = not self._frame.eof
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _compression(path: Path, file: io.BufferedReader) -> str | None:
    """Return the ending that matches the content of an open file, or None if it is not compressed."""
    start = file.read(max(map(len, MAGIC.values())))
    file.seek(0)
    found = next((ending for ending, magic in MAGIC.items() if start.startswith(magic)), None)
    if path.suffix in MAGIC and found != path.suffix:
        kind = f"a {found} file" if found else "not compressed in this format" if start else "empty"
        raise LoopscopeError(
            f"{path} is not a {path.suffix} file: its content is {kind}; download it again or rename it"
        )
    return found


def _decompressed(
    compression: str | None, file: io.BufferedReader
) -> io.BufferedReader | lzma.LZMAFile | gzip.GzipFile:
    if compression == ".xz":
        return lzma.open(file)
    if compression == ".gz":
        return gzip.open(file)
    if compression == ".zst":
        return io.BufferedReader(_ZstdStream(file), CHUNK)
    return file


class _BoundedText(io.TextIOWrapper):
    """Text that is read line by line. A line longer than any puzzle is refused, so that it cannot exhaust memory."""

    def __init__(self, path: Path, content: Any) -> None:
        super().__init__(content, encoding="utf-8-sig", newline="")
        self._path = path

    def __next__(self) -> str:  # type: ignore[override]
        line = self.readline(LONGEST_LINE + 1)
        if len(line) > LONGEST_LINE:
            raise LoopscopeError(
                f"{self._path} has a line of more than {LONGEST_LINE:,} characters, expected one puzzle per line: check the file"
            )
        if not line:
            raise StopIteration
        return line


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8, plain or compressed as .xz, .gz or .zst, for the body of a ``with`` to read.

    Raises:
        LoopscopeError: here or while the body reads, if the file is missing or unreadable, its content does not match
            its ending, it is truncated or damaged, or it is not UTF-8.
    """
    try:
        with open(path, "rb") as file, _decompressed(_compression(path, file), file) as content:
            yield _BoundedText(path, content)
    except FileNotFoundError as error:
        raise LoopscopeError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise LoopscopeError(f"{path} is not UTF-8 text ({error.reason}): convert it to UTF-8") from error
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise LoopscopeError(f"{path} is truncated or damaged ({reason}): download it again") from error
    except OSError as error:
        raise LoopscopeError(f"cannot read {path}: {error.strerror or error}") from error


def check_ending(path: Path) -> None:
    """Refuse to write a file that ``write_text_file`` could not.

    Raises:
        LoopscopeError: its ending is not in ``WRITERS``.
    """
    check_choice("the ending of the file to write", path.suffix, WRITERS)


def write_text_file(path: Path, content: str) -> None:
    """Write a text file, compressed if its path ends in .gz or .xz.

    Raises:
        LoopscopeError: the ending is not supported, or the file cannot be written.
    """
    check_ending(path)
    write_bytes(path, WRITERS[path.suffix](content.encode()))


def find_file(path: str | None, names: Sequence[str]) -> Path | None:
    """Return the file at a path, or without a path the file in the folder ``LOOPSCOPE_DATA``.

    Args:
        path: a file, or a folder that holds one of ``names``.
        names: file names without the endings .xz, .gz, .zst, the preferred first.

    Returns:
        The file, or None if no path is given and ``LOOPSCOPE_DATA`` is unset or its folder has no such file.

    Raises:
        LoopscopeError: the path or the folder does not exist, or the path is a folder without such a file.
    """
    given = path or os.environ.get(DATA_FOLDER)
    if not given:
        return None
    place = check_path(Path(given).expanduser())
    if path and place.is_file():
        return place
    if not place.is_dir():
        origin = "" if path else f" (from {DATA_FOLDER})"
        raise LoopscopeError(f"{place}{origin} does not exist: give a file or a folder of data")
    candidates = [place / f"{name}{ending}" for name in names for ending in ("", *MAGIC)]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None and path:
        raise LoopscopeError(f"{place} holds none of {', '.join(names)} (plain, {', '.join(MAGIC)})")
    return found


@dataclass(frozen=True)
class Remote:
    """A file that can be downloaded.

    Args:
        url: address of the file.
        name: name of the file in the cache folder.
    """

    url: str
    name: str


def data_file(source: str, path: str | None, names: Sequence[str], remote: Remote) -> Path:
    """Return the file of a task's data, from the path, LOOPSCOPE_DATA, the cache folder or a download, in this order.

    Args:
        source: auto, file (never download) or download (ignore local files).
        path: see ``find_file``.
        names: see ``find_file``.
        remote: file to download if none is found.

    Raises:
        LoopscopeError: the path does not exist, there is no file, or it cannot be downloaded.
    """
    found = None if source == "download" else find_file(path, names)
    if found is not None:
        return found
    if source == "file":
        raise LoopscopeError(
            f"there is no data file: give one with --data.path, or set {DATA_FOLDER} to a folder with {names[0]}"
        )
    kept = cache_folder() / "downloads" / remote.name
    return kept if kept.is_file() else download(remote.url, kept)
