"""Evaluation works on any loop: accuracy at every iteration, its figures, and one state in memory at a time."""

import gc
import json
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.evaluation import (
    AccuracyCurve,
    EvaluationConfig,
    Steps,
    answers_right,
    decisions,
    evaluate,
    evaluate_split,
    iterations_to_run,
    summarize,
    to_json,
)
from loopscope.loop import FunctionLoop, iterate
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.tasks import PrefixSums, Split
from loopscope.training.settings import complete_model

TASK = PrefixSums(train_bits=6, test_bits=(6, 9), strings=40, test_strings=30)


def parity_loop(**options) -> FunctionLoop:
    """Solve prefix sums by hand: iteration t has summed windows of t + 1 bits, so i bits need i - 1 iterations."""

    def step(state: dict[str, Tensor], bits: Tensor) -> dict[str, Tensor]:
        shifted = torch.nn.functional.pad(state["window"][:, :-1], (1, 0))
        return {"window": shifted, "sums": state["sums"] + shifted, "count": state["count"] + 1}

    return FunctionLoop(
        encode=lambda inputs: inputs.squeeze(-1) + 0.5,
        start=lambda bits: {"window": bits, "sums": bits, "count": torch.zeros(len(bits), dtype=torch.int64)},
        step=step,
        read=lambda state: torch.stack([1 - state["sums"] % 2, state["sums"] % 2], -1),
        **options,
    )


def by_hand(split: Split, iterations: int) -> list[list[list[bool]]]:
    """Say which bits ``parity_loop`` has right, from the definition: [iteration][example][bit]."""
    return [
        [
            [sum(bits[max(0, i - t) : i + 1]) % 2 == answer[i] for i in range(len(bits))]
            for bits, answer in zip(split.problems.tolist(), split.answers.tolist(), strict=True)
        ]
        for t in range(1, iterations + 1)
    ]


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_a_foreign_loop_is_evaluated_at_every_iteration(batch_size):
    config = EvaluationConfig(iterations=10, batch_size=batch_size)
    curves = evaluate(parity_loop(), TASK, config)
    assert list(curves) == ["6 bits", "9 bits"]
    for name, split in TASK.evaluation_splits().items():
        right, curve = by_hand(split, 10), curves[name]
        assert curve.examples == len(split)
        for t in range(10):
            answers = [all(bits) for bits in right[t]]
            tokens = [bit for bits in right[t] for bit in bits]
            assert curve.answer_accuracy[t] == pytest.approx(sum(answers) / len(answers))
            assert curve.token_accuracy[t] == pytest.approx(sum(tokens) / len(tokens))
        needed = split.problems.shape[1] - 1
        assert curve.answer_accuracy[needed - 1 :] == [1.0] * (11 - needed)
        assert curve.best == curve.last == 1.0
        assert curve.solved_then_broken == sum(
            any(all(bits) for bits in example) and not all(example[-1]) for example in zip(*right, strict=True)
        ) / len(split)


def test_a_model_is_evaluated_as_its_own_forward():
    torch.manual_seed(0)
    model = LoopedTransformer(complete_model(TASK, LoopedTransformerConfig(width=16, heads=2)))
    split = TASK.evaluation_splits()["9 bits"]
    curve = evaluate_split(model, TASK, split, EvaluationConfig(iterations=4, batch_size=8))
    for t in range(4):
        with torch.no_grad():
            right = model(TASK.inputs(split.problems), t + 1, 0).argmax(-1) == split.answers
        assert curve.answer_accuracy[t] == pytest.approx(float(right.all(1).double().mean()))
        assert curve.token_accuracy[t] == pytest.approx(float(right.double().mean()))


def test_a_module_keeps_its_mode_and_can_still_be_trained():
    model = LoopedTransformer(complete_model(TASK, LoopedTransformerConfig(width=16, heads=2)))
    seen = []
    model.readout.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_grad_enabled())))
    for training in (True, False):
        model.train(training)
        evaluate(model, TASK, EvaluationConfig(iterations=2))
        assert model.training is training
    assert set(seen) == {(False, False)}
    model(TASK.inputs(TASK.training_split().problems), 1, 1).sum().backward()

    def interrupt() -> None:
        raise KeyboardInterrupt

    model.train()
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, TASK, EvaluationConfig(iterations=2), on_iteration=interrupt)
    assert model.training


