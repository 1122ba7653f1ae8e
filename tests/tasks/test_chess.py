"""Chess: encodings against python-chess, rules for being right, files good and bad, and what is made here."""

import gzip
import importlib
import importlib.util
import io
import lzma
import multiprocessing
import random
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import chess
import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import loopscope
from loopscope.cli import main
from loopscope.errors import LoopscopeError
from loopscope.evaluation import EvaluationConfig, evaluate
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.subjects import on_split, trained
from loopscope.tasks import Chess
from loopscope.tasks.chess import puzzles as puzzles_module
from loopscope.tasks.chess.encoding import PIECES, PROMOTIONS, Answers, pack_ragged, unpack_boards
from loopscope.tasks.chess.generate import generate, mates_in_two, to_csv
from loopscope.tasks.chess.puzzles import checked_positions, proof, read_puzzles
from loopscope.tasks.chess.rules import answer_of, flip_of, mating_moves, may_check, positions
from loopscope.tasks.chess.task import SHIPPED
from loopscope.tasks.data.report import overlap
from loopscope.training.run_folder import RunFolder
from loopscope.training.settings import complete_model

# The first position has two mating moves, the second one, the third none; in the fourth a pawn becomes a knight. Both
# sides move, and their kings stand on both halves.
SEVERAL_MATES = ("6k1/3p1ppp/8/8/8/1Q6/8/RR4K1 b - - 0 1", "d7d6 b3b8")
ONE_MATE = ("r1bqkbnr/pppp1ppp/2n5/4p3/2B1P3/5Q2/PPPP1PPP/RNB1K1NR b KQkq - 3 3", "f8c5 f3f7")
FORK = ("r3k3/8/8/1N6/8/8/5p2/6K1 w q - 0 1", "g1f2 e8d7")
UNDERPROMOTION = ("8/8/8/8/8/5k2/4p2R/6K1 w - - 0 1", "g1h1 e2e1n")
MADE = (SEVERAL_MATES, ONE_MATE, FORK, UNDERPROMOTION)
HEADER = "PuzzleId,FEN,Moves,Rating,RatingDeviation,Popularity,NbPlays,Themes"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOOPSCOPE_DATA", raising=False)
    puzzles_module._puzzles.cache_clear()


def line(identity: str, puzzle: tuple[str, str], rating: object = 1000) -> str:
    return f"{identity},{puzzle[0]},{puzzle[1]},{rating},80,90,500,mate short"


def text(*lines: str) -> str:
    return "\n".join((HEADER, *lines)) + "\n"


def played(seed: int) -> tuple[str, str]:
    """Return a position of random play and two legal moves, the second with an answer."""
    source = random.Random(seed)
    while True:
        board = chess.Board()
        for _ in range(source.randrange(120)):
            moves = list(board.legal_moves)
            if not moves:
                break
            board.push(source.choice(moves))
        fen, line = board.fen(), []
        for _ in range(2):
            moves = list(board.legal_moves)
            if moves:
                line.append(source.choice(moves))
                board.push(line[-1])
        if len(line) == 2:
            return fen, " ".join(move.uci() for move in line)


def oriented(board: chess.Board) -> chess.Board:
    """Turn and mirror a board by python-chess's own transforms."""
    board = board if board.turn else board.mirror()
    return board.transform(chess.flip_horizontal) if chess.square_file(board.king(chess.WHITE)) < 4 else board


def uci(code: int) -> str:
    return chess.SQUARE_NAMES[code & 63] + chess.SQUARE_NAMES[code >> 6 & 63] + PROMOTIONS[code >> 12]


@settings(max_examples=60)
@given(st.integers(0, 2**20))
def test_positions_and_moves_are_those_that_python_chess_turns_and_mirrors(seed):
    fen, moves = played(seed)
    arrays = positions([(fen, moves)])
    board = chess.Board(fen)
    board.push_uci(moves.split()[0])
    shown = oriented(board)
    codes = unpack_boards(arrays["boards"][:, :6], arrays["boards"][:, 6], arrays["flips"])[0]
    for square in chess.SQUARES:
        piece = shown.piece_at(square)
        assert codes[square] == (0 if piece is None else PIECES.index(piece.symbol()) + 1)
    assert chess.square_file(int(np.flatnonzero(codes == 1 + PIECES.index("K"))[0])) >= 4

    def seen(move: chess.Move) -> str:
        flip = (0 if board.turn else 56) ^ (0 if chess.square_file(board.king(board.turn)) >= 4 else 7)
        name = chess.SQUARE_NAMES
        return name[move.from_square ^ flip] + name[move.to_square ^ flip] + move.uci()[4:]

    found = [uci(code) for code in arrays["moves"]]
    assert found[0] == seen(chess.Move.from_uci(moves.split()[1]))
    assert sorted(found) == sorted(seen(move) for move in board.legal_moves)
    assert len(set(found)) == len(found) == arrays["counts"][0]


