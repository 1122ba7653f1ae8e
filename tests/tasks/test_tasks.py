"""Prefix sums: answers, splits that share nothing, and the rules for loss and for being right."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopscope.errors import LoopscopeError
from loopscope.models import LoopedTransformerConfig
from loopscope.tasks import TASKS, PrefixSums, Split, task_class
from loopscope.tasks.prefix_sums.task import distinct_strings, prefix_sums
from loopscope.training.settings import complete_model


def rows(bits: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in bits.tolist()}


@given(st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=1, max_size=4))
def test_the_answer_is_the_parity_of_the_bits_so_far(strings):
    answers = prefix_sums(torch.tensor(strings)).tolist()
    assert answers == [[sum(string[: i + 1]) % 2 for i in range(6)] for string in strings]


@given(st.integers(1, 8), st.integers(0, 2**16))
def test_strings_are_distinct_even_where_all_of_them_are_asked_for(length, seed):
    strings = distinct_strings(2**length, length, torch.Generator().manual_seed(seed))
    assert strings.shape == (2**length, length)
    assert len(rows(strings)) == 2**length


def test_every_bit_is_a_fair_coin():
    strings = distinct_strings(20_000, 32, torch.Generator().manual_seed(0)).double()
    assert (strings.mean(0) - 0.5).abs().max() < 5 * 0.5 / math.sqrt(20_000)


def test_more_strings_than_exist_are_refused():
    with pytest.raises(LoopscopeError, match="9 strings of 3 bits were requested, but only 8 exist: use fewer"):
        distinct_strings(9, 3, torch.Generator())


def test_splits_have_their_sizes_and_names_and_share_no_string():
    task = PrefixSums(train_bits=12, test_bits=(12, 20, 40), strings=1000, test_strings=300)
    training, evaluation = task.training_split(), task.evaluation_splits()
    assert list(evaluation) == ["12 bits", "20 bits", "40 bits"]
    assert len(training) == 800
    assert [len(split) for split in evaluation.values()] == [200, 300, 300]
    assert [split.problems.shape[1] for split in evaluation.values()] == [12, 20, 40]
    assert len(rows(training.problems)) == 800
    assert not rows(training.problems) & rows(evaluation["12 bits"].problems)
    for split in (training, *evaluation.values()):
        assert torch.equal(split.answers, prefix_sums(split.problems))


def test_data_depend_on_their_seed_and_on_nothing_else():
    torch.manual_seed(1)
    first = PrefixSums(strings=50).training_split()
    torch.manual_seed(2)
    assert torch.equal(PrefixSums(strings=50).training_split().problems, first.problems)
    assert not torch.equal(PrefixSums(strings=50, seed=1).training_split().problems, first.problems)


def test_the_model_reads_bits_minus_one_half():
    inputs = PrefixSums().inputs(torch.tensor([[0, 1, 1]]))
    assert torch.equal(inputs, torch.tensor([[[-0.5], [0.5], [0.5]]]))


def test_loss_is_the_mean_cross_entropy_and_an_answer_is_right_by_its_largest_logit():
    task = PrefixSums()
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]]])
    answers = torch.tensor([[0, 0, 1]])
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1)) + math.log1p(math.exp(-1))) / 3
    assert float(task.loss(logits, answers)) == pytest.approx(expected, rel=1e-6)
    assert float(task.loss(logits.bfloat16(), answers)) == pytest.approx(expected, rel=1e-6)
    assert task.correct(logits, answers, answers).tolist() == [[True, False, True]]


def test_strings_are_not_augmented():
    task, bits = PrefixSums(), torch.tensor([[0, 1], [1, 1]])
    problems, answers = task.augment(bits, prefix_sums(bits), torch.Generator())
    assert torch.equal(problems, bits)
    assert torch.equal(answers, prefix_sums(bits))


def test_a_config_is_completed_where_it_was_left_empty():
    task = PrefixSums()
    completed = complete_model(task, LoopedTransformerConfig()).require_complete()
    assert (completed.inputs, completed.outputs, completed.grid) == (1, 2, (0,))
    assert (completed.attention, completed.kernel_size) == ("local", 5)
    full = complete_model(task, LoopedTransformerConfig(attention="full"))
    assert (full.attention, full.kernel_size) == ("full", None)
    assert complete_model(task, LoopedTransformerConfig(attention="local", kernel_size=9)).kernel_size == 9


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"strings": 0}, "strings is 0, expected a number above 0"),
        ({"train_bits": -1}, "train_bits is -1"),
        ({"test_strings": 0}, "test_strings is 0"),
        ({"test_bits": ()}, r"test_bits is \[\], expected lengths"),
        ({"test_bits": (32, 0)}, r"test_bits is \[32, 0\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(LoopscopeError, match=sentence):
        PrefixSums(**options)


@pytest.mark.usefixtures("unchecked")
def test_a_split_needs_as_many_answers_as_problems():
    problems = torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(LoopscopeError, match="3 problems and 2 answers"):
        Split(problems, problems[:2])
    with pytest.raises(LoopscopeError, match="0 problems"):
        Split(problems[:0], problems[:0])
    split = Split(problems, problems)
    assert len(split.first(2)) == 2
    assert split.first(None) is split


def test_tasks_are_found_by_name_and_the_nearest_is_offered():
    assert task_class("prefix-sums") is PrefixSums
    assert all(task.name == name for name, task in TASKS.items())
    with pytest.raises(LoopscopeError, match=r"task is 'prefix_sum'.*did you mean prefix-sums\?"):
        task_class("prefix_sum")
