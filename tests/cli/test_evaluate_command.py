"""``loopscope evaluate``: until settled, and on other data than the run's own."""

import gzip
import json
from itertools import islice
from pathlib import Path

import pytest
from small_runs import finished

from loopscope.cli import main
from loopscope.files import read_json
from loopscope.models import LoopedTransformer, build_model
from loopscope.tasks.sudoku.task import SHIPPED, Sudoku
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.settings import settings_from


@pytest.fixture
def bits(tmp_path: Path) -> RunFolder:
    return finished(
        tmp_path / "bits",
        task="prefix-sums",
        data={"test_bits": [8, 12], "train_bits": 8, "strings": 40, "test_strings": 9},
    )


@pytest.fixture
def boards(tmp_path: Path) -> RunFolder:
    """A run on generated puzzles; none is ever generated here."""
    return finished(tmp_path / "boards", task="sudoku", data={"source": "generated", "validation_puzzles": 20})


@pytest.fixture
def puzzles(tmp_path: Path) -> Path:
    """A user's file: sixty easy puzzles."""
    path = tmp_path / "mine.csv"
    with gzip.open(SHIPPED, "rt") as file:
        path.write_text("".join(islice(file, 61)))
    return path


def said(capsys, *arguments: object, status: int = 0) -> str:
    """Run ``loopscope evaluate`` and return what it says beside its table, on one line."""
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments)]) == status
    return " ".join(capsys.readouterr().err.split())


def test_the_iteration_is_compiled_where_that_of_training_was(tmp_path, monkeypatch, capsys):
    compiled = []
    monkeypatch.setattr(LoopedTransformer, "compile_step", lambda model: compiled.append(model.config.recall))
    data = {"test_bits": [8], "train_bits": 8, "strings": 40, "test_strings": 9}
    for choice in (False, True):
        run = finished(tmp_path / str(choice), task="prefix-sums", data=data, training={"compile": choice})
        assert f"written: {run.evaluation}" in said(capsys, run.path)
        assert compiled == ["external"] * choice
    curves = [read_json(tmp_path / name / "evaluation.json")["splits"] for name in ("False", "True")]
    assert curves[0] == curves[1]


def test_it_prints_how_many_settled_how_many_of_these_were_right_and_when_answers_were_final(bits, capsys):
    assert main(["evaluate", str(bits.path)]) == 0
    printed = capsys.readouterr().out
    assert "of these right" in printed
    curves = read_json(bits.evaluation)["splits"]
    for name, curve in curves.items():
        settled, final = curve["settled"], curve["final"]
        assert settled["examples"] == 6
        row = next(line for line in reversed(printed.splitlines()) if line.startswith(name)).split()
        assert row[2:5] == ["6", "of", "6"]
        assert int(row[5]) == settled["right"]
        assert [float(cell) for cell in row[-3:]] == [final["half"], final["nine_tenths"], final["all"]]


def test_a_full_evaluation_is_kept_and_compared_with(bits, tmp_path, capsys):
    assert f"written: {bits.evaluation}" in said(capsys, bits.path)
    full = bits.evaluation.read_text()
    words = said(capsys, bits.path, "--until-settled")
    assert f"not written: {bits.evaluation}" in words
    assert words.count("accuracy at the last iteration +0.00 points from running every iteration") == 2
    assert bits.evaluation.read_text() == full
    # Other examples, or another last iteration: nothing to compare with.
    for option in ("--examples", "--iterations"):
        assert "points" not in said(capsys, bits.path, "--until-settled", option, 5)
    out = tmp_path / "early.json"
    assert f"written: {out}" in said(capsys, bits.path, "--until-settled", "--out", out)
    assert bits.evaluation.read_text() == full
    early = read_json(out)
    assert early["settings"]["evaluation"]["until_settled"] is True
    for name, curve in json.loads(full)["splits"].items():
        assert curve["steps"] is None
        steps = early["splits"][name]["steps"]
        assert steps["full"] == 6 * 60
        assert steps["computed"] < steps["full"]
        percent = 100 * (1 - steps["computed"] / steps["full"])
        assert f"{name}: {percent:.1f}% of the iterations saved: {steps['computed']} computed instead of 360" in words