def test_turning_twice_the_same_position_gives_the_same_puzzle():
    fen, moves = FORK
    mirrored = chess.Board(fen).mirror()
    flipped = " ".join(
        chess.Move(chess.square_mirror(move.from_square), chess.square_mirror(move.to_square)).uci()
        for move in map(chess.Move.from_uci, moves.split())
    )
    first, second = positions([FORK]), positions([(mirrored.fen(), flipped)])
    boards = [unpack_boards(a["boards"][:, :6], a["boards"][:, 6], a["flips"]).tolist() for a in (first, second)]
    assert boards[0] == boards[1]
    assert sorted(first["moves"]) == sorted(second["moves"])
    assert first["moves"][0] == second["moves"][0]


def test_every_mating_move_is_accepted_where_the_answer_mates_and_the_answer_alone_elsewhere():
    arrays = positions(MADE)
    assert arrays["accepted"].tolist() == [2, 1, 1, 1]
    board = chess.Board(SEVERAL_MATES[0])
    board.push_uci("d7d6")
    codes, accepted = answer_of(board, chess.Move.from_uci("b3b8"))
    assert [uci(code) for code in codes[:accepted]] == ["b3b8", "a1a8"]
    assert flip_of(board) == 0
    assert board.fen().startswith("6k1/5ppp/3p4")


def packed(*puzzles: tuple[str, str]) -> tuple[torch.Tensor, torch.Tensor]:
    arrays = positions(puzzles)
    problems = unpack_boards(arrays["boards"][:, :6], arrays["boards"][:, 6], arrays["flips"])
    return torch.from_numpy(problems), pack_ragged(arrays["accepted"], arrays["counts"], arrays["moves"])


def scores(batch: int, **squares: float) -> torch.Tensor:
    """Return logits that are 0 but on the named squares, the same for a whole batch."""
    logits = torch.zeros(batch, 64, 1)
    for name, value in squares.items():
        logits[:, chess.parse_square(name)] = value
    return logits


def judged(puzzle: tuple[str, str], **squares: float) -> tuple[bool, bool]:
    problems, answers = packed(puzzle)
    logits, task = scores(1, **squares), Chess()
    return bool(task.correct(logits, problems, answers)), bool(
        task.other_rules(logits, problems, answers)["best legal move"]
    )


def test_the_papers_rule_wants_the_two_highest_squares_and_the_stricter_one_the_best_legal_move():
    # Both squares are the move's: which of them is higher does not matter.
    assert judged(ONE_MATE, f3=2, f7=1) == (True, True)
    assert judged(ONE_MATE, f3=1, f7=2) == (True, True)
    # Higher squares that no legal move joins spoil the paper's rule alone.
    assert judged(ONE_MATE, f3=2, f7=1, a8=3, h8=3) == (False, True)
    # Another legal move of an equal sum is a loss by the stricter rule.
    assert not judged(ONE_MATE, f3=2, f7=1, f6=1)[1]
    assert judged(ONE_MATE, f3=2, f6=1) == (False, False)
    # The second mate is as good as the first.
    assert judged(SEVERAL_MATES, a1=2, a8=1) == (True, True)
    assert judged(SEVERAL_MATES, b3=2, g8=1) == (False, False)


def test_a_forecast_of_a_run_compares_the_two_highest_squares():
    stored, model = trained(RunFolder(Path(loopscope.__file__).parent / "shipped" / "models" / "chess"))
    task = Chess(source="shipped")
    subject = on_split(model, replace(stored, data=task), task.training_split().first(2))
    logits = torch.zeros(2, 64, 1)
    logits[0, [9, 3]] = torch.tensor([[2.0], [1.0]])
    logits[1, [60, 61]] = torch.tensor([[1.0], [2.0]])
    assert subject.answers(logits).tolist() == [[3, 9], [60, 61]]


