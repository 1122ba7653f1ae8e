"""Sudoku: solving and grading, symmetries and copies, the generator, reading files, and the task's splits."""

import gzip
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loopscope.cli import main
from loopscope.errors import LoopscopeError
from loopscope.models import LoopedTransformerConfig
from loopscope.tasks import Sudoku
from loopscope.tasks.data.report import histogram, overlap
from loopscope.tasks.sudoku import kernels
from loopscope.tasks.sudoku.generator import MAX_GIVENS, MIN_GIVENS, generate, generated_puzzles
from loopscope.tasks.sudoku.puzzles import breaches, cells, proof, read_puzzles, solved, stored_puzzles
from loopscope.tasks.sudoku.rules import UNDECIDED, canonical_forms, solve_grids, symmetry_classes
from loopscope.tasks.sudoku.symmetries import Symmetries, random_relabellings, random_symmetries
from loopscope.tasks.sudoku.task import reveal
from loopscope.training.settings import complete_model

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
SHIFTED = "".join(str((3 * row + row // 3 + column) % 9 + 1) for row in range(9) for column in range(9))
ROWS = 1_000_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOOPSCOPE_DATA", raising=False)


@pytest.fixture(scope="module")
def made():
    return generated_puzzles(400, seed=5)


def text(grid) -> str:
    return "".join(str(digit) for digit in grid)


def grids(*texts: str) -> np.ndarray:
    found, right = cells(list(texts))
    assert right.all()
    return found


PEERS = [
    {
        o
        for o in range(81)
        if o != c and (o // 9 == c // 9 or o % 9 == c % 9 or (o // 27, o % 9 // 3) == (c // 27, c % 9 // 3))
    }
    for c in range(81)
]
LINES = [
    [c for c in range(81) if kind(c) == k]
    for kind in (lambda c: c // 9, lambda c: c % 9, lambda c: 3 * (c // 27) + c % 9 // 3)
    for k in range(9)
]


def plain_search(grid: list[int]) -> tuple[int, int]:
    """Count solutions and guesses with sets and recursion, by the definition alone."""
    grid = list(grid)
    while True:
        options = {
            c: {d for d in range(1, 10) if all(grid[p] != d for p in PEERS[c])} for c in range(81) if not grid[c]
        }
        if not options:
            return 1, 0
        if any(not digits for digits in options.values()):
            return 0, 0
        singles = {c: min(digits) for c, digits in options.items() if len(digits) == 1}
        if not singles:
            for line in LINES:
                for digit in set(range(1, 10)) - {grid[c] for c in line}:
                    places = [c for c in line if digit in options.get(c, ())]
                    if not places:
                        return 0, 0
                    if len(places) == 1:
                        if singles.get(places[0], digit) != digit:
                            return 0, 0
                        singles[places[0]] = digit
        if not singles:
            break
        for c, digit in singles.items():
            if any(grid[p] == digit for p in PEERS[c]):
                return 0, 0
            grid[c] = digit
    cell = min(options, key=lambda c: (len(options[c]), c))
    solutions = guesses = 0
    for digit in options[cell]:
        found, more = plain_search([*grid[:cell], digit, *grid[cell + 1 :]])
        solutions, guesses = solutions + found, guesses + 1 + more
    return solutions, guesses


def test_a_well_known_puzzle_is_solved_by_singles():
    found = solve_grids(grids(PUZZLE))
    assert text(found.solutions[0]) == SOLUTION
    assert (found.found.tolist(), found.guesses.tolist()) == ([1], [0])


def test_guesses_and_solutions_are_those_of_a_search_by_the_definition(made):
    hard = np.argsort(made.guesses)[-3:]
    middle = np.flatnonzero((made.guesses > 0) & (made.guesses < 12))[:12]
    rows = np.concatenate([hard, middle, np.flatnonzero(made.guesses == 0)[:5]])
    found = solve_grids(made.puzzles[rows])
    assert len(set(found.guesses.tolist())) > 5
    for puzzle, solutions, guesses in zip(made.puzzles[rows], found.found, found.guesses, strict=True):
        assert (solutions, guesses) == plain_search(puzzle.tolist())


def test_puzzles_without_a_solution_with_several_or_too_hard_are_told_apart(made):
    full_row = "12345678." + "." * 8 + "9" + "." * 63
    several = PUZZLE.replace("7", ".").replace("5", ".")
    hardest = text(made.puzzles[made.guesses.argmax()])
    puzzles = grids("." * 81, full_row, "55" + PUZZLE[2:], several, PUZZLE)
    assert solve_grids(puzzles).found.tolist() == [2, 0, 0, 2, 1]
    found = solve_grids(grids(hardest), most_guesses=1)
    assert (found.found.tolist(), found.guesses.tolist()) == ([UNDECIDED], [1])


def test_a_grid_is_solved_where_every_unit_holds_every_digit():
    rows_only = "123456789" * 9
    boxes_broken = "".join(str((row + column) % 9 + 1) for row in range(9) for column in range(9))
    columns_only = "".join(str(row + 1) * 9 for row in range(9))
    assert solved(grids(SOLUTION, SHIFTED, rows_only, columns_only, boxes_broken, PUZZLE)).tolist() == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_breaches_of_the_rules_are_named():
    assert breaches(grids(PUZZLE)[0]) == []
    assert breaches(grids(PUZZLE[:8] + "7" + PUZZLE[9:])[0]) == ["row 1 holds the digit 7 more than once"]
    assert breaches(grids(PUZZLE[:80] + "3")[0]) == ["column 9 holds the digit 3 more than once"]
    assert breaches(grids(PUZZLE[:11] + "3" + PUZZLE[12:])[0]) == ["box 1 holds the digit 3 more than once"]


seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, count: int = 3) -> Symmetries:
    return random_symmetries(count, torch.Generator().manual_seed(seed))


def same(a: Symmetries, b: Symmetries) -> bool:
    return torch.equal(a.labels, b.labels) and torch.equal(a.places, b.places)


@given(seeds, seeds, seeds)
def test_symmetries_form_a_group_that_acts_on_grids(a, b, c):
    a, b, c = drawn(a), drawn(b), drawn(c)
    unit = Symmetries(torch.arange(1, 10).expand(3, 9), torch.arange(81).expand(3, 81))
    problems = torch.from_numpy(grids(PUZZLE, SOLUTION, SHIFTED))
    assert same(a.then(b).then(c), a.then(b.then(c)))
    assert same(a.then(a.inverse()), unit)
    assert same(a.inverse().then(a), unit)
    assert torch.equal(a.then(b)(problems), b(a(problems)))
    assert torch.equal(unit(problems), problems)


@given(seeds)
@settings(max_examples=30)
def test_copies_are_as_hard_and_share_their_class_and_their_canonical_form(seed):
    base, answers = grids(PUZZLE, SHIFTED), grids(SOLUTION, SHIFTED)
    base[1] *= np.random.default_rng(seed).random(81) < 0.4
    symmetries = drawn(seed, 2)
    copies, solutions = (symmetries(torch.from_numpy(part)).numpy() for part in (base, answers))
    assert solved(solutions).all()
    assert (np.count_nonzero(copies, axis=1) == np.count_nonzero(base, axis=1)).all()
    assert solve_grids(copies[:1]).guesses.tolist() == [0]
    assert (symmetry_classes(copies, solutions) == symmetry_classes(base, answers)).all()
    forms = canonical_forms(copies, solutions)
    assert (forms == canonical_forms(base, answers)).all()
    form = forms[:1]
    assert (canonical_forms(form, solve_grids(form).solutions) == form).all()


def test_puzzles_that_are_no_copies_have_other_classes(made):
    assert len(set(symmetry_classes(made.puzzles, made.solutions).tolist())) == len(made) == 400
    fewer = grids(PUZZLE, PUZZLE)
    fewer[0, 0] = fewer[1, 1] = 0
    assert len(set(symmetry_classes(fewer, grids(SOLUTION, SOLUTION)).tolist())) == 2


def test_the_canonical_form_is_the_smallest_of_all_three_million_forms():
    orders = list(itertools.permutations(range(3)))
    lines = np.array(
        [
            [3 * band + k for band, inner in zip(bands, inners, strict=True) for k in inner]
            for bands in orders
            for inners in itertools.product(orders, repeat=3)
        ]
    )
    smallest = b":" * 162
    for board, puzzle in ((grids(SOLUTION), grids(PUZZLE)),):
        for turned in (False, True):
            grid, start = board.reshape(9, 9), puzzle.reshape(9, 9)
            grid, start = (grid.T, start.T) if turned else (grid, start)
            # The first row becomes 1-9 and rows are ordered by their first digit: one order of columns, 18 first pairs.
            for columns in lines:
                moved, given_ = grid[:, columns], start[:, columns] > 0
                for first in range(9):
                    label = np.zeros(10, dtype=np.int8)
                    label[moved[first]] = range(1, 10)
                    form, mask = label[moved], given_
                    for second in (3 * (first // 3) + (first + step) % 3 for step in (1, 2)):
                        if form[second].tobytes() > bytes(smallest[9:18]):
                            continue
                        bands = [[first, second, 9 * (first // 3) + 3 - first - second]]
                        others = [
                            sorted(range(3 * b, 3 * b + 3), key=lambda r: form[r, 0])
                            for b in range(3)
                            if b != first // 3
                        ]
                        rows = np.concatenate(bands + sorted(others, key=lambda band: form[band[0], 0]))
                        whole = form[rows].tobytes() + (form * mask)[rows].tobytes()
                        smallest = min(smallest, whole)
    assert canonical_forms(grids(PUZZLE), grids(SOLUTION))[0].tobytes() == smallest[81:]


def test_symmetries_are_drawn_evenly_and_relabellings_leave_the_cells():
    count = 81_000
    symmetries = random_symmetries(count, torch.Generator().manual_seed(0))
    expected = count / 81
    for cell in (0, 40):
        hits = torch.bincount(symmetries.places[:, cell], minlength=81)
        assert float(((hits - expected) ** 2 / expected).sum()) < 80 + 5 * math.sqrt(160)
    # Under a transposition the cell right of the first lands in its column.
    turned = (symmetries.places[:, 0] % 9 == symmetries.places[:, 1] % 9).double().mean()
    assert float(turned) == pytest.approx(0.5, abs=0.01)
    labels = random_relabellings(count, torch.Generator().manual_seed(0))
    assert torch.equal(labels.places[:9], torch.arange(81).expand(9, 81))
    hits = torch.bincount(9 * labels.labels[:, 0] + labels.labels[:, 8], minlength=100)
    hits = hits[hits > 0]
    assert len(hits) == 72
    assert float(((hits - count / 72) ** 2 / (count / 72)).sum()) < 71 + 5 * math.sqrt(142)


@pytest.mark.parametrize("kind", ["singles", "search", "hard"])
def test_generated_puzzles_have_one_solution_and_are_the_same_for_a_seed(kind):
    puzzles, solutions = generate(20, 3, kind)
    found = solve_grids(puzzles)
    assert (found.found == 1).all()
    assert (found.solutions == solutions).all()
    assert solved(solutions).all()
    assert (found.guesses == 0).all() or kind != "singles"
    assert (found.guesses > 0).all() or kind != "hard"
    assert (generate(20, 3, kind)[0] == puzzles).all()
    assert (generate(20, 4, kind)[0] != puzzles).any(1).all()
    assert (generate(7, 3, kind)[0] == puzzles[:7]).all()


def test_generated_puzzles_range_from_few_givens_to_many_and_from_easy_to_hard(made):
    assert made.names == ("singles", "search", "hard")
    assert [int((made.sources == kind).sum()) for kind in range(3)] == [280, 80, 40]
    assert (made.guesses[made.sources == 0] == 0).all()
    assert made.givens.min() <= 21
    assert made.givens.max() == MAX_GIVENS
    assert made.givens.min() >= MIN_GIVENS
    assert np.median(made.guesses[made.sources == 2]) > 20
    assert proof(made) == {}


def test_a_kind_that_there_is_not_is_refused():
    with pytest.raises(
        LoopscopeError, match=r"kind is 'single', expected one of singles, search, hard \(did you mean singles"
    ):
        generate(1, 0, "single")


# Reading


HEADER = "source,puzzle,solution,guesses,iso_hash"


@pytest.fixture
def write(tmp_path):
    def to_file(*lines: str, name: str = "puzzles.csv"):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return to_file


def table(made, rows=slice(None)) -> list[str]:
    part = made.at(np.arange(len(made))[rows])
    return [
        f"{part.names[source]},{text(puzzle)},{text(solution)},{guesses},{code:x}"
        for source, puzzle, solution, guesses, code in zip(
            part.sources, part.puzzles, part.solutions, part.guesses, part.classes, strict=True
        )
    ]


def test_all_formats_give_the_same_puzzles(made, write):
    part = made.at(np.arange(0, 400, 10))
    stored = read_puzzles(write(HEADER, *table(made, slice(0, None, 10))), ROWS)
    lines = [text(puzzle).replace("0", ".") for puzzle in part.puzzles]
    plain = read_puzzles(write(*lines, "", name="puzzles.txt"), ROWS)
    extreme = read_puzzles(
        write(
            "source,question,answer,rating",
            *(f"a,{line},{text(solution)},7" for line, solution in zip(lines, part.solutions, strict=True)),
            name="extreme.csv",
        ),
        ROWS,
    )
    for found in (stored, plain, extreme):
        assert (found.puzzles == part.puzzles).all()
        assert (found.solutions == part.solutions).all()
        assert (found.guesses == part.guesses).all()
        assert (found.classes == part.classes).all()
        assert found.rejects == {}
    assert (stored.names, plain.names, extreme.names) == (("hard", "search", "singles"), ("file",), ("a",))
    assert [stored.names[source] for source in stored.sources] == [part.names[source] for source in part.sources]


def test_what_is_wrong_is_left_out_and_counted_by_reason(made, write):
    good = table(made, slice(3))
    other = text(made.solutions[5])
    copy = random_symmetries(1, torch.Generator().manual_seed(1))
    puzzle, solution = (
        text(copy(torch.from_numpy(grid[None]))[0].tolist()) for grid in (made.puzzles[0], made.solutions[0])
    )
    fields = good[0].split(",")
    path = write(
        HEADER,
        *good,
        good[0],
        f"x,{puzzle},{solution},0,{fields[4]}",
        "x,123",
        f"x,{fields[1][:-1]}?,{fields[2]},0,1",
        f"x,{fields[1][:-1]},{fields[2]},0,1",
        f"x,{fields[1]},{fields[2][:-1]}é,0,1",
        f"x,{fields[1]},{'123456789' * 9},0,1",
        f"x,{fields[1]},{other},0,1",
        f"x,{fields[1]},{fields[2]},many,1",
        f"x,{fields[1]},{fields[2]},0,xyz",
    )
    found = read_puzzles(path, ROWS)
    assert (found.puzzles == made.puzzles[:3]).all()
    assert found.rejects == {
        "repeated puzzle": 1,
        "symmetric copy of another puzzle": 1,
        "truncated line": 1,
        "puzzle is not 81 characters of 1-9 and 0 or .": 2,
        "solution is not 81 digits": 1,
        "solution breaks the rules": 1,
        "solution contradicts the givens": 1,
        "guesses is not a number": 1,
        "iso_hash is not a hexadecimal number": 1,
    }


def test_puzzles_with_no_or_several_solutions_are_left_out_when_they_are_solved(made, write):
    puzzle = text(made.puzzles[0])
    path = write(puzzle, "." * 81, "11" + "." * 79, name="lines.txt")
    found = read_puzzles(path, ROWS)
    assert len(found) == 1
    assert found.rejects == {"no solution": 1, "several solutions": 1}


def test_a_stored_solution_that_is_not_the_only_one_is_found_by_the_proof(made, write):
    thinner = "." * 40 + SOLUTION[40:]
    path = write(HEADER, *table(made, slice(3)), f"x,{thinner},{SOLUTION},0,1", f"x,{PUZZLE},{SOLUTION},4,2")
    found = read_puzzles(path, ROWS)
    assert len(found) == 5
    assert proof(found)["solution not proven unique"] == 1
    assert proof(found)["stored guesses differ"] >= 1
    relabelled = random_relabellings(1, torch.Generator().manual_seed(0))
    twin, solution = (text(relabelled(torch.from_numpy(grids(part)))[0].tolist()) for part in (PUZZLE, SOLUTION))
    path = write(HEADER, f"x,{PUZZLE},{SOLUTION},0,1", f"x,{twin},{solution},0,2")
    assert proof(stored_puzzles(path, ROWS)) == {"symmetric copies with different iso_hash": 1}


def test_a_hash_that_was_copied_is_found_although_reading_drops_its_puzzle(made, write):
    """The puzzle it belongs to is a good one, taken for a symmetric copy."""
    rows = table(made, slice(3))
    *first, _ = rows[0].split(",")
    *second, _ = rows[1].split(",")
    path = write(HEADER, rows[0], ",".join([*second, rows[0].split(",")[-1]]), rows[2])
    assert len(read_puzzles(path, ROWS)) == 2
    assert proof(stored_puzzles(path, ROWS)) == {"stored iso_hash differs": 1}
    foreign = write(HEADER, ",".join([*first, "7"]), ",".join([*second, "7"]), name="foreign.csv")
    assert proof(stored_puzzles(foreign, ROWS)) == {"same iso_hash as a puzzle that is not a copy": 1}


def test_guesses_that_are_not_those_counted_are_found(made, write):
    source, puzzle, solution, guesses, own = table(made, slice(1))[0].split(",")
    for wrong in (int(guesses) + 1, 4000):
        path = write(HEADER, ",".join([source, puzzle, solution, str(wrong), own]))
        assert proof(stored_puzzles(path, ROWS)) == {"stored guesses differ": 1}
    assert proof(stored_puzzles(write(HEADER, *table(made, slice(9))), ROWS)) == {}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"source,puzzle,guesses\n", "lacks the columns solution .*expected a CSV with puzzle and solution"),
        (b"question,rating\n1,2\n", "lacks the columns answer"),
        (b"hello\n", "lacks the columns puzzle, solution"),
        (b"", "lacks the columns puzzle, solution"),
        (b"puzzle,solution\n", "holds no valid puzzle: it has no lines"),
        (b"puzzle,solution\n12,34\n", "holds no valid puzzle: 1 with 'puzzle is not 81"),
        (b"puzzle,solution\n\xff\xfe,34\n", "is not UTF-8 text"),
    ],
)
def test_files_that_hold_no_puzzles_are_refused(content, sentence, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(LoopscopeError, match=sentence):
        read_puzzles(path, ROWS)


def test_a_file_is_read_from_the_cache_until_it_changes(made, write, monkeypatch):
    path = write(HEADER, *table(made, slice(5)))
    first = read_puzzles(path, ROWS)
    monkeypatch.setattr("loopscope.tasks.sudoku.puzzles.open_text", None)
    again = read_puzzles(path, ROWS)
    assert (again.puzzles == first.puzzles).all()
    assert (again.names, again.rejects) == (first.names, first.rejects)
    monkeypatch.undo()
    assert len(read_puzzles(write(HEADER, *table(made, slice(6))), ROWS)) == 6
    assert len(read_puzzles(path, 2)) == 2


# The task


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    seventeen = "17x," + "0" * 64 + SOLUTION[64:] + f",{SOLUTION},0,1\n"  # as if it had one solution
    with gzip.open(path / "sudoku_puzzles.csv.gz", "wt") as file:
        file.write("\n".join([HEADER, *table(made)]) + "\n" + seventeen)
    return path


def all_classes(split) -> set[int]:
    return set(symmetry_classes(split.problems.numpy(), split.answers.numpy()).tolist())


def test_splits_go_by_singles_guesses_and_givens_and_share_no_copy(folder, made):
    task = Sudoku(path=str(folder), validation_puzzles=50, test_puzzles=20)
    training, evaluation = task.training_split(), task.evaluation_splits()
    assert next(iter(evaluation)) == "singles"
    assert {"1-3 guesses", "4-9 guesses", "10-99 guesses", "17 givens, singles"} <= set(evaluation)
    assert "17 givens, guesses" not in evaluation
    assert len(training) == int((made.guesses == 0).sum()) - 50
    assert len(evaluation["singles"]) == 50
    assert (training.difficulty == 0).all()
    assert (evaluation["singles"].difficulty == 0).all()
    for name, low, high in (("1-3 guesses", 1, 3), ("4-9 guesses", 4, 9), ("10-99 guesses", 10, 99)):
        split = evaluation[name]
        assert len(split) <= 20
        assert ((split.difficulty >= low) & (split.difficulty <= high)).all()
    found = [all_classes(split) for split in (training, *evaluation.values())]
    assert sum(map(len, found)) == len(set().union(*found))
    assert sum(map(len, found)) == len(training) + sum(map(len, evaluation.values()))
    assert training.problems.dtype == torch.int8


def test_splits_depend_on_their_seed_and_not_on_the_order_of_the_file(made, write):
    options = {"validation_puzzles": 50, "train_puzzles": 30}
    one = str(write(HEADER, *table(made), name="one.csv"))
    other = str(write(HEADER, *reversed(table(made)), name="other.csv"))
    first = Sudoku(path=one, **options).training_split()
    assert len(first) == 30
    assert torch.equal(Sudoku(path=other, **options).training_split().problems, first.problems)
    assert not torch.equal(Sudoku(path=one, seed=1, **options).training_split().problems, first.problems)


def test_the_papers_division_is_at_the_80th_percentile_of_the_mixture(folder, made):
    task = Sudoku(path=str(folder), mixture=("hard",), division="percentile", validation_puzzles=8)
    guesses = np.sort(made.guesses[made.sources == 2])
    bound = guesses[math.ceil(0.8 * len(guesses)) - 1]
    easy, hard = task.evaluation_splits().values()
    assert list(task.evaluation_splits()) == [f"fewer than {bound} guesses", f"{bound}+ guesses"]
    assert len(easy) == 8
    assert len(task.training_split()) == (guesses < bound).sum() - 8
    assert sorted(hard.difficulty.tolist()) == guesses[guesses >= bound].tolist()


def test_a_changed_file_is_read_again(made, write):
    path = write(HEADER, *table(made, slice(100)))
    task = Sudoku(path=str(path), validation_puzzles=10)
    assert len(task.training_split()) == 90
    write(HEADER, *table(made, slice(90)))
    assert len(task.training_split()) == 80


def test_making_puzzles_shows_progress_on_a_terminal_and_nothing_elsewhere(monkeypatch, capsys):
    Sudoku(source="generated", generated_puzzles=61, validation_puzzles=5, seed=3).training_split()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    Sudoku(source="generated", generated_puzzles=62, validation_puzzles=5, seed=3).training_split()
    shown = capsys.readouterr().err
    assert "make puzzles" in shown
    assert "62/62" in shown


def test_generated_data_need_no_file_and_are_kept():
    task = Sudoku(source="generated", generated_puzzles=60, validation_puzzles=5, seed=2)
    training, evaluation = task.training_split(), task.evaluation_splits()
    assert "10-99 guesses" in evaluation
    easy = {tuple(row) for split in (training, evaluation["singles"]) for row in split.problems.tolist()}
    assert {tuple(row) for row in generate(42, 2, "singles")[0].tolist()} <= easy
    assert len(easy) == len(training) + 5 < 60


def test_the_shipped_puzzles_are_right_and_many():
    task = Sudoku(source="shipped")
    origin = task.origin()
    puzzles = read_puzzles(origin, ROWS)
    assert origin.stat().st_size < 1_000_000
    assert puzzles.rejects == {}
    assert (puzzles.guesses == 0).sum() >= 4000
    assert (puzzles.guesses > 0).sum() >= 500
    sample = puzzles.at(np.arange(0, len(puzzles), 10))
    assert proof(sample) == {}
    assert (solve_grids(sample.puzzles).guesses == sample.guesses).all()
    assert len(task.training_split()) >= 3000
    assert list(task.evaluation_splits()) == ["singles", "1-3 guesses", "4-9 guesses", "10-99 guesses", "100+ guesses"]


def test_augmentation_keeps_puzzles_right_and_follows_the_generator(folder):
    problems, answers = torch.from_numpy(grids(*[PUZZLE] * 50)), torch.from_numpy(grids(*[SOLUTION] * 50))
    for augmentation in ("digits", "symmetries"):
        task = Sudoku(augmentation=augmentation)
        changed, solutions = task.augment(problems, answers, torch.Generator().manual_seed(1))
        again, _ = task.augment(problems, answers, torch.Generator().manual_seed(1))
        assert torch.equal(again, changed)
        assert solved(solutions.numpy()).all()
        assert ((changed == 0) | (changed == solutions)).all()
        assert len({tuple(row) for row in changed.tolist()}) == 50
        assert ((changed == 0) == (problems == 0)).all() == (augmentation == "digits")
        assert changed.dtype == torch.int8
    assert Sudoku(augmentation="none").augment(problems, answers, torch.Generator())[0] is problems


def test_revealed_cells_are_right_and_half_of_the_puzzles_stay_as_they_are():
    batch, most = 4000, 10
    problems, answers = torch.from_numpy(grids(*[PUZZLE] * batch)), torch.from_numpy(grids(*[SOLUTION] * batch))
    task = Sudoku(augmentation="none", revealed=most)
    changed, solutions = task.augment(problems, answers, torch.Generator().manual_seed(1))
    assert torch.equal(changed, task.augment(problems, answers, torch.Generator().manual_seed(1))[0])
    assert solutions is answers
    assert changed.dtype == torch.int8
    assert ((changed == problems) | ((problems == 0) & (changed == answers))).all()
    counts = torch.bincount((changed != problems).sum(1), minlength=most + 1).double() / batch
    expected = torch.full((most + 1,), 0.5 / (most + 1), dtype=torch.float64)
    expected[0] += 0.5
    torch.testing.assert_close(counts, expected, rtol=0, atol=0.03)
    # Every empty cell is as likely as any other.
    shares = (changed != problems).double().mean(0)[problems[0] == 0]
    torch.testing.assert_close(shares, shares.mean().expand_as(shares), rtol=0, atol=0.02)
    full = reveal(problems[:50], answers[:50], 81, torch.Generator().manual_seed(0))
    assert (full != 0).all(1).any()


def test_cells_are_one_hot_and_the_logits_are_for_the_digits_one_to_nine():
    task = Sudoku()
    problems, answers = torch.from_numpy(grids(PUZZLE)), torch.from_numpy(grids(SOLUTION))
    inputs = task.inputs(problems)
    assert inputs.shape == (1, 81, 10)
    assert torch.equal(inputs.argmax(2), problems.long())
    assert torch.equal(inputs.sum(2), torch.ones(1, 81))
    logits = torch.zeros(1, 81, 9)
    assert float(task.loss(logits, answers)) == pytest.approx(math.log(9), rel=1e-6)
    logits.scatter_(2, answers.long().unsqueeze(2) - 1, 3.0)
    assert float(task.loss(logits.bfloat16(), answers)) == pytest.approx(math.log(8 + math.exp(3)) - 3, rel=1e-5)
    assert task.correct(logits, problems, answers).all()
    logits[0, 7] = torch.arange(9.0).flip(0)  # the digit 1, where 1 is right
    logits[0, 8] = torch.arange(9.0).flip(0)
    assert (~task.correct(logits, problems, answers)).nonzero().tolist() == [[0, 8]]


def test_a_config_is_completed_where_it_was_left_empty():
    completed = complete_model(Sudoku(), LoopedTransformerConfig()).require_complete()
    assert (completed.inputs, completed.outputs, completed.grid, completed.attention) == (10, 9, (9, 9), "full")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"validation_puzzles": 0}, "validation_puzzles is 0, expected a number above 0"),
        ({"train_puzzles": 0}, "train_puzzles is 0"),
        ({"rows": 0}, "rows is 0"),
        ({"division": "halves"}, "division is 'halves', expected one of singles, percentile"),
        ({"augmentation": "digit"}, "did you mean digits"),
        ({"revealed": -1}, "revealed is -1, expected a number of cells from 0 to 81"),
        ({"source": "shiped"}, "did you mean shipped"),
        ({"path": "a.csv", "source": "generated"}, "path a.csv was given with source generated: leave one of them out"),
        ({"guess_groups": (4, 1)}, r"guess_groups is \[4, 1\], expected ascending numbers of at least 1"),
        ({"guess_groups": ()}, r"guess_groups is \[\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(LoopscopeError, match=sentence):
        Sudoku(**options)


def test_data_that_are_missing_or_too_few_are_refused(folder, made, write):
    with pytest.raises(LoopscopeError, match="no data file: give one with"):
        Sudoku(source="file").training_split()
    with pytest.raises(LoopscopeError, match=r"mixture is 'hrad', expected one of 17x, hard.*did you mean hard\?"):
        Sudoku(path=str(folder), mixture=("hrad",)).training_split()
    few = write(HEADER, *table(made, slice(30)))
    with pytest.raises(LoopscopeError, match="holds 30 puzzles of the split 'singles', expected more than 1000"):
        Sudoku(path=str(few)).training_split()
    hard = Sudoku(path=str(folder), mixture=("hard",))
    with pytest.raises(LoopscopeError, match="holds 0 puzzles of the split 'singles'"):
        hard.training_split()
    assert hard.evaluation_splits()
    assert "singles" not in hard.evaluation_splits()
    assert hard.splits().keys() == hard.evaluation_splits().keys()


# The command


def test_the_command_describes_a_data_set_and_writes_it(folder, made, tmp_path, capsys):
    out = tmp_path / "all.csv.xz"
    options = [f"--data.path={folder}", "--data.validation_puzzles=50", "--data.min_givens=17"]
    assert main(["data", "sudoku", *options, f"--out={out}"]) == 0
    shown = capsys.readouterr().out
    for words in ("training", "singles", "10-99 guesses", "17x", "hard", "in two splits"):
        assert words in shown
    written = read_puzzles(out, ROWS)
    assert len(written) == len(made) + 1
    stored = read_puzzles(folder / "sudoku_puzzles.csv.gz", ROWS)
    assert (written.puzzles == stored.puzzles).all()
    assert (written.guesses == stored.guesses).all()


def test_the_command_fails_where_a_proof_fails_or_splits_share_copies(folder, made, write, capsys):
    # The puzzle of 17 givens has many solutions, whatever its line says.
    assert main(["data", "sudoku", f"--data.path={folder}", "--data.validation_puzzles=50", "--verify"]) == 1
    assert "solution not proven unique" in capsys.readouterr().out
    twins = [",".join([*line.split(",")[:4], f"{number:x}"]) for number, line in enumerate(table(made, slice(40)) * 2)]
    path = write(HEADER, *twins)
    assert main(["data", "sudoku", f"--data.path={path}", "--data.validation_puzzles=20"]) == 1


def test_the_command_refuses_what_it_does_not_know(capsys, tmp_path):
    assert main(["data", "sudoku", "--data.sorce=shipped"]) == 2
    assert "did you mean --data.source?" in capsys.readouterr().err
    assert main(["data", "sudoku", "--data.source=shipped", f"--out={tmp_path / 'a.json'}"]) == 2
    assert "expected one of .csv, .gz, .xz" in capsys.readouterr().err


def test_counts_fall_into_their_ranges_and_overlaps_are_counted():
    assert histogram(np.array([0.0, 1.0, 3.0, 4.0, 99.0]), (0, 1, 4)) == {"0": 1, "1-3": 2, "4+": 2}
    keys = {"a": np.array([1, 2, 2]), "b": np.array([2, 3]), "c": np.array([1, 9])}
    assert overlap(keys) == (2, 1)


def test_compiled_code_does_without_a_cache_where_no_folder_can_be_written(monkeypatch):
    njit = kernels.numba.njit

    def unwritable(**options):
        if options.pop("cache", False):
            raise RuntimeError("no locator available")
        return njit(**options)

    monkeypatch.setattr(kernels, "numba", SimpleNamespace(njit=unwritable))

    @kernels.kernel
    def double(number):
        return 2 * number

    assert double(21) == 42
