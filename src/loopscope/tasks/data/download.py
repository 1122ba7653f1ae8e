"""Downloads that go on where they were broken off, and that are checked before they count as there."""

from __future__ import annotations

import fcntl
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from hashlib import sha256
from pathlib import Path
from typing import Any

from loopscope.errors import LoopscopeError
from loopscope.files import explain_write, make_folder, open_lock, write_text
from loopscope.tasks.data.progress import bar

CHUNK = 1 << 18
TIMEOUT = 30.0
ATTEMPTS = 5
"""Connections in a row that may bring nothing before a download gives up."""

UNSATISFIABLE = 416
OFFLINE_ADVICE = "give a file by --data.path, or take --data.source generated"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps what the first server says of a file that another one hands out (Hugging Face)."""

    def __init__(self) -> None:
        self.linked_tag = ""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        self.linked_tag = headers.get("X-Linked-Etag", self.linked_tag)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Answer:
    """What a server says before it sends a file.

    Args:
        begin: the byte that it goes on from.
        size: bytes of the whole file; None where it does not say.
        tag: changes where the file does.
        checksum: SHA-256 of the whole file; None where it does not say.
        content: the bytes from ``begin`` on.
    """

    begin: int
    size: int | None
    tag: str
    checksum: str | None
    content: http.client.HTTPResponse


@contextmanager
def _ask(url: str, begin: int, tag: str) -> Iterator[_Answer]:
    """Ask for a file from a byte on, if it is still the one with that tag, and otherwise for all of it."""
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    headers = {"User-Agent": "loopscope", "Accept-Encoding": "identity"}
    if begin and tag:
        headers |= {"Range": f"bytes={begin}-", "If-Range": tag}
    with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as content:
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content.headers.get("Content-Range", ""))
        length = content.headers.get("Content-Length")
        linked = redirects.linked_tag.strip('"')
        yield _Answer(
            begin=int(part[1]) if part else 0,
            size=int(part[2]) if part else int(length) if length else None,
            tag=content.headers.get("ETag", ""),
            checksum=linked if re.fullmatch("[0-9a-f]{64}", linked) else None,
            content=content,
        )


def _checksum(path: Path) -> str:
    digest = sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a download's progress (see ``bar``); yield a function of the bytes there and of all."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with bar(f"download {name}", None, DownloadColumn(), TransferSpeedColumn()) as update:
        yield lambda done, total: update(completed=done, total=total)


def download(url: str, target: Path, pause: float = 1.0) -> Path:
    """Download a file; one that was broken off, now or in an earlier call, goes on where it was.

    The size that the server tells is checked, and the SHA-256 where it tells one.

    Args:
        url: where it is.
        target: where it goes, whole or not at all; what is there so far is kept beside it.
        pause: seconds to wait before a broken connection is tried again; doubled each time.

    Raises:
        LoopscopeError: the server cannot be reached or has no such file, the connection breaks again and again, the
            file is not as the server says, or it cannot be written.
    """
    partial = make_folder(target.parent) / f".{target.name}.partial"
    with _alone(partial.with_suffix(".lock")):
        if not target.is_file():
            answer = _fetch(url, partial, pause)
            _check(url, partial, answer)
            with explain_write(target):
                partial.replace(target)
    return target


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in this block, so that each file is downloaded once."""
    with open_lock(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(url: str, partial: Path, pause: float) -> _Answer:
    """Receive what is still missing of a file, over as many connections as it takes; return the last answer."""
    tag_file = partial.with_suffix(".tag")
    attempts, restarted = 0, False
    with _progress(partial.name.removeprefix(".").removesuffix(".partial")) as show:
        while True:
            begin = partial.stat().st_size if partial.exists() else 0
            try:
                tag = tag_file.read_text(encoding="utf-8") if begin and tag_file.exists() else ""
                with _ask(url, begin, tag) as answer:
                    write_text(tag_file, answer.tag)
                    _receive(answer, partial, show)
                    return answer
            except urllib.error.HTTPError as error:
                if error.code == UNSATISFIABLE and begin and not restarted:  # the file has become shorter
                    restarted = True
                    partial.unlink()
                    continue
                raise LoopscopeError(f"cannot download {url}: the server says {error.code} {error.reason}") from error
            except (OSError, http.client.HTTPException) as error:
                now = partial.stat().st_size if partial.exists() else 0
                attempts = 0 if now > begin else attempts + 1
                reason = _reason(error)
                if now == 0 and isinstance(error, urllib.error.URLError):
                    raise LoopscopeError(f"cannot reach {url} ({reason}): go online, or {OFFLINE_ADVICE}") from error
                if attempts == ATTEMPTS:
                    raise LoopscopeError(
                        f"the download of {url} broke off after {now} bytes ({reason}): the same command goes on from there"
                    ) from error
                time.sleep(pause * 2**attempts)


def _reason(error: Exception) -> str:
    inner: Any = getattr(error, "reason", error)
    return " ".join(str(getattr(inner, "strerror", None) or inner or type(error).__name__).split())


def _receive(answer: _Answer, partial: Path, show: Callable[[int, int | None], None]) -> None:
    """Write what a server sends.

    Raises:
        ConnectionError: it ends too early.
    """
    done = answer.begin
    with explain_write(partial):
        file = open(partial, "r+b" if answer.begin else "wb")  # noqa: SIM115 (closed below)
    with file:
        file.truncate(answer.begin)
        file.seek(answer.begin)
        while chunk := answer.content.read(CHUNK):
            with explain_write(partial):
                file.write(chunk)
            done += len(chunk)
            show(done, answer.size)
    if answer.size is not None and done < answer.size:
        raise ConnectionError(f"{answer.size - done} bytes are missing")


def _check(url: str, partial: Path, answer: _Answer) -> None:
    """Refuse, and remove, a file that is not as the server said.

    Raises:
        LoopscopeError: its size or its checksum is another.
    """
    size = partial.stat().st_size
    wrong = f"{size} bytes, expected {answer.size}" if answer.size is not None and size != answer.size else ""
    if not wrong and answer.checksum is not None and (found := _checksum(partial)) != answer.checksum:
        wrong = f"SHA-256 {found}, expected {answer.checksum}"
    if wrong:
        partial.unlink()
        raise LoopscopeError(f"the download of {url} is damaged ({wrong}) and was removed: try again")