def test_scores_that_are_all_equal_are_right_by_neither_rule():
    problems, answers = packed(*MADE)
    assert not Chess().other_rules(scores(4), problems, answers)["best legal move"].any()
    # The two squares that a tie yields do not depend on the answer.
    assert not Chess().correct(scores(4), problems, answers).any()


def test_an_underpromotion_is_right_by_its_squares_and_lost_by_the_stricter_rule():
    # Black is to move and its king stands on f3: turned, the pawn goes from e7 to e8.
    assert judged(UNDERPROMOTION, e7=2, e8=1) == (True, False)


def test_the_loss_is_ln_2_at_its_best_and_ln_64_where_nothing_is_known():
    _, answers = packed(ONE_MATE)
    assert float(Chess().loss(scores(1), answers)) == pytest.approx(np.log(64), rel=1e-6)
    assert float(Chess().loss(scores(1, f3=50, f7=50), answers)) == pytest.approx(np.log(2), rel=1e-6)
    logits = torch.randn(1, 64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(1, 64, dtype=torch.float64)
    target[0, [chess.F3, chess.F7]] = 0.5
    expected = torch.nn.functional.cross_entropy(logits.squeeze(-1), target)
    assert float(Chess().loss(logits, answers)) == pytest.approx(float(expected), rel=1e-6)


def test_answers_are_unpacked_as_they_were_packed():
    _, answers = packed(*MADE)
    moves = Answers.unpack(answers)
    assert torch.equal(moves.pack(), answers)
    assert moves.legal.sum(1).tolist() == positions(MADE)["counts"].tolist()
    assert moves.right.sum(1).tolist() == [2, 1, 1, 1]
    assert [PROMOTIONS[int(row[0])] for row in moves.promotions] == ["", "", "", "n"]


def test_a_model_reads_twelve_planes_those_of_the_side_to_move_first():
    problems, _ = packed(UNDERPROMOTION)
    inputs = Chess().inputs(problems)
    assert inputs.shape == (1, 64, 12)
    on = {(chess.SQUARE_NAMES[square], PIECES[plane]) for _, square, plane in inputs.nonzero().tolist()}
    assert on == {("e7", "P"), ("f6", "K"), ("h7", "r"), ("h8", "k")}


def many(count: int) -> list[tuple[str, str]]:
    """Return different positions of random play."""
    return [played(seed) for seed in range(count)]


@pytest.fixture
def puzzle_file(tmp_path: Path) -> Path:
    """A file of 60 puzzles up to 1600, 20 up to 2000 and 10 up to 2400."""
    ratings = [*range(1000, 1600, 10), *range(1605, 2000, 20), *range(2001, 2400, 40)]
    lines = [line(f"p{i}", puzzle, rating) for i, (puzzle, rating) in enumerate(zip(many(90), ratings, strict=True))]
    path = tmp_path / "lichess_puzzles.csv"
    path.write_text(text(*lines))
    return path


def test_splits_go_by_rating_are_shuffled_and_share_no_position(puzzle_file):
    task = Chess(path=str(puzzle_file))
    training, evaluation = task.training_split(), task.evaluation_splits()
    assert list(evaluation) == ["up to 1600", "1601-2000", "2001-2400"]
    splits = [training, *evaluation.values()]
    assert [len(split) for split in splits] == [48, 12, 20, 10]
    seen = [tuple(row) for split in splits for row in split.problems.tolist()]
    assert len(set(seen)) == len(seen)
    assert [int(split.difficulty.max()) <= bound for split, bound in zip(splits, (1600, 1600, 2000, 2400), strict=True)]
    assert int(evaluation["1601-2000"].difficulty.min()) == 1605
    assert training.difficulty.tolist() != sorted(training.difficulty.tolist())
    again = Chess(path=str(puzzle_file)).training_split()
    assert torch.equal(again.problems, training.problems)
    assert torch.equal(again.answers, training.answers)
    assert not torch.equal(Chess(path=str(puzzle_file), seed=1).training_split().problems, training.problems)


def test_the_numbers_of_puzzles_are_those_asked_for(puzzle_file):
    task = Chess(path=str(puzzle_file), puzzles=20, test_puzzles=7, test_ratings=(2000,), rows=80)
    assert len(task.training_split()) == 16
    assert [len(split) for split in task.evaluation_splits().values()] == [4, 7]


def test_a_model_is_evaluated_by_both_rules_and_by_rating(puzzle_file):
    task = Chess(path=str(puzzle_file))
    config = complete_model(task, LoopedTransformerConfig(width=16, heads=2)).require_complete()
    assert (config.inputs, config.outputs, config.grid, config.attention) == (12, 1, (8, 8), "full")
    torch.manual_seed(0)
    curves = evaluate(LoopedTransformer(config), task, EvaluationConfig(iterations=3))
    hard = curves["1601-2000"]
    assert len(hard.answer_accuracy) == len(hard.other_rules["best legal move"]) == 3
    assert sum(part.examples for part in hard.by_difficulty) == 20
    assert hard.by_difficulty[0].lowest == 1605
    assert hard.by_difficulty[0].iterations == [1, 2, 3]
    mean = sum(part.examples * part.answer_accuracy[-1] for part in hard.by_difficulty) / 20
    assert mean == pytest.approx(hard.last)


@pytest.fixture
def run_here(monkeypatch):
    """Run the package's workers in this process: starting one takes longer than what it does in these tests."""
    one_at_a_time = threading.Lock()

    def run_module(module: str, options: list[str], content: Iterable[bytes] = ()) -> bytes:
        with one_at_a_time, monkeypatch.context() as patched:
            written = io.BytesIO()
            patched.setattr(sys, "argv", [module, *options])
            patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"".join(content))))
            patched.setattr(sys, "stdout", io.TextIOWrapper(written, write_through=True))
            patched.setattr(multiprocessing, "get_context", lambda kind: SimpleNamespace(Pool=ThreadPool))
            importlib.import_module(module).main()
            return written.getvalue()

    monkeypatch.setattr(puzzles_module, "_run_module", run_module)