def test_an_evaluation_until_settled_is_written_where_none_is_there_and_gives_way_to_a_full_one(bits, capsys):
    assert "points" not in said(capsys, bits.path, "--until-settled", "--examples", 4)
    assert read_json(bits.evaluation)["splits"]["8 bits"]["steps"]["full"] == 4 * 60
    assert f"not written: {bits.evaluation}" not in said(capsys, bits.path, "--until-settled")
    assert read_json(bits.evaluation)["splits"]["8 bits"]["steps"]["full"] == 6 * 60
    said(capsys, bits.path)
    assert read_json(bits.evaluation)["splits"]["8 bits"]["steps"] is None


@pytest.mark.parametrize("less", [("--iterations", 59), ("--examples", 5), ("--iterations", 99, "--examples", 5)])
def test_an_evaluation_of_more_is_not_overwritten(bits, tmp_path, capsys, less):
    said(capsys, bits.path)
    before, out = bits.evaluation.read_text(), tmp_path / "less.json"
    assert (
        f"not written: {bits.evaluation} holds an evaluation of 6 examples of 8 bits over 60 iterations, which covers more and is "
        "kept; --out FILE writes this result elsewhere"
    ) in said(capsys, bits.path, *less)
    assert bits.evaluation.read_text() == before
    assert "not written" not in said(capsys, bits.path, *less, "--out", out)
    assert out.is_file()


def test_an_evaluation_of_as_much_or_more_is_written(bits, capsys):
    # Of each length there are nine strings: to ask for more is to ask for these.
    for more in (("--iterations", 20), ("--iterations", 20), ("--examples", 9), ("--examples", 1000)):
        assert f"written: {bits.evaluation}" in (words := said(capsys, bits.path, *more))
        assert "not written" not in words
    curve = read_json(bits.evaluation)["splits"]["12 bits"]
    assert (curve["examples"], len(curve["answer_accuracy"])) == (9, 60)


def test_the_config_may_ask_for_it_and_the_option_forbid_it(tmp_path, capsys):
    data = {"test_bits": [8], "train_bits": 8, "strings": 40}
    run = finished(
        tmp_path / "run", task="prefix-sums", data=data, evaluation={"iterations": 30, "until_settled": True}
    )
    assert "iterations saved" in said(capsys, run.path)
    assert "iterations saved" not in said(capsys, run.path, "--no-until-settled")


def test_a_config_from_before_this_option_is_read(bits):
    text = bits.config.read_text()
    assert "  until_settled: false\n" in text
    bits.config.write_text(text.replace("  until_settled: false\n", ""))
    assert bits.settings().evaluation.until_settled is False


def test_a_run_on_generated_puzzles_is_evaluated_on_a_file(boards, puzzles, tmp_path, capsys):
    out = tmp_path / "theirs.json"
    words = said(capsys, boards.path, "--data.path", puzzles, "--iterations", 2, "--out", out)
    assert f"written: {out}" in words
    assert not boards.evaluation.exists()
    found = read_json(out)
    assert found["settings"]["data"]["path"] == str(puzzles)
    assert found["settings"]["data"]["source"] == "auto"
    # What is not given stays the run's own.
    assert found["settings"]["data"]["validation_puzzles"] == 20
    expected = Sudoku(path=str(puzzles), validation_puzzles=20).evaluation_splits()
    assert {name: curve["examples"] for name, curve in found["splits"].items()} == {
        name: min(6, len(split)) for name, split in expected.items()
    }


def test_a_source_replaces_the_path_of_the_run(puzzles, tmp_path, capsys):
    data = {"path": str(puzzles), "validation_puzzles": 20}
    run, out = finished(tmp_path / "run", task="sudoku", data=data), tmp_path / "shipped.json"
    said(capsys, run.path, "--data.source", "shipped", "--iterations", 1, "--out", out)
    assert read_json(out)["settings"]["data"]["path"] is None


