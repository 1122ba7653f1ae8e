"""Small sudoku: boards and puzzles against rules written down anew, splits that share nothing, options that are refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loopscope.errors import LoopscopeError
from loopscope.models import LoopedTransformerConfig
from loopscope.tasks import SmallSudoku, Split
from loopscope.tasks.sudoku.small import Board, _make, distinct_boards, fill_singles, random_boards, solved, to_digits
from loopscope.training.settings import complete_model

BOXES = [(2, 2), (2, 3), (3, 2), (2, 4), (3, 3)]
SMALL = {"train_puzzles": 60, "test_puzzles": 20}


def groups(box: tuple[int, int]) -> list[list[int]]:
    """Return the cells of each row, column and box, by walking over them."""
    rows, columns = box
    side = rows * columns
    boxes = [
        [(top + row) * side + left + column for row in range(rows) for column in range(columns)]
        for top in range(0, side, rows)
        for left in range(0, side, columns)
    ]
    across = [[row * side + column for column in range(side)] for row in range(side)]
    return across + [list(column) for column in zip(*across, strict=True)] + boxes


def keeps_the_rules(box: tuple[int, int], grid: list[int]) -> bool:
    side = box[0] * box[1]
    return all(sorted(grid[cell] for cell in group) == list(range(1, side + 1)) for group in groups(box))


def solutions(box: tuple[int, int], grid: list[int], most: int = 2) -> list[list[int]]:
    """Return up to ``most`` solutions, found by trying every digit that no cell of the same group holds."""
    if 0 not in grid:
        return [grid]
    side = box[0] * box[1]
    options = {
        cell: set(range(1, side + 1)) - {grid[other] for group in groups(box) if cell in group for other in group}
        for cell in range(side**2)
        if not grid[cell]
    }
    cell = min(options, key=lambda c: len(options[c]))
    found: list[list[int]] = []
    for digit in options[cell]:
        found += solutions(box, [*grid[:cell], digit, *grid[cell + 1 :]], most - len(found))
        if len(found) >= most:
            break
    return found


def all_splits(task: SmallSudoku) -> dict[str, Split]:
    return {"training": task.training_split(), **task.evaluation_splits()}


def up_to_labels(grid: list[int]) -> tuple[int, ...]:
    """Return the grid with its digits renamed in the order in which they first appear."""
    order = list(dict.fromkeys(grid))
    return tuple(order.index(digit) for digit in grid)


@pytest.mark.parametrize("box", BOXES)
def test_random_boards_keep_the_rules(box):
    board = Board(box)
    for grid in to_digits(board, random_boards(board, 20, np.random.default_rng(1))).tolist():
        assert keeps_the_rules(box, grid)


def test_all_boards_of_four_by_four_are_drawn_and_their_twelve_kinds_are_told_apart():
    board = Board((2, 2))
    drawn = to_digits(board, random_boards(board, 4000, np.random.default_rng(2)))
    _, times = np.unique(drawn, axis=0, return_counts=True)
    assert len(times) == 288
    # No board is favoured much: each is expected 14 times.
    assert times.max() < 3 * 4000 / 288
    kinds = to_digits(board, distinct_boards(board, 500, np.random.default_rng(3))).tolist()
    assert len(kinds) == len({up_to_labels(grid) for grid in kinds}) == 288 // math.factorial(4)


@pytest.mark.parametrize("box", [(2, 2), (2, 3), (3, 2)])
def test_every_puzzle_has_one_solution_which_is_its_answer(box):
    task = SmallSudoku(box=box, train_empty=5, test_empty=(5, 8, (box[0] * box[1]) ** 2), seed=4, **SMALL)
    for split in all_splits(task).values():
        for problem, answer in list(zip(split.problems.tolist(), split.answers.tolist(), strict=True))[:8]:
            assert keeps_the_rules(box, answer)
            assert solutions(box, problem) == [answer]


def test_a_puzzle_of_the_hardest_split_loses_no_further_given_to_singles():
    board = Board((2, 3))
    hardest = SmallSudoku(seed=5, **SMALL).evaluation_splits()["hardest"]
    for problem in hardest.problems[:5].numpy():
        for given_ in np.flatnonzero(problem):
            fewer = np.where(np.arange(36) == given_, 0, problem)
            bits = np.where(fewer > 0, 1 << (fewer - 1).clip(0), 0).astype(np.int16)[None]
            assert not solved(board, fill_singles(board, bits))[0]


def test_singles_solve_what_they_can_and_contradictions_are_not_called_solved():
    board = Board((2, 2))
    bits = {".": 0, "1": 1, "2": 2, "3": 4, "4": 8}
    grids = np.array(
        [
            [bits[cell] for cell in text]
            for text in ("12.43.1221.....1", "." * 16, "123....4" + "." * 8, "11" + "." * 14)
        ],
        dtype=np.int16,
    )
    filled = fill_singles(board, grids)
    assert solved(board, filled).tolist() == [True, False, False, False]
    assert keeps_the_rules((2, 2), to_digits(board, filled)[0].tolist())
    assert (filled[1] == 0).all()


def test_splits_have_their_sizes_and_empty_cells_and_share_no_board():
    task = SmallSudoku(train_empty=7, test_empty=(6, 12, 36), train_puzzles=300, test_puzzles=100)
    splits = all_splits(task)
    assert list(splits) == ["training", "1-6 empty", "7-12 empty", "hardest"]
    assert [len(split) for split in splits.values()] == [300, 100, 100, 100]
    for split, (least, most) in zip(splits.values(), [(1, 7), (1, 6), (7, 12), (20, 30)], strict=True):
        empty = (split.problems == 0).sum(1)
        assert torch.equal(split.difficulty, empty.float())
        assert (least <= empty.min(), empty.max() <= most) == (True, True)
    kinds = [{up_to_labels(grid) for grid in split.answers.tolist()} for split in splits.values()]
    assert len(set.union(*kinds)) == sum(map(len, kinds)) == 600
    assert list(SmallSudoku(test_empty=(1, 2, 5), **SMALL).evaluation_splits()) == ["1 empty", "2 empty", "3-5 empty"]


def test_where_few_boards_exist_each_split_uses_its_own_again():
    task = SmallSudoku(box=(2, 2), train_empty=6, test_empty=(6, 16), train_puzzles=500, test_puzzles=50)
    kinds = [{up_to_labels(grid) for grid in split.answers.tolist()} for split in all_splits(task).values()]
    assert [len(of_split) for of_split in kinds] == [10, 1, 1]
    assert len(set.union(*kinds)) == 12


def test_puzzles_depend_on_their_seed_and_on_nothing_else():
    first = SmallSudoku(**SMALL).training_split()
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    _make.cache_clear()
    again = SmallSudoku(**SMALL).training_split()
    other = SmallSudoku(**SMALL, seed=1).training_split()
    assert torch.equal(again.problems, first.problems)
    assert not torch.equal(other.problems, first.problems)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(2, 2), (2, 3), (3, 3)]))
@settings(max_examples=30)
def test_relabelling_keeps_the_rules_the_givens_and_the_board_but_for_labels(seed, box):
    task = SmallSudoku(box=box, train_empty=5, test_empty=(5,), train_puzzles=8, test_puzzles=2)
    split = task.training_split()
    problems, answers = task.augment(split.problems, split.answers, torch.Generator().manual_seed(seed))
    assert problems.dtype == split.problems.dtype
    assert torch.equal(problems, answers * (split.problems != 0))
    for before, after in zip(split.answers.tolist(), answers.tolist(), strict=True):
        assert keeps_the_rules(box, after)
        assert up_to_labels(before) == up_to_labels(after)


def test_relabellings_differ_within_a_batch_and_reach_every_digit():
    task = SmallSudoku(**SMALL)
    answers = task.training_split().answers[:1].expand(600, 36)
    _, changed = task.augment(answers, answers, torch.Generator().manual_seed(0))
    assert (torch.bincount(changed[:, 0].long(), minlength=7)[1:] > 60).all()


def test_the_model_reads_one_hot_cells_and_is_right_by_its_largest_logit():
    task = SmallSudoku(box=(2, 2), test_empty=(4,), train_empty=4)
    grid = torch.tensor([[1, 2, 3, 4] * 4])
    assert torch.equal(task.inputs(grid * (grid > 1))[0, :2], torch.eye(5)[[0, 2]])
    assert task.inputs(grid).shape == (1, 16, 5)
    logits = torch.zeros(1, 16, 4)
    logits[0, :, 1] = 1.0
    assert task.correct(logits, grid, grid).tolist() == [[False, True, False, False] * 4]
    expected = math.log(3 + math.e) - 0.25
    assert float(task.loss(logits, grid)) == pytest.approx(expected, rel=1e-6)
    assert task.other_rules(logits, grid, grid) == {}


def test_a_config_is_completed_where_it_was_left_empty():
    completed = complete_model(SmallSudoku(), LoopedTransformerConfig()).require_complete()
    assert (completed.inputs, completed.outputs, completed.grid, completed.attention) == (7, 6, (6, 6), "full")
    assert complete_model(SmallSudoku(box=(3, 3)), LoopedTransformerConfig(inputs=11)).inputs == 11


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"box": (1, 6)}, r"box is \[1, 6\], expected two numbers of at least 2 whose product is at most 9"),
        ({"box": (2, 5)}, r"box is \[2, 5\]"),
        ({"box": (-2, -3)}, r"box is \[-2, -3\]"),
        ({"train_empty": 0}, "train_empty is 0, expected a number above 0"),
        ({"train_empty": 37}, "train_empty is 37, expected at most the 36 cells of a board"),
        (
            {"test_empty": ()},
            r"test_empty is \[\], expected ascending numbers of cells from 1 to 36, such as \[12, 18, 36\]",
        ),
        ({"test_empty": (12, 12)}, r"test_empty is \[12, 12\]"),
        ({"test_empty": (18, 12)}, r"test_empty is \[18, 12\]"),
        ({"box": (2, 2), "test_empty": (4, 17)}, r"test_empty is \[4, 17\].*from 1 to 16"),
        ({"train_puzzles": 0}, "train_puzzles is 0"),
        ({"test_puzzles": -1}, "test_puzzles is -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(LoopscopeError, match=sentence) as caught:
        SmallSudoku(**options)
    assert "\n" not in str(caught.value)