def same_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        values.dtype == other[name].dtype and np.array_equal(values, other[name]) for name, values in one.items()
    )


def test_reading_in_several_shares_gives_what_one_gives(run_here, monkeypatch):
    puzzles = [*many(10), ("nonsense", "e2e4 e7e5"), *MADE]
    monkeypatch.setattr(puzzles_module, "ROWS_AT_A_TIME", 3)
    told: tuple[list[int], list[int]] = ([], [])
    alone = checked_positions(puzzles, told[0].append)
    monkeypatch.setattr(puzzles_module, "ROWS_PER_WORKER", 7)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert same_arrays(alone, checked_positions(puzzles, told[1].append))
    assert all(max(counts) == 3 and sum(counts) == len(puzzles) for counts in told)


def test_a_worker_is_a_process_that_gives_the_same():
    told: list[int] = []
    assert same_arrays(puzzles_module._worker(MADE, told.append), positions(MADE))
    assert sum(told) == len(MADE)


def test_a_worker_that_fails_says_so_however_much_is_left_to_tell_it():
    with pytest.raises(subprocess.CalledProcessError):
        puzzles_module._run_module("loopscope.tasks.nothere", [], iter(lambda: b"x" * 1000, b""))


def test_checking_puzzles_shows_progress_on_a_terminal_and_nothing_elsewhere(tmp_path, monkeypatch, capsys):
    path = tmp_path / "puzzles.csv"
    path.write_text(
        "PuzzleId,FEN,Moves,Rating\n" + "".join(f"{i},{fen},{line},900\n" for i, (fen, line) in enumerate(MADE))
    )
    puzzles_module._read(path, 9)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    puzzles_module._read(path, 9)
    assert "check puzzles" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".zst"])
def test_every_compression_is_read(tmp_path, ending):
    compress = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}
    path = tmp_path / f"puzzles.csv{ending}"
    path.write_bytes(compress[ending](text(*(line(f"p{i}", puzzle) for i, puzzle in enumerate(MADE))).encode()))
    assert len(read_puzzles(path, 10)) == 4
    assert len(read_puzzles(path, 3)) == 3


def test_a_file_is_read_once_until_it_changes_and_then_without_the_rules(puzzle_file, tmp_path, monkeypatch):
    first = read_puzzles(puzzle_file, 50)
    (kept,) = (tmp_path / "cache").iterdir()

    def again():
        puzzles_module._puzzles.cache_clear()
        return read_puzzles(puzzle_file, 50)

    with monkeypatch.context() as patched:
        patched.setattr(puzzles_module, "_read", None)
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        second = again()
    assert np.array_equal(first.problems, second.problems)
    assert np.array_equal(first.moves, second.moves)
    kept.write_bytes(kept.read_bytes()[:1000])
    assert np.array_equal(again().problems, first.problems)
    puzzle_file.write_text(text(*(line(f"p{i}", puzzle) for i, puzzle in enumerate(MADE))))
    assert len(again()) == 4