def test_lists_and_numbers_are_read_as_train_reads_them(bits, tmp_path, capsys):
    out = tmp_path / "longer.json"
    said(capsys, bits.path, "--data.test_bits", "[8,20]", "--data.test_strings=3", "--iterations", 2, "--out", out)
    splits = read_json(out)["splits"]
    assert {name: curve["examples"] for name, curve in splits.items()} == {"8 bits": 6, "20 bits": 3}


def test_a_model_of_one_pass_is_asked_for_no_iterations(tmp_path, capsys):
    model = {"width": 16, "heads": 2, "architecture": "fixed-depth", "recall": "none", "blocks": 2}
    settings = settings_from(
        {"task": "prefix-sums", "model": model, "data": {"test_bits": [8], "train_bits": 8, "strings": 40}}
    )
    run = open_run(tmp_path / "run", settings, resume=False)
    build_model(settings.model).save_pretrained(run.model)
    for option in (["--iterations", 3], ["--until-settled"]):
        assert f"{option[0]} was given for {run.path}, whose model has a single pass" in said(
            capsys, run.path, *option, status=2
        )
    said(capsys, run.path, "--examples", 3, "--no-until-settled")
    assert len(read_json(run.evaluation)["splits"]["8 bits"]["answer_accuracy"]) == 1


def test_splits_are_made_once(bits, capsys, monkeypatch):
    from loopscope.tasks import PrefixSums

    calls, make = [], PrefixSums.evaluation_splits
    monkeypatch.setattr(PrefixSums, "evaluation_splits", lambda task: calls.append(1) or make(task))
    said(capsys, bits.path, "--iterations", 1)
    assert len(calls) == 1


OF_A_RUN = "names a file that belongs to a run: choose another file"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data.seed", "1"], "name a file with --out FILE"),
        (["--data.pth", "x", "--out", "OUT"], "unknown option --data.pth (did you mean --data.path?)"),
        (["--until-setled"], "did you mean --until-settled?"),
        (["--data.test_bits", "[8]", "--out", "OUT"], "the data of the task sudoku have no option --data.test_bits"),
        (["--data.rows", "many", "--out", "OUT"], "data.rows: expected int, got many"),
        (["--data.rows", "0", "--out", "OUT"], "rows is 0, expected a number above 0"),
        (["--data.source", "shiped", "--out", "OUT"], "data.source"),
        (["--data.path", "nothere.csv", "--out", "OUT"], "nothere.csv does not exist"),
        (["--data.path", "CHESS", "--out", "OUT"], "CHESS"),
        (["--data.source", "shipped", "--out", "RUN/evaluation.json"], OF_A_RUN),
        (["--data.source", "shipped", "--out", "RUN/seconds.json"], OF_A_RUN),
        (["--out", "RUN/seconds.json"], OF_A_RUN),
        (["--out", "RUN/machines.json"], OF_A_RUN),
        (["--out", "RUN/config.yaml"], OF_A_RUN),
        (["--out", "RUN/model/config.json"], OF_A_RUN),
        (["--out", "RUN/mine.yaml"], "the ending of --out is '.yaml', expected one of .json"),
        (["--data.source", "shipped", "--out", "nofolder/x.json"], "cannot write a file at nofolder/x.json"),
        (["--out", "RUN"], "cannot write a file at"),
    ],
)
def test_mistakes_are_one_line(boards, tmp_path, capsys, options, sentence, unchecked):
    chess = tmp_path / "chess.csv"
    chess.write_text("PuzzleId,FEN,Moves,Rating\n0,6k1/5ppp/8/8/8/8/5PPP/3R2K1 b - - 0 1,g8f8 d1d8,900\n")
    places = {"OUT": tmp_path / "out.json", "RUN": boards.path, "CHESS": chess}

    def placed(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, str(place))
        return text

    words = said(capsys, boards.path, *map(placed, options), status=2)
    assert placed(sentence) in words
    assert words.count("loopscope: ") == 1
    assert words.startswith("loopscope: ")
    assert not boards.evaluation.exists()
    assert not places["OUT"].exists()
