"""Files are whole or absent, and each failure is one line."""

import errno
import json
import os
from pathlib import Path

import pytest
from commands import read_lines
from examples_of_examinations import partial
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import loopscope as ls
from loopscope.answers.answerer import open_answerer
from loopscope.cli.places import asked_place
from loopscope.errors import LoopscopeError
from loopscope.files import (
    append_line,
    check_path,
    check_place,
    drop_cut_line,
    make_folder,
    numbered_lines,
    open_lock,
    open_new,
    read_json,
    read_yaml_mapping,
    write_bytes,
    write_json,
    write_text,
)
from loopscope.studies import StudyFolder
from loopscope.studies.plan import read_plan
from loopscope.training.run_folder import RunFolder

ROWS = [{"step": 1, "loss": 0.5}, {"step": 2, "text": "zwölf\nlines"}, {"step": 3, "more": [1, None]}]


def refusal(function, *arguments) -> str:
    with pytest.raises(LoopscopeError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def full_disk(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_written_is_read(tmp_path):
    write_json(tmp_path / "value.json", {"rows": ROWS})
    assert read_json(tmp_path / "value.json") == {"rows": ROWS}
    write_text(tmp_path / "settings.yaml", "task: prefix-sums\nmodel: {width: 16}\n")
    assert read_yaml_mapping(tmp_path / "settings.yaml") == {"task": "prefix-sums", "model": {"width": 16}}
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "settings.yaml", "value.json"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path, monkeypatch, fails):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, fails, full_disk)
    assert refusal(write_bytes, path, b"new") == (
        f"cannot write {path}: No space left on device; free space or choose another folder"
    )
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_under_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("kept")
    assert "cannot write" in refusal(write_text, tmp_path / "file" / "inside", "text")
    assert "Not a directory" in refusal(make_folder, tmp_path / "file" / "folder")
    assert "cannot write" in refusal(append_line, tmp_path / "file" / "lines", ROWS[0])
    assert (tmp_path / "file").read_text() == "kept"


