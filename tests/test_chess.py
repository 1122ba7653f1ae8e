"""Chess: encodings against python-chess, rules for being right, files good and bad, and what is made here."""

import random
from pathlib import Path

import chess
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loopscope.evaluation import EvaluationConfig, evaluate
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.tasks import Chess
from loopscope.tasks.chess import puzzles as puzzles_module
from loopscope.tasks.chess.encoding import PIECES, PROMOTIONS, Answers, pack_ragged, unpack_boards
from loopscope.tasks.chess.rules import answer_of, flip_of, positions

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


@settings(max_examples=60, deadline=None)
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
    config = task.complete(LoopedTransformerConfig(width=16, heads=2)).require_complete()
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