def test_a_loop_may_take_gradients_within_its_step():
    def descend(state: Tensor, recalled: Tensor) -> Tensor:
        with torch.enable_grad():
            state = state.detach().requires_grad_()
            (slope,) = torch.autograd.grad((state - recalled).square().sum(), state)
        return (state - slope / 2).detach()

    descent = FunctionLoop(
        encode=lambda inputs: inputs.squeeze(-1),
        start=torch.zeros_like,
        step=descend,
        read=lambda state: torch.stack([-state, state], -1),
    )
    split = Split(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 1, 1]]))
    assert evaluate_split(descent, TASK, split, EvaluationConfig(iterations=2)).answer_accuracy == [1.0, 1.0]


def test_padding_counts_neither_as_right_nor_as_wrong():
    # Bits from the fourth on are padding: their answers are wrong on purpose.
    problems = TASK.evaluation_splits()["6 bits"].problems
    answers = problems.cumsum(1) % 2
    answers[:, 3:] = 1 - answers[:, 3:]
    masked = parity_loop(padding=lambda bits: torch.arange(bits.shape[1]).expand(len(bits), -1) < 3)
    curve = evaluate_split(masked, TASK, Split(problems, answers), EvaluationConfig(iterations=2, batch_size=3))
    assert curve.answer_accuracy[1] == curve.token_accuracy[1] == 1.0
    unmasked = evaluate_split(parity_loop(), TASK, Split(problems, answers), EvaluationConfig(iterations=6))
    assert unmasked.last == 0.0
    assert unmasked.token_accuracy[-1] == 0.5


def test_an_answer_is_right_where_all_of_its_real_tokens_are():
    # Right in all tokens, in all but the last, in all but the first.
    answers = torch.tensor([[1, 0, 1]] * 3)
    said = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 0, 1]])
    logits = torch.nn.functional.one_hot(said, 2).float()
    assert answers_right(TASK, logits, answers, answers).tolist() == [True, False, False]
    real = torch.tensor([[True, True, False]] * 3)
    assert answers_right(TASK, logits, answers, answers, real).tolist() == [True, True, False]


@pytest.mark.parametrize("columns", [8, 1])
def test_logits_that_are_no_numbers_are_never_right(columns):
    """Be there a column for each token or one for the answer, as chess has it."""

    class AllRight(PrefixSums):
        def correct(self, logits, problems, answers):
            return torch.ones(len(answers), columns, dtype=torch.bool)

    def read(state):
        logits = torch.zeros(3, 8, 2)
        logits[0, 2, 1] = torch.nan
        return logits

    loop = FunctionLoop(encode=torch.clone, start=torch.clone, step=lambda state, recalled: state, read=read)
    bits = torch.zeros(3, 8, dtype=torch.int64)
    curve = evaluate_split(loop, AllRight(), Split(bits, bits), EvaluationConfig(iterations=2))
    assert curve.answer_accuracy == pytest.approx([2 / 3] * 2)
    assert curve.token_accuracy == pytest.approx([1 - 1 / (3 * columns)] * 2)


def halving() -> FunctionLoop:
    """z <- (z + e) / 2 from 0: z_t = (1 - 2^-t) e. Where the first bit is set z grows by e: its residual is 1 / t."""
    return FunctionLoop(
        encode=lambda inputs: inputs.squeeze(-1),
        start=torch.zeros_like,
        step=lambda z, e: torch.where(e[:, :1] > 0, z + e, (z + e) / 2),
        read=lambda z: torch.stack([-z, z], -1),
    )


