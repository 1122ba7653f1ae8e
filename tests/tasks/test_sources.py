"""Where data come from: compressed text, the order of places, and downloads that break, go on and are checked."""

import gzip
import hashlib
import lzma
import threading
import tracemalloc
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import zstandard

from loopscope.errors import LoopscopeError
from loopscope.tasks.data.download import ATTEMPTS, download
from loopscope.tasks.data.sources import Remote, data_file, find_file, open_text

TEXT = "".join(f"line {number}, naïve\n" for number in range(5000))
PACKERS = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOOPSCOPE_DATA", raising=False)


# Compressed text


@pytest.mark.parametrize("ending", PACKERS)
def test_text_is_read_whatever_its_compression(ending, tmp_path):
    path = tmp_path / f"text.csv{ending}"
    path.write_bytes(PACKERS[ending](TEXT.encode()))
    with open_text(path) as file:
        assert file.read() == TEXT
    path.write_bytes(PACKERS[ending](b"\xef\xbb\xbfPuzzleId\r\n"))
    with open_text(path) as file:
        assert file.readline() == "PuzzleId\r\n"


def test_the_content_decides_where_the_ending_says_nothing(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(lzma.compress(b"hello"))
    with open_text(path) as file:
        assert file.read() == "hello"


def test_a_zst_file_may_have_several_frames(tmp_path):
    path = tmp_path / "frames.zst"
    path.write_bytes(b"".join(zstandard.compress(part.encode()) for part in (TEXT, "", "the end")))
    with open_text(path) as file:
        assert file.read() == TEXT + "the end"


def read(path) -> str:
    with open_text(path) as file:
        return file.read()


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_a_file_that_is_not_what_its_ending_says_is_refused(ending, tmp_path):
    path = tmp_path / f"text{ending}"
    for content, kind in (
        (b"PuzzleId,FEN\n", "not compressed in this format"),
        (b"", "empty"),
        (bz := b"BZh9", "not compressed in this format"),
    ):
        path.write_bytes(content)
        with pytest.raises(LoopscopeError, match=rf"is not a \{ending} file: its content is {kind}"):
            read(path)
    other = ".xz" if ending != ".xz" else ".zst"
    path.write_bytes(PACKERS[other](bz))
    with pytest.raises(LoopscopeError, match=rf"its content is a \{other} file"):
        read(path)


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_a_cut_or_damaged_file_is_refused_while_it_is_read(ending, tmp_path):
    path = tmp_path / f"text{ending}"
    content = PACKERS[ending](TEXT.encode())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(LoopscopeError, match=r"text.* is truncated or damaged .*download it again"):
        read(path)
    path.write_bytes(content[:20] + bytes(40) + content[60:])
    with pytest.raises(LoopscopeError, match="is truncated or damaged"):
        read(path)


def test_text_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("naïve".encode("latin-1"))
    with pytest.raises(LoopscopeError, match=r"latin.csv is not UTF-8 text .*convert it"):
        read(path)


def test_files_that_cannot_be_opened_are_refused(tmp_path):
    with pytest.raises(LoopscopeError, match=r"missing\.csv does not exist"):
        read(tmp_path / "missing.csv")
    with pytest.raises(LoopscopeError, match=f"cannot read {tmp_path}: Is a directory"):
        read(tmp_path)


# The order of places

NAMES = ("first.csv", "second.csv")
NOWHERE = Remote("http://127.0.0.1:9/first.csv", "first.csv")


def test_a_path_comes_before_the_folder_of_the_environment_and_both_before_the_cache(tmp_path, monkeypatch):
    folders = {name: tmp_path / name for name in ("given", "environment", "cache/downloads")}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "first.csv").touch()
    (folders["given"] / "second.csv.xz").touch()
    monkeypatch.setenv("LOOPSCOPE_DATA", str(folders["environment"]))

    def found(path, source="auto"):
        return data_file(source, path, NAMES, NOWHERE)

    assert found(str(folders["given"] / "second.csv.xz")) == folders["given"] / "second.csv.xz"
    assert found(str(folders["given"])) == folders["given"] / "first.csv"
    (folders["given"] / "first.csv").unlink()
    assert found(str(folders["given"])) == folders["given"] / "second.csv.xz"
    assert found(None) == folders["environment"] / "first.csv"
    assert found(None, "file") == folders["environment"] / "first.csv"
    assert found(None, "download") == folders["cache/downloads"] / "first.csv"
    (folders["environment"] / "first.csv").unlink()
    assert found(None) == folders["cache/downloads"] / "first.csv"
    with pytest.raises(
        LoopscopeError,
        match=r"there is no data file: give one with --data\.path, or set LOOPSCOPE_DATA to a folder with first",
    ):
        found(None, "file")


def test_places_that_are_not_there_are_refused(tmp_path, monkeypatch):
    with pytest.raises(LoopscopeError, match=r"nowhere does not exist: give a file or a folder"):
        find_file(str(tmp_path / "nowhere"), NAMES)
    with pytest.raises(LoopscopeError, match=r"holds none of first\.csv, second\.csv \(plain, \.xz, \.gz, \.zst\)"):
        find_file(str(tmp_path), NAMES)
    assert find_file(None, NAMES) is None
    monkeypatch.setenv("LOOPSCOPE_DATA", str(tmp_path))
    assert find_file(None, NAMES) is None
    monkeypatch.setenv("LOOPSCOPE_DATA", str(tmp_path / "gone"))
    with pytest.raises(LoopscopeError, match=r"gone \(from LOOPSCOPE_DATA\) does not exist"):
        find_file(None, NAMES)


