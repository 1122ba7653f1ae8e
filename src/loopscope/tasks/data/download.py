"""Resumable downloads, which are checked before they are moved into place."""

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
from loopscope.progress import bar

CHUNK = 1 << 18
TIMEOUT = 30.0
ATTEMPTS = 5
"""Number of consecutive connections without data before a download gives up."""

UNSATISFIABLE = 416
OFFLINE_ADVICE = "give a file with --data.path, or use --data.source generated"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the checksum in the first server's headers (Hugging Face), which the next one lacks."""

    def __init__(self) -> None:
        self.linked_tag = ""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        self.linked_tag = headers.get("X-Linked-Etag", self.linked_tag)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Answer:
    """A server's response to the request for a file.

    Args:
        begin: offset of the first byte in ``content``.
        size: number of bytes of the whole file; None if the server does not report it.
        tag: entity tag, which changes with the file.
        checksum: SHA-256 of the whole file; None if the server does not report it.
        content: the bytes from ``begin`` on.
    """

    begin: int
    size: int | None
    tag: str
    checksum: str | None
    content: http.client.HTTPResponse


@contextmanager
def _ask(url: str, begin: int, tag: str) -> Iterator[_Answer]:
    """Request a file from byte ``begin`` on if its tag is unchanged, otherwise all of it."""
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
    """Show the progress of a download. Yield a function of the bytes received and the total."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with bar(f"download {name}", None, DownloadColumn(), TransferSpeedColumn(), transient=True) as update:
        yield lambda done, total: update(completed=done, total=total)


def download(url: str, target: Path, pause: float = 1.0) -> Path:
    """Download a file. An interrupted download, in this or an earlier call, is resumed.

    The size is checked, and the SHA-256 if the server reports one.

    Args:
        url: address of the file.
        target: path of the file. It appears when the download is complete; a partial file is kept beside it.
        pause: seconds to wait before the first retry. The pause doubles with each retry.

    Raises:
        LoopscopeError: the server cannot be reached or has no such file, the connection breaks repeatedly, the size or
            checksum is wrong, or the file cannot be written.
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
    """Hold a lock, so that only one process at a time downloads a file."""
    with open_lock(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(url: str, partial: Path, pause: float) -> _Answer:
    """Receive the missing part of a file over one or more connections. Return the last response."""
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
                if error.code == UNSATISFIABLE and begin and not restarted:  # the file on the server has become shorter
                    restarted = True
                    partial.unlink()
                    continue
                raise LoopscopeError(f"cannot download {url}: the server says {error.code} {error.reason}") from error
            except (OSError, http.client.HTTPException) as error:
                now = partial.stat().st_size if partial.exists() else 0
                attempts = 0 if now > begin else attempts + 1
                reason = _reason(error)
                if now == 0 and isinstance(error, urllib.error.URLError):
                    raise LoopscopeError(
                        f"cannot reach {url} ({reason}): connect to the network, {OFFLINE_ADVICE}"
                    ) from error
                if attempts == ATTEMPTS:
                    raise LoopscopeError(
                        f"the download of {url} broke off after {now} bytes ({reason}): run the same command to continue"
                    ) from error
                time.sleep(pause * 2**attempts)


def _reason(error: Exception) -> str:
    inner: Any = getattr(error, "reason", error)
    return " ".join(str(getattr(inner, "strerror", None) or inner or type(error).__name__).split())


def _receive(answer: _Answer, partial: Path, show: Callable[[int, int | None], None]) -> None:
    """Write the content of a response to the partial file.

    Raises:
        ConnectionError: the content ends too early.
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
    """Remove and refuse a file of another size or checksum than the server reported.

    Raises:
        LoopscopeError: the size or the checksum differs.
    """
    size = partial.stat().st_size
    wrong = f"{size} bytes, expected {answer.size}" if answer.size is not None and size != answer.size else ""
    if not wrong and answer.checksum is not None and (found := _checksum(partial)) != answer.checksum:
        wrong = f"SHA-256 {found}, expected {answer.checksum}"
    if wrong:
        partial.unlink()
        raise LoopscopeError(f"the download of {url} is damaged ({wrong}) and was removed: try again")