def test_settled_answers_are_counted_with_those_of_them_that_are_right():
    problems = torch.tensor([[0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 1, 1]])
    answers = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 0, 1], [1, 1, 1]])
    settled = evaluate_split(halving(), TASK, Split(problems, answers), EvaluationConfig(iterations=40)).settled
    assert (settled.examples, settled.right, settled.tolerance) == (2, 1, 1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_examples_leave_once_they_have_settled(batch_size):
    problems = torch.tensor([[0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 0, 0]])
    split = Split(problems, torch.tensor([[0, 1, 1], [1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 0]]), torch.arange(5.0))
    config = EvaluationConfig(iterations=100, batch_size=batch_size)
    full = evaluate_split(halving(), TASK, split, config)
    early = evaluate_split(halving(), TASK, split, replace(config, until_settled=True))
    # The residual at t is 2^-t / (1 - 2^-t): within 1e-4 from t = 14 on, and for eight iterations in a row at t = 21.
    assert early.steps == Steps(computed=3 * 21 + 2 * 100, full=500)
    assert full.steps is None
    assert replace(early, steps=None) == full
    assert full.settled.examples == 3


class Fickle:
    """A state that never moves much, and logits that turn from one wrong class to another until iteration 30."""

    def __init__(self, turns_every: int) -> None:
        self.turns_every = turns_every

    def encode(self, inputs: Tensor) -> Tensor:
        return inputs

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {"z": 1 + recalled.squeeze(-1), "count": torch.zeros(len(recalled), dtype=torch.int64)}

    def step(self, state: dict[str, Tensor], recalled: Tensor) -> dict[str, Tensor]:
        return {"z": state["z"], "count": state["count"] + 1}

    def read(self, state: dict[str, Tensor]) -> Tensor:
        wrong = 1 + state["count"] // self.turns_every % 2
        said = torch.where(state["count"] < 30, wrong, 0)
        return torch.nn.functional.one_hot(said, 3).float().unsqueeze(1).expand(-1, state["z"].shape[1], -1)


def test_an_example_whose_prediction_still_changes_stays_though_right_and_wrong_do_not():
    split = Split(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64))
    config = EvaluationConfig(iterations=60, until_settled=True)
    changing = evaluate_split(Fickle(turns_every=5), TASK, split, config)
    assert changing.last == 1.0
    # Right from iteration 30 on, and eight more without a change.
    assert changing.steps == Steps(computed=2 * 38, full=120)
    # What the criterion cannot see: a prediction that rests for long and then changes.
    assert evaluate_split(Fickle(turns_every=25), TASK, split, config).last == 0.0


@pytest.mark.parametrize("batch_size", [7, 100])
@pytest.mark.parametrize("padded", [False, True])
def test_what_settled_examples_leave_behind_is_what_the_full_run_finds(batch_size, padded):
    padding = (lambda bits: torch.arange(bits.shape[1]).expand(len(bits), -1) < 4) if padded else None
    loop = parity_loop(padding=padding)
    task = TwoRules(train_bits=6, test_bits=(6, 9), strings=40, test_strings=30)
    config = EvaluationConfig(iterations=40, batch_size=batch_size)
    full = evaluate(loop, task, config)
    for name, curve in evaluate(loop, task, replace(config, until_settled=True)).items():
        assert replace(curve, steps=None) == full[name]
        assert curve.steps.full == 40 * curve.examples
        # A string of n bits is summed after n - 1 iterations at the latest, then it takes as many as must be still.
        assert 8 * curve.examples <= curve.steps.computed <= (int(name[0]) + 8) * curve.examples


def test_what_logits_decide():
    logits = torch.tensor([[[0.1, 0.9, 0.5], [2.0, 1.0, 0.0]]])
    assert decisions(logits).tolist() == [[1, 0]]
    # One output per token: their order, padding last.
    scores = torch.tensor([[0.2, 3.0, -1.0, 0.5]]).unsqueeze(-1)
    assert decisions(scores).tolist() == [[1, 3, 0, 2]]
    real = torch.tensor([[True, False, True, True]])
    assert decisions(scores, real).tolist() == [[3, 0, 2, 1]]
    louder = scores + 9 * (~real).unsqueeze(-1)
    assert decisions(louder, real).equal(decisions(scores, real))


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=12))
def test_the_figures_are_their_definitions(table):
    solved = torch.tensor(table)
    curve = summarize(solved, solved.double().mean(1))
    accuracy = [sum(row) / 4 for row in table]
    assert curve.answer_accuracy == accuracy
    assert curve.best == max(accuracy)
    assert curve.best_iteration == accuracy.index(max(accuracy)) + 1
    assert curve.last == accuracy[-1]
    assert curve.first_within_1_percent == next(i for i, a in enumerate(accuracy, 1) if a >= max(accuracy) - 0.01)
    broken = [any(row[j] for row in table) and not table[-1][j] for j in range(4)]
    assert curve.solved_then_broken == sum(broken) / 4


