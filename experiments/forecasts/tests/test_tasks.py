"""The answers of the small problems, against answers found another way."""

from __future__ import annotations

import itertools

import pytest
import torch

from experiments.forecasts.tasks import CELLS, NODES, SIDE, TASKS


def drawn(name, count=40):
    return TASKS[name].draw(count, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", TASKS)
def test_problems_have_the_features_and_classes_of_their_task(name):
    problems, task = drawn(name), TASKS[name]
    assert problems.inputs.shape == (*problems.answers.shape, task.features)
    assert problems.answers.unique().tolist() == list(range(task.classes))
    again = drawn(name)
    assert torch.equal(problems.inputs, again.inputs)


def test_a_flood_reaches_what_no_wall_cuts_off():
    problems = drawn("flood")
    for cells, answers in zip(problems.inputs, problems.answers, strict=True):
        source = int(cells[:, 1].argmax())
        for cell in range(CELLS):
            between = range(min(source, cell), max(source, cell) + 1)
            assert bool(answers[cell]) == all(bool(cells[one, 0]) for one in between)


def test_parity_is_that_of_three_signs():
    problems = drawn("xor")
    signs = problems.inputs[:, 0, :3].sign().prod(1)
    assert torch.equal(problems.answers[:, 0] == 1, signs > 0)


def test_the_nearest_letter_is_the_last_one_so_far():
    problems = drawn("nearest")
    for letters, answers in zip(problems.inputs.argmax(2).tolist(), problems.answers.tolist(), strict=True):
        for cell, answer in enumerate(answers):
            assert answer == next((letter for letter in reversed(letters[: cell + 1]) if letter), 0)


def test_the_largest_digit_so_far():
    problems = drawn("prefix max")
    for digits, answers in zip(problems.inputs.argmax(2).tolist(), problems.answers.tolist(), strict=True):
        assert answers == list(itertools.accumulate(digits, max))


def test_sums_are_those_of_whole_numbers():
    problems = drawn("addition")
    weights = 2 ** torch.arange(CELLS)
    first, second = (problems.inputs.long() * weights[:, None]).sum(1).unbind(1)
    assert torch.equal((problems.answers * weights).sum(1), first + second)


def test_letters_are_sorted():
    problems = drawn("sorting")
    for letters, answers in zip(problems.inputs.argmax(2).tolist(), problems.answers.tolist(), strict=True):
        assert answers == sorted(letters)


def test_nodes_are_reached_along_links():
    problems = drawn("reach")
    for features, answers in zip(problems.inputs, problems.answers, strict=True):
        links = features[:, :NODES] + torch.eye(NODES)
        assert torch.equal(links, links.mT)
        paths = torch.linalg.matrix_power(links, NODES) @ features[:, NODES]
        assert torch.equal(answers, (paths > 0).long())


def test_a_flood_on_a_grid_spreads_to_open_neighbours():
    problems = drawn("grid flood")
    for cells, answers in zip(problems.inputs.tolist(), problems.answers.tolist(), strict=True):
        reached = {place for place, (_, source) in enumerate(cells) if source}
        assert len(reached) == 1
        while True:
            beside = {
                place
                for place, (is_open, _) in enumerate(cells)
                if is_open
                and any(abs(place // SIDE - one // SIDE) + abs(place % SIDE - one % SIDE) == 1 for one in reached)
            }
            if beside <= reached:
                break
            reached |= beside
        assert {place for place, answer in enumerate(answers) if answer} == reached


def test_numbers_are_compared_with_their_mean():
    problems = drawn("above mean")
    for numbers, answers in zip(problems.inputs.squeeze(2).tolist(), problems.answers.tolist(), strict=True):
        assert answers == [int(number > sum(numbers) / 8) for number in numbers]