def test_a_place_for_a_file_is_checked_before_there_is_one(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "new", tmp_path / "file"):
        check_place(place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for place in (tmp_path, tmp_path / "absent" / "new", tmp_path / "file" / "new"):
        assert refusal(check_place, place) == f"cannot write a file at {place}: choose a path in a folder that exists"

    def read_only(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("loopscope.files.TemporaryFile", read_only)
    assert "cannot write" in refusal(check_place, tmp_path / "new")


def test_a_failed_write_says_what_to_do(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    assert refusal(make_folder, tmp_path / "link") == (
        f"cannot write {tmp_path / 'link'}: {tmp_path / 'link'} is a link to a target that does not exist; remove the link or "
        "choose another folder"
    )
    (tmp_path / "round").symlink_to("round")
    assert "is a link to a target that does not exist" in refusal(make_folder, tmp_path / "round" / "folder")
    for write in (make_folder, check_place, lambda path: write_text(path, "text")):
        assert refusal(write, tmp_path / ("n" * 300)).endswith(
            f"({len(str(tmp_path)) + 301} characters): File name too long; choose a shorter name"
        )


def test_numbers_that_json_lacks_are_not_written(tmp_path):
    for write in (write_json, append_line):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(tmp_path / "file", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("read", "content", "complaint"),
    [
        (read_json, b"{", "is not valid JSON"),
        (read_json, b"\xff\xfe", "is not valid JSON"),
        (read_yaml_mapping, b"a: [1\nb: {", "is not valid YAML"),
        (read_yaml_mapping, b"\tx: 1", "is not valid YAML"),
        (read_yaml_mapping, b"\xff\xfe\xff", "is not valid YAML"),
        (read_yaml_mapping, b"- 1\n- 2\n", "holds list, expected a YAML mapping of settings"),
        (read_yaml_mapping, b"", "holds NoneType, expected a YAML mapping of settings"),
        (read_json, b"[" * 100_000, "is nested too deeply to be read as JSON"),
        (read_json, b"9" * 5000, "is not valid JSON: it has a number of thousands of digits"),
        (read_yaml_mapping, b"a: " + b"9" * 5000, "is not valid YAML: it has a number of thousands of digits"),
        (read_yaml_mapping, b"[" * 1500 + b"]" * 1500, "nested more than 100 deep"),
        (read_yaml_mapping, b"a: 1\na: 2", "the key 'a' is given twice: remove one of the two line 1"),
        (read_lines, b'{"step": 1}\n{"st\n{"step": 3}\n', "line 2 is not JSON: remove that line and run again"),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path, read, content, complaint):
    path = tmp_path / "file"
    path.write_bytes(content)
    message = refusal(read, path)
    assert str(path) in message
    assert complaint in message


def test_missing_and_unreadable_files_are_named(tmp_path):
    assert refusal(read_json, tmp_path / "absent") == f"{tmp_path / 'absent'} does not exist"
    assert refusal(read_yaml_mapping, tmp_path) == f"cannot read {tmp_path}: Is a directory"
    assert read_lines(tmp_path / "absent") == []
    assert not drop_cut_line(tmp_path / "absent")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 200))
def test_a_last_line_cut_anywhere_loses_only_itself(tmp_path: Path, cut: int):
    path = tmp_path / "lines.jsonl"
    path.unlink(missing_ok=True)
    for row in ROWS:
        append_line(path, row)
    content = path.read_bytes()
    cut = min(cut, len(content))
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    complete_but_for_its_newline = content[cut : cut + 1] == b"\n"
    kept = ROWS[: whole + complete_but_for_its_newline]
    assert read_lines(path) == kept
    assert drop_cut_line(path) == (cut not in (0, *line_ends(content)) and not complete_but_for_its_newline)
    append_line(path, ROWS[0])
    assert read_lines(path) == [*kept, ROWS[0]]


def line_ends(content: bytes) -> list[int]:
    return [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]


def test_one_line_per_row(tmp_path):
    for row in ROWS:
        append_line(tmp_path / "lines", row)
    assert [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()] == ROWS


def test_a_planted_link_is_never_followed(tmp_path):
    """Guessed names of temporary files, and locks, may have been made links to files of the user's."""
    precious = tmp_path / "precious"
    precious.write_text("kept")
    for name in (".file.partial", ".lock", "file"):
        (tmp_path / name).symlink_to(precious)
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()
    assert refusal(open_lock, tmp_path / ".lock").startswith(f"{tmp_path / '.lock'} is a link or not a regular file")
    with pytest.raises(FileExistsError):
        open_new(tmp_path / ".lock")
    assert precious.read_text() == "kept"


def test_a_lock_keeps_what_its_file_holds(tmp_path):
    (tmp_path / ".lock").write_text("kept")
    open_lock(tmp_path / ".lock").close()
    assert (tmp_path / ".lock").read_text() == "kept"
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(open_lock, tmp_path / "pipe")


def test_a_new_file_has_the_permissions_that_others_get(tmp_path):
    write_text(tmp_path / "one", "1")
    (tmp_path / "two").write_text("2")
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "two").stat().st_mode


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    for name in ("x" * 255, "ü" * 127):
        write_text(tmp_path / name, "1")
        assert (tmp_path / name).read_text() == "1"
    assert "File name too long" in refusal(write_text, tmp_path / ("x" * 256), "1")
    assert len(list(tmp_path.iterdir())) == 2


IMPOSSIBLE = ["n" * 300, "a/" * 3000 + "b", "a\0b.html", "\ud800.json", ""]
"""Names that no file system can hold."""


def model() -> ls.LoopedTransformer:
    config = ls.LoopedTransformerConfig(
        width=16, heads=2, inputs=1, outputs=2, grid=(0,), attention="local", kernel_size=5
    )
    return ls.build_model(config)


@pytest.mark.parametrize("path", IMPOSSIBLE, ids=["long", "deep", "null", "surrogate", "empty"])
@pytest.mark.parametrize(
    "use",
    [
        ls.load_model,
        ls.LoopedTransformer.from_pretrained,
        lambda path: model().save_pretrained(path),
        ls.Examination.load,
        lambda path: partial().save(path),
        lambda path: ls.write_examination(path, partial()),
        lambda path: ls.write_comparison(path, {"one": partial(), "two": partial()}),
        check_path,
    ],
    ids=[
        "load",
        "from_pretrained",
        "save_pretrained",
        "Examination.load",
        "Examination.save",
        "page",
        "comparison",
        "path",
    ],
)
def test_paths_that_cannot_be_are_refused_in_one_short_line(use, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(use, path)
    assert len(message) < 200
    assert "\n" not in message
    message.encode()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("path", IMPOSSIBLE[:4], ids=["long", "deep", "null", "surrogate"])
def test_paths_of_data_and_studies_are_refused_alike(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOOPSCOPE_DATA", raising=False)
    for use in (
        lambda name: ls.Sudoku(path=name).evaluation_splits(),
        lambda name: read_plan(Path(name)),
        lambda name: RunFolder(Path(name)),
        lambda name: StudyFolder(Path(name)),
        lambda name: numbered_lines(Path(name)),
        lambda name: asked_place(name),
        open_answerer,
    ):
        assert refusal(use, path).startswith("cannot use ")


def test_what_is_not_a_path_is_refused():
    assert refusal(check_path, None) == "expected a path, got NoneType: give a string or a pathlib.Path"
    assert refusal(check_path, b"bytes").startswith("expected a path, got bytes")


def test_pages_are_written_to_a_string_as_well(tmp_path):
    ls.write_examination(str(tmp_path / "page.html"), partial())
    assert "<h1>" in (tmp_path / "page.html").read_text()