def test_without_a_place_for_the_cache_files_are_read_all_the_same(puzzle_file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOOPSCOPE_CACHE", str(tmp_path / "file" / "cache"))
    assert len(read_puzzles(puzzle_file, 50)) == 50


BAD_ROWS = {
    "line truncated or too long": ["p9,8/8/8/8 w", f"{line('p9', ONE_MATE)},more,and more"],
    "repeated id": [line("p0", FORK)],
    "rating is not a number up to 9999": [
        line("p9", FORK, "high"),
        line("p9", FORK, ""),
        line("p8", FORK, "-3"),
        line("p7", FORK, "²"),
        line("p6", FORK, "9" * 5000),
    ],
    "illegal position": [
        line("p9", ("8/8/8/8/8/8/8/8 w - - 0 1", FORK[1])),
        line("p9", ("r3k3/8/8/1N6/8/8/5p2/6K1", FORK[1])).replace("r3k3", "r3k4"),
        line("p9", ("not a position", FORK[1])),
        line("p9", ("4k3/8/8/8/8/8/8/K3R3 w - - 0 1", "a1a2 e8d8")),
    ],
    "illegal move": [
        line("p9", (FORK[0], "g1g8 b5c7")),
        line("p9", (FORK[0], "g1f2 e8e8")),
        line("p9", (FORK[0], "g1f2 e8d7 b5b6")),
        line("p9", (FORK[0], "g1f2 what")),
        line("p9", (SEVERAL_MATES[0], "d7d6 b3b8 a7a6")),
    ],
    "fewer than two moves": [line("p9", (FORK[0], "g1f2")), line("p9", (FORK[0], ""))],
    "repeated position": [line("p9", ONE_MATE, 2300)],
}


@pytest.mark.parametrize(("reason", "row"), [(reason, row) for reason, rows in BAD_ROWS.items() for row in rows])
def test_rows_that_cannot_be_used_are_left_out_and_counted_by_reason(tmp_path, reason, row):
    path = tmp_path / "puzzles.csv"
    path.write_text(text(line("p0", ONE_MATE), row, line("p2", SEVERAL_MATES)))
    puzzles = read_puzzles(path, 10)
    assert puzzles.rejects == {reason: 1}
    assert len(puzzles) == 2


def test_a_line_that_is_cut_at_the_end_of_a_file_is_left_out(tmp_path):
    path = tmp_path / "puzzles.csv"
    path.write_text(text(line("p0", ONE_MATE), line("p1", FORK))[:-40])
    assert read_puzzles(path, 10).rejects == {"line truncated or too long": 1}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"", "has no column PuzzleId, FEN, Moves, Rating: expected Lichess's puzzle CSV"),
        ("a.csv", b"PuzzleId,FEN,Rating\n1,2,3\n", "has no column Moves"),
        ("a.csv", text(line("p", FORK)).encode().replace(b"mate short", b"mat\xe9"), "is not UTF-8 text"),
        ("a.csv", text('"' + "x" * 150_000).encode(), "line 2 is not valid CSV: field larger"),
        ("a.csv.zst", text(line("p", FORK)).encode(), "is not a .zst file"),
        ("a.csv.xz", lzma.compress(text(line("p", FORK)).encode())[:-20], "is truncated or damaged"),
        (
            "a.csv",
            text('"' + "x" * 200_001).encode(),
            "has a line of more than 200,000 characters, expected one puzzle",
        ),
        ("a.csv", text().encode(), "holds no puzzle rated up to 1600, 1601-2000, 2001-2400, nor any other"),
        ("a.csv", text(line("p", FORK, "2500")).encode(), "2001-2400, only 2500 to 2500: give another file, or change"),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LoopscopeError, match=sentence) as refused:
        Chess(path=str(path)).evaluation_splits()
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_held_out_puzzles_are_evaluated_where_none_could_be_trained_on(tmp_path):
    path = tmp_path / "hard.csv"
    path.write_text(text(line("p", FORK, "2500"), line("q", ONE_MATE, "1700")))
    task = Chess(path=str(path), test_ratings=(2000, 2400, 3000))
    assert {name: len(split) for name, split in task.evaluation_splits().items()} == {"1601-2000": 1, "2401-3000": 1}
    assert list(task.splits()) == ["1601-2000", "2401-3000"]
    with pytest.raises(LoopscopeError, match="holds 0 puzzles rated 1-1600, expected at least 2, one for training"):
        task.training_split()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"puzzles": 1}, "puzzles is 1, expected at least 2"),
        ({"test_puzzles": 0}, "test_puzzles is 0"),
        ({"test_ratings": (1600, 2000)}, r"test_ratings is \[1600, 2000\] after train_rating 1600"),
        ({"test_ratings": (2400, 2000)}, "expected ascending numbers"),
        ({"path": "here", "source": "shipped"}, "path here was given with source shipped"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(LoopscopeError, match=sentence):
        Chess(**options)


def test_the_command_says_what_a_file_holds_and_what_was_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ratings = [*range(1000, 1600, 10), 1700, 1800, 2100, 2300]
    lines = [line(f"p{i}", puzzle, rating) for i, (puzzle, rating) in enumerate(zip(many(64), ratings, strict=True))]
    path, out = tmp_path / "puzzles.csv", tmp_path / "kept.csv.gz"
    path.write_text(text(*lines, line("p0", FORK), line("q", played(3)), "cut"))
    assert main(["data", "chess", "--data.path", str(path), "--verify", "--out", str(out)]) == 0
    said = [" ".join(row.replace("│", " ").split()) for row in capsys.readouterr().out.splitlines()]
    for row in (
        "training 48 1001-1200 16",
        "up to 1600 12 801-1000 1",
        "1601-2000 2 1601-1800 2",
        "2001-2400 2 2001-2200 1",
        "left out: repeated id 1",
        "left out: repeated position 1",
        "left out: line truncated or too long 1",
        "the same problem or a copy in two splits 0",
        "proof failed 0",
    ):
        assert row in said
    kept = read_puzzles(out, 100)
    assert kept.rejects == {}
    assert np.array_equal(kept.problems, read_puzzles(path, 100).problems)


def test_a_proof_finds_what_is_stored_wrongly(tmp_path):
    path = tmp_path / "puzzles.csv"
    path.write_text(text(*(line(f"p{i}", puzzle, 1) for i, puzzle in enumerate(MADE))))
    puzzles = read_puzzles(path, 10)
    # One of the four has one mating move.
    assert proof(path, puzzles, 10) == {"answer is not the only mate at its distance": 3}
    ratings = np.full(4, 1500, np.int16)
    assert proof(path, replace(puzzles, ratings=ratings), 10) == {"stored puzzle differs from the file": 1}


def test_positions_in_two_splits_are_found():
    boards = {"a": np.zeros((2, 64), np.int8), "b": np.zeros((3, 64), np.int8)}
    boards["a"][1], boards["b"][1], boards["b"][2] = 1, 1, 2
    assert overlap({name: codes.view("V64").ravel() for name, codes in boards.items()}) == (2, 0)
    boards["b"][2] = 1
    assert overlap({name: codes.view("V64").ravel() for name, codes in boards.items()}) == (2, 1)


def test_a_missing_extra_is_one_line_that_says_what_to_install(puzzle_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "chess", None)
    with pytest.raises(LoopscopeError, match=r'pip install "loopscope\[chess\]"'):
        Chess(path=str(puzzle_file)).training_split()


def test_the_package_does_without_the_extra_until_puzzles_are_read():
    program = "import sys; sys.modules['chess'] = None; import loopscope.cli, loopscope.tasks; loopscope.tasks.Chess()"
    subprocess.run([sys.executable, "-c", program], check=True)


def brute_mates(board: chess.Board) -> set[chess.Move]:
    """Return the moves that mate, from the definition."""
    mates = set()
    for move in board.legal_moves:
        after = board.copy(stack=False)
        after.push(move)
        mates |= {move} if after.is_checkmate() else set()
    return mates


CHECKS = (
    "5k2/8/8/8/8/8/4R1R1/4K2R w K - 0 1",  # castling mates
    "8/8/8/k2pP2R/8/8/8/4K3 w - d6 0 1",  # taking en passant opens a line
    "8/1P2k3/8/8/8/8/8/4K2R w K - 0 1",
    "3k4/8/8/8/3K4/8/8/3R4 w - - 0 1",  # the king leaves the line of its rook
    "6k1/3P1ppp/8/8/8/8/8/4K3 w - - 0 1",  # a queen and a rook mate, a bishop and a knight do not
    "k7/8/1KN5/8/8/8/8/7B w - - 0 1",  # a knight's move opens the line of a bishop
)


@pytest.mark.parametrize("fen", CHECKS)
def test_moves_that_give_check_in_unusual_ways_are_found(fen):
    board = chess.Board(fen)
    checks = {move for move in board.legal_moves if board.gives_check(move)}
    assert checks
    assert checks <= set(filter(may_check(board), board.legal_moves))
    assert set(mating_moves(board)) == brute_mates(board)


@settings(max_examples=60)
@given(st.integers(0, 2**20))
def test_no_move_that_gives_check_is_passed_over(seed):
    board = chess.Board(played(seed)[0])
    passed = set(filter(may_check(board), board.legal_moves))
    assert {move for move in board.legal_moves if board.gives_check(move)} <= passed
    assert set(mating_moves(board)) == brute_mates(board)


def brute_mates_in_two(board: chess.Board) -> set[chess.Move]:
    """Return the moves that mate in two by force, from the definition."""
    found = set()
    for move in board.legal_moves:
        after = board.copy(stack=False)
        after.push(move)
        replies = []
        for reply in after.legal_moves:
            last = after.copy(stack=False)
            last.push(reply)
            replies.append(bool(brute_mates(last)))
            if not replies[-1]:
                break
        found |= {move} if replies and all(replies) else set()
    return found


def shipped_rows() -> list[list[str]]:
    rows = lzma.decompress(SHIPPED.read_bytes()).decode().splitlines()[1:]
    return [row.split(",") for row in rows]


@pytest.mark.parametrize("distance", [1, 2])
def test_shipped_puzzles_have_one_solution_by_exhaustive_search(distance):
    rows = [row for row in shipped_rows() if row[3] == str(distance)]
    for _, fen, moves, _, themes in random.Random(distance).sample(rows, 8):
        opponent, answer, *rest = moves.split()
        board = chess.Board(fen)
        board.push_uci(opponent)
        mates = {move.uci() for move in brute_mates(board)}
        assert themes == f"mate mateIn{distance}"
        if distance == 1:
            assert mates == {answer}
            assert rest == []
        else:
            assert mates == set()
            assert {move.uci() for move in brute_mates_in_two(board)} == {answer}
            for move in (answer, *rest):
                board.push_uci(move)
            assert board.is_checkmate()


def test_two_moves_that_mate_in_two_are_both_found():
    board = chess.Board("6k1/8/8/8/8/8/1Q6/R3K3 w - - 0 1")
    assert len(mates_in_two(board)) > 1
    assert set(mates_in_two(board)) == brute_mates_in_two(board)


def test_the_shipped_set_is_small_and_whole(unchecked):
    assert SHIPPED.stat().st_size < 1_000_000
    task = Chess(source="shipped")
    splits = [task.training_split(), *task.evaluation_splits().values()]
    puzzles = read_puzzles(SHIPPED, task.rows)
    assert puzzles.rejects == {}
    assert sum(map(len, splits)) == len(puzzles) == len(shipped_rows())
    assert [sorted(set(split.difficulty.tolist())) for split in splits] == [[1], [1], [2]]
    assert puzzles.accepted.tolist() == [1] * len(puzzles)


def test_generated_puzzles_are_the_same_for_the_same_seed_however_they_are_made(
    run_here, unchecked, monkeypatch, capsys
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    here = generate(1, 23)  # the first game gives a mate in two, the second one in one
    assert "2/2" in capsys.readouterr().err
    assert [puzzle.distance for puzzle in here] == [1, 2]
    assert to_csv(here, 23) != to_csv(generate(1, 1), 23)
    monkeypatch.setattr("loopscope.tasks.chess.generate.GAMES_A_ROUND", 1)
    path = puzzles_module.generated_file(1, 23)
    assert lzma.decompress(path.read_bytes()).decode() == to_csv(here, 23)
    assert Chess(source="generated", generated_mates=1, seed=23).origin() == path
    puzzles = read_puzzles(path, 10)
    assert puzzles.rejects == {}
    assert puzzles.problems.tobytes() == b"".join(puzzle.problem for puzzle in here)