# Downloads


@dataclass
class Site:
    """What the server does; tests change it."""

    content: bytes = bytes(range(256)) * 4000
    tag: str = '"one"'
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)  # bytes after which each answer breaks off, first one first
    linked: str | None = None
    claimed: int | None = None
    asked: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site():
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/linked":
                self.send_response(302)
                self.send_header("Location", "/file")
                self.send_header("X-Linked-Etag", f'"{state.linked}"')
                self.end_headers()
                return
            if self.path != "/file":
                self.send_error(404)
                return
            wanted = self.headers.get("Range", "")
            state.asked.append(wanted)
            begin = 0
            if state.ranges and wanted and self.headers.get("If-Range") == state.tag:
                begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if begin >= len(state.content):
                    self.send_error(416)
                    return
            size = state.claimed or len(state.content)
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - begin))
            if state.tag:
                self.send_header("ETag", state.tag)
            self.end_headers()
            end = begin + state.break_after.pop(0) if state.break_after else len(state.content)
            self.wfile.write(state.content[begin:end])
            self.close_connection = True

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "downloads" / "file.bin"


def leftovers(target) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if not path.name.endswith((".lock", ".tag")))


def test_a_download_arrives_whole_and_is_not_asked_for_again(site, target):
    assert download(f"{site.url}/file", target) == target
    assert target.read_bytes() == site.content
    assert leftovers(target) == ["file.bin"]
    download(f"{site.url}/file", target)
    assert site.asked == [""]


def test_a_download_goes_on_where_the_connection_broke(site, target):
    site.break_after = [300_000, 200_000]
    download(f"{site.url}/file", target, pause=0.0)
    assert target.read_bytes() == site.content
    assert site.asked == ["", "bytes=300000-", "bytes=500000-"]


def test_a_download_goes_on_in_a_later_call(site, target):
    site.break_after = [400_000] + [0] * ATTEMPTS
    with pytest.raises(
        LoopscopeError, match=r"broke off after 400000 bytes \(624000 bytes are missing\): run the same command"
    ):
        download(f"{site.url}/file", target, pause=0.0)
    assert leftovers(target) == [".file.bin.partial"]
    download(f"{site.url}/file", target)
    assert target.read_bytes() == site.content
    assert site.asked[-1] == "bytes=400000-"


@pytest.mark.parametrize("change", [{"ranges": False}, {"tag": ""}])
def test_a_server_that_sends_no_parts_sends_all_of_it_again(site, target, change):
    for name, value in change.items():
        setattr(site, name, value)
    site.break_after = [300_000]
    download(f"{site.url}/file", target, pause=0.0)
    assert target.read_bytes() == site.content


def test_a_file_that_changed_meanwhile_is_fetched_anew(site, target):
    site.break_after = [400_000] + [0] * ATTEMPTS
    with pytest.raises(LoopscopeError, match="broke off"):
        download(f"{site.url}/file", target, pause=0.0)
    site.content, site.tag = site.content[::-1], '"two"'
    download(f"{site.url}/file", target)
    assert target.read_bytes() == site.content


def test_more_bytes_than_the_file_now_has_are_dropped(site, target):
    site.break_after = [400_000] + [0] * ATTEMPTS
    with pytest.raises(LoopscopeError, match="broke off"):
        download(f"{site.url}/file", target, pause=0.0)
    site.content = site.content[:1000]
    download(f"{site.url}/file", target)
    assert target.read_bytes() == site.content


def test_fewer_bytes_than_the_server_says_are_refused(site, target):
    site.claimed = len(site.content) + 10
    with pytest.raises(LoopscopeError, match=r"cannot download .*file: the server says 416"):
        download(f"{site.url}/file", target, pause=0.0)
    assert not target.exists()


def test_a_checksum_that_the_first_server_tells_is_checked(site, target):
    site.linked = hashlib.sha256(site.content).hexdigest()
    download(f"{site.url}/linked", target)
    assert target.read_bytes() == site.content
    target.unlink()
    site.linked = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(
        LoopscopeError, match=r"is damaged \(SHA-256 [0-9a-f]{64}, expected .*\) and was removed: try again"
    ):
        download(f"{site.url}/linked", target)
    assert leftovers(target) == []


def test_a_server_without_the_file_is_named(site, target):
    with pytest.raises(LoopscopeError, match=r"cannot download http://.*/none: the server says 404 Not Found"):
        download(f"{site.url}/none", target)


def test_offline_the_error_is_one_line_that_says_what_to_do(target):
    with pytest.raises(
        LoopscopeError, match=r"cannot reach http.*Connection refused.*--data\.path.*generated"
    ) as caught:
        data_file("auto", None, NAMES, NOWHERE)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(site, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LoopscopeError, match=r"cannot write .*: Not a directory|File exists"):
        download(f"{site.url}/file", tmp_path / "file" / "inner.bin")


def test_two_at_once_download_once(site, target):
    threads = [threading.Thread(target=download, args=(f"{site.url}/file", target)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == site.content
    assert site.asked == [""]


def test_an_endless_line_ends_the_reading_before_memory_does(tmp_path):
    """A few kilobytes can hold a line of gigabytes."""
    path = tmp_path / "bomb.csv.zst"
    with open(path, "wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as writer:
        for _ in range(256):
            writer.write(b"x" * (1 << 20))
    tracemalloc.start()
    with open_text(path) as lines, pytest.raises(LoopscopeError, match="has a line of more than 200,000 characters"):
        next(lines)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