def test_one_percent_below_the_best_counts_as_near():
    solved = torch.zeros(4, 100, dtype=torch.bool)
    for iteration, count in enumerate([88, 89, 90, 90]):
        solved[iteration, :count] = True
    curve = summarize(solved, solved.double().mean(1))
    assert (curve.best_iteration, curve.first_within_1_percent) == (3, 2)


@pytest.mark.parametrize("until_settled", [False, True])
def test_when_answers_are_final_is_known_by_hand(until_settled):
    """An answer is final at the last iteration that changed it. In parity, iteration t adds the bit t places before."""
    config = EvaluationConfig(iterations=20, batch_size=7, until_settled=until_settled)
    for name, curve in evaluate(parity_loop(), TASK, config).items():
        problems = TASK.evaluation_splits()[name].problems.tolist()
        # The last iteration that adds a 1 to some sum: the distance of the first 1 from the end.
        last = sorted(max((len(bits) - 1 - i for i, bit in enumerate(bits) if bit), default=0) for bits in problems)
        count = len(last)
        expected = [max(1, last[-(-share * count // 10) - 1]) for share in (5, 9, 10)]
        assert [curve.final.half, curve.final.nine_tenths, curve.final.all] == expected
        assert curve.broken is None


def test_an_answer_that_changes_in_the_last_iteration_is_not_final():
    curves = evaluate(parity_loop(), TASK, EvaluationConfig(iterations=5))
    first_bit_set = float(TASK.evaluation_splits()["6 bits"].problems[:, 0].double().mean())
    assert 0.1 < first_bit_set < 0.9
    assert curves["6 bits"].final.all is None
    assert curves["9 bits"].final.nine_tenths is None
    assert evaluate(parity_loop(), TASK, EvaluationConfig(iterations=1))["6 bits"].final is None


def test_readouts_that_turn_nan_or_infinite_are_counted_and_never_final():
    def read(state, recalled):
        logits = parity_loop().read(state)
        broken = (state["count"] >= 3) & (recalled[:, 0] > 0.5)  # where the first bit is set
        return logits.masked_fill(broken[:, None, None], torch.nan)

    loop = replace(parity_loop(), read=read)
    curve = evaluate(loop, TASK, EvaluationConfig(iterations=12))["6 bits"]
    count = int(TASK.evaluation_splits()["6 bits"].problems[:, 0].sum())
    assert (curve.broken.examples, curve.broken.first) == (count, 3)
    assert curve.final.all is None
    masked = replace(
        parity_loop(), read=lambda state: parity_loop().read(state).masked_fill(torch.tensor([False, True]), -torch.inf)
    )
    assert evaluate(masked, TASK, EvaluationConfig(iterations=3))["6 bits"].broken is None


def test_curves_are_plain_json():
    curves = evaluate(parity_loop(), TASK, EvaluationConfig(iterations=3, examples=5))
    plain = json.loads(json.dumps(to_json(curves), allow_nan=False))
    assert plain["6 bits"]["answer_accuracy"] == curves["6 bits"].answer_accuracy
    assert plain["9 bits"]["examples"] == 5


@pytest.mark.parametrize(("examples", "batch_size"), [(100, 3), (5, 2), (1, 1)])
@pytest.mark.parametrize(("iterations", "until_settled"), [(4, False), (40, True)])
def test_progress_is_told_as_often_as_announced(examples, batch_size, iterations, until_settled):
    config, calls = EvaluationConfig(iterations, examples, batch_size, until_settled), []
    evaluate(parity_loop(), TASK, config, on_iteration=lambda: calls.append(1))
    assert len(calls) == iterations_to_run(TASK.evaluation_splits(), config)


@pytest.mark.parametrize("option", ["iterations", "examples", "batch_size"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(LoopscopeError, match=f"{option} is 0, expected a number above 0"):
        EvaluationConfig(**{option: 0})


def test_no_more_than_two_states_are_alive_at_a_time():
    alive: list[weakref.ref] = []
    most = 0

    def step(state: Tensor, recalled: Tensor) -> Tensor:
        nonlocal most
        state = state + 1
        alive.append(weakref.ref(state))
        most = max(most, sum(reference() is not None for reference in alive))
        return state

    loop = FunctionLoop(
        encode=lambda inputs: inputs.squeeze(-1),
        start=torch.zeros_like,
        step=step,
        read=lambda state: torch.stack([state, -state], -1),
    )
    gc.disable()
    try:
        evaluate_split(loop, TASK, TASK.evaluation_splits()["6 bits"], EvaluationConfig(iterations=500))
    finally:
        gc.enable()
    assert len(alive) == 500
    assert most <= 2, "the state that goes into a step and the one that comes out"


PEAK = """
import resource, sys, torch
from loopscope.evaluation import EvaluationConfig, evaluate_split
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.tasks import PrefixSums
from loopscope.training.settings import complete_model

torch.set_num_threads(1)
task = PrefixSums(train_bits=32, test_bits=(32,), strings=640)
model = LoopedTransformer(complete_model(task, LoopedTransformerConfig(width=16, heads=2)))
split = task.evaluation_splits()["32 bits"]
for iterations in (10, 500):
    evaluate_split(model, task, split, EvaluationConfig(iterations=iterations, batch_size=128))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_five_hundred_iterations_need_no_more_memory_than_ten():
    # A state is 256 kB here: holding 500 would add 128 MB to a process of about 300.
    output = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True).stdout
    ten, five_hundred = map(int, output.split())
    assert five_hundred <= 1.1 * ten


def test_iterate_and_evaluate_count_alike():
    loop, split = parity_loop(), TASK.evaluation_splits()["6 bits"]
    bits = loop.encode(TASK.inputs(split.problems))
    state = iterate(loop, loop.start(bits), bits, 3)
    right = TASK.correct(loop.read(state), split.problems, split.answers).all(1).double().mean()
    assert evaluate_split(loop, TASK, split, EvaluationConfig(iterations=3)).last == pytest.approx(float(right))


def test_accuracy_is_told_apart_by_difficulty():
    # Example d of difficulty d is solved from iteration d on.
    difficulty = torch.arange(1.0, 17.0)[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    solved = torch.arange(1, 12).unsqueeze(1) >= difficulty
    bins = summarize(solved, torch.zeros(11), difficulty=difficulty).by_difficulty
    assert [(part.lowest, part.highest, part.examples) for part in bins] == [
        (low, low + 1, 2) for low in range(1, 17, 2)
    ]
    for part in bins:
        assert part.iterations == [1, 2, 4, 8, 11]
        expected = [((i >= part.lowest) + (i >= part.highest)) / 2 for i in part.iterations]
        assert part.answer_accuracy == expected


def test_examples_of_equal_difficulty_share_a_bin():
    difficulty = torch.tensor([0.0] * 90 + [3.0] * 5 + [200.0] * 5)
    bins = summarize(torch.ones(2, 100, dtype=torch.bool), torch.zeros(2), difficulty=difficulty).by_difficulty
    assert [part.examples for part in bins] == [90, 10]
    assert (bins[1].lowest, bins[1].highest) == (3, 200)


class TwoRules(PrefixSums):
    """Prefix sums whose last bit alone decides by another rule."""

    def other_rules(self, logits, problems, answers):
        return {"last bit": self.correct(logits, problems, answers)[:, -1]}


def test_accuracy_by_other_rules_is_recorded_beside_at_every_iteration():
    task = TwoRules(train_bits=6, test_bits=(6,), strings=40)
    (curve,) = evaluate(parity_loop(), task, EvaluationConfig(iterations=7, batch_size=3)).values()
    expected = by_hand(task.evaluation_splits()["6 bits"], 7)
    assert curve.other_rules == {
        "last bit": pytest.approx([sum(bits[-1] for bits in examples) / len(examples) for examples in expected])
    }
    assert curve.by_difficulty == []


def test_curves_of_files_from_before_these_fields_are_read():
    old = to_json({"a": summarize(torch.ones(2, 3, dtype=torch.bool), torch.ones(2))})["a"]
    for name in ("other_rules", "by_difficulty", "steps", "final", "broken"):
        del old[name]
    assert AccuracyCurve(**old).last == 1


def test_more_iterations_than_can_be_recorded_are_refused_at_once():
    with pytest.raises(LoopscopeError, match=r"iterations is 1,000,000,000, expected at most 1,000,000"):
        evaluate(parity_loop(), TASK, EvaluationConfig(iterations=10**9))
