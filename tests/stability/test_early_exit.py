"""Early-exit rules on orbits whose best rule is known, scores against closed forms, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import kl_div, softmax
from scipy.stats import entropy as scipy_entropy

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.stability.early_exit import starts
from loopscope.stability.early_exit.exits import MEANINGS
from loopscope.stability.early_exit.recording import Recording
from loopscope.stability.early_exit.rules import candidate_thresholds, exit_points, first_good, stops
from loopscope.stability.early_exit.scores import divergence, entropy, movement, movement_of_examples

# Scores


@given(st.integers(2, 6), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_divergence_and_entropy_are_those_of_scipy(classes, seed):
    generator = torch.Generator().manual_seed(seed)
    before, after = 5 * torch.randn(2, 3, classes, generator=generator, dtype=torch.float64)
    old, new = (softmax(logits.numpy(), axis=-1) for logits in (before, after))
    assert divergence(before, after).numpy() == pytest.approx(kl_div(new, old).sum(-1), rel=1e-9, abs=1e-12)
    assert entropy(after).numpy() == pytest.approx(scipy_entropy(new, axis=-1), rel=1e-9, abs=1e-12)


def test_a_single_logit_is_that_of_the_second_of_two_classes():
    one, two = torch.tensor([[0.7]]), torch.tensor([[0.0, 0.7]])
    assert entropy(one).item() == pytest.approx(entropy(two).item())
    assert divergence(one, 2 * one).item() == pytest.approx(divergence(two, 2 * two).item())


def test_a_class_that_is_ruled_out_adds_nothing():
    logits = torch.tensor([[0.0, 0.0, -math.inf]])
    assert entropy(logits).item() == pytest.approx(math.log(2))
    assert divergence(logits, logits).item() == 0


@given(st.floats(-30, 19), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_movement_is_residual_and_cosine_at_every_scale(exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    before, after = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    residual, turned = movement(before * 10.0**exponent, after * 10.0**exponent)
    length = torch.maximum(before.norm(dim=-1), after.norm(dim=-1))
    assert torch.allclose(residual, (after - before).norm(dim=-1) / length, rtol=1e-9)
    assert torch.allclose(turned, 1 - torch.cosine_similarity(before, after, dim=-1), atol=1e-9)
    residual, turned = movement_of_examples(before, after)
    flat = before.flatten(1), after.flatten(1)
    assert torch.allclose(turned, 1 - torch.cosine_similarity(*flat, dim=1), atol=1e-9)


def test_movement_counts_several_leaves_together_and_no_counters_or_padding():
    before = {"h": torch.ones(1, 2, 2), "l": torch.ones(1, 2, 2), "step": torch.tensor([3])}
    after = {"h": torch.ones(1, 2, 2), "l": -torch.ones(1, 2, 2), "step": torch.tensor([4])}
    residual, turned = movement(before, after, torch.tensor([[True, False]]))
    assert residual[0, 0].item() == pytest.approx(math.sqrt(2))
    assert turned.tolist() == [[pytest.approx(1.0), 0.0]]
    assert residual[0, 1] == 0


# Rules


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_unit_stops_where_its_score_first_falls_to_the_threshold(iterations, units, seed):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 6, (iterations, units), generator=generator).double()
    thresholds = torch.tensor([-1.0, 0.0, 2.0, 5.0], dtype=torch.float64)
    for threshold, found in zip(thresholds, stops(score, thresholds), strict=True):
        for unit in range(units):
            first = next((t for t in range(iterations) if score[t, unit] <= threshold), iterations - 1)
            assert found[unit] == first + 1


def test_an_infinite_score_never_stops_early():
    score = torch.tensor([[math.inf], [math.inf], [1.0]], dtype=torch.float64)
    assert stops(score, torch.tensor([2.0])).tolist() == [[3]]
    assert candidate_thresholds(torch.full((3, 1), math.inf)).tolist() == [0]


def test_points_count_iterations_and_good_answers():
    score = torch.tensor([[3.0, 1.0], [2.0, 5.0], [1.0, 0.0]])
    good = torch.tensor([[False, True], [True, True], [True, False]])
    (point,) = exit_points(score, good, torch.tensor([2.0]))
    assert (point.iterations, point.quality) == (1.5, 1.0)
    (point,) = exit_points(score, good, torch.tensor([-1.0]))
    assert (point.iterations, point.quality) == (3.0, 0.5)
    assert first_good(good).tolist() == [2, 1]
    assert first_good(~good.any(0, keepdim=True)).tolist() == [1, 1]


# A made-up orbit: example i is solved for good when its clock reaches i, and only the residual says so.

EXAMPLES, ITERATIONS = 40, 50


class Deadline(torch.nn.Module):
    """The state of example i moves by ever the same step until iteration i + 1, and rests afterwards.

    Its readout answers class 1 from then on, and class 0 before; its confidence says nothing, and class 0 is answered for as long
    as that takes, so that patience is misled.
    """

    def encode(self, inputs):
        return inputs

    def start(self, recalled):
        return torch.stack([torch.zeros_like(recalled), torch.ones_like(recalled)], dim=1)

    def step(self, state, recalled):
        moved = torch.where(state[:, 0] < recalled, state[:, 0] + 1, state[:, 0])
        return torch.stack([moved, state[:, 1]], dim=1)

    def read(self, state, recalled):
        done = (state[:, 0] >= recalled).float()
        return torch.stack([1 - done, done], dim=1)


def deadlines():
    return torch.arange(1.0, EXAMPLES + 1), torch.ones(EXAMPLES, dtype=torch.long)


def test_the_best_rule_of_a_made_up_orbit_is_found():
    inputs, targets = deadlines()
    found = ls.exits(Deadline(), inputs, targets, iterations=ITERATIONS)
    assert found.measured == "accuracy"
    assert found.recommendation.rule in ("residual", "cosine")
    assert found.recommendation.quality == 1.0
    # Example i rests at iteration i, and one more iteration shows it.
    assert found.recommendation.iterations == pytest.approx(np.arange(1, EXAMPLES + 1)[1::2].mean() + 1)
    assert found.recommendation.fixed == EXAMPLES - 1
    assert (found.oracle.iterations, found.oracle.quality) == (np.arange(1, EXAMPLES + 1).mean(), 1.0)
    assert found.rule("patience").cheapest(0.99).iterations > 40
    assert (found.recommendation.chosen_on, found.recommendation.measured_on) == (20, 20)


def test_the_area_tells_which_scores_know_right_from_wrong():
    inputs, targets = deadlines()
    found = ls.exits(Deadline(), inputs, targets, iterations=20)
    # The last of the twenty that are right has just moved, like the twenty that are wrong: a tie counts one half.
    assert found.rule("residual").auc == pytest.approx(19.5 / 20)
    assert found.rule("residual").auc_low < 19.5 / 20 < found.rule("residual").auc_high
    assert found.rule("fixed").auc is None
    assert found.rule("fixed").points[-1].quality == 0.5


def test_an_area_of_few_wrong_answers_has_no_interval():
    inputs, targets = deadlines()
    few = ls.exits(Deadline(), inputs, targets, iterations=EXAMPLES - 4, rules=["fixed", "residual"]).rule("residual")
    assert few.auc == pytest.approx((EXAMPLES - 4.5) / (EXAMPLES - 4))
    assert (few.auc_low, few.auc_high) == (None, None)
    five = ls.exits(Deadline(), inputs, targets, iterations=EXAMPLES - 5, rules=["fixed", "residual"]).rule("residual")
    assert five.auc_low is not None


def test_an_answer_that_is_lost_again_is_counted():
    loop = ls.FunctionLoop(
        lambda x: x,
        lambda e: torch.zeros_like(e),
        lambda z, e: z + 1,
        lambda z: torch.cat([4 - (z - 4).abs() * 2, z], 1),
    )
    # Class 0 leads in iterations 2.4 < z < 4 alone: right in between, wrong after.
    found = ls.exits(loop, torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), iterations=10, rules=["fixed"])
    assert found.broken == 1.0
    assert found.oracle.quality == 1.0
    assert found.recommendation is None
    assert "too few examples" in str(found)


def test_without_targets_quality_is_agreement_with_the_last_iteration():
    inputs, _ = deadlines()
    found = ls.exits(Deadline(), inputs, iterations=ITERATIONS)
    assert found.measured == "agreement with the last iteration"
    assert found.rule("fixed").points[-1].quality == 1.0
    assert found.rule("residual").auc is None


def test_nan_is_never_good_and_never_stops():
    loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z * math.nan)
    found = ls.exits(loop, torch.ones(3, 2), torch.zeros(3, dtype=torch.long), iterations=5)
    assert all(point.quality == 0 for rule in found.rules for point in rule.points)
    assert [point.iterations for point in found.rule("KL divergence").points] == [5.0]
    assert "no answer is ever right" in str(found)
    assert all(point.quality == 0 for point in ls.exits(loop, torch.ones(3, 2), iterations=5).rule("fixed").points)


# Tokens, gates, starts


def by_token(padding=None):
    def read(state):
        return torch.stack([torch.zeros_like(state[..., 0]), state[..., 0] - 2.5], dim=-1)

    return ls.FunctionLoop(
        lambda x: x, torch.zeros_like, lambda z, e: torch.minimum(z + 1, e), read, padding=padding, answers_per="token"
    )


def test_tokens_stop_by_themselves_and_padding_is_left_out():
    inputs = torch.tensor([[1.0, 3.0, 6.0]])[..., None]
    targets = torch.tensor([[0, 1, 1]])
    found = ls.exits(by_token(), inputs, targets, iterations=10, rules=["fixed", "residual"])
    assert (found.unit, found.units, found.examples) == ("token", 3, 1)
    assert [point.quality for point in found.rule("fixed").points][:3] == [
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
        1.0,
    ]
    still = found.rule("residual").points[-1]
    assert (still.threshold, still.iterations) == (0.0, pytest.approx((2 + 4 + 7) / 3))
    padded = ls.exits(by_token(lambda e: e[..., 0] < 5), inputs, targets, iterations=10, rules=["fixed", "residual"])
    assert padded.units == 2
    assert padded.rule("residual").points[-1].iterations == pytest.approx((2 + 4) / 2)


class Gated(Deadline):
    def gate(self, state, recalled):
        return (state[:, 0] >= recalled).float() * 0.9


def test_a_learned_gate_is_a_rule():
    inputs, targets = deadlines()
    found = ls.exits(Gated(), inputs, targets, iterations=ITERATIONS, rules=["gate", "fixed"])
    assert found.recommendation.rule == "gate"
    assert found.recommendation.iterations == pytest.approx(found.oracle.iterations, abs=0.6)
    assert not found.absent


class HalfGated(Deadline):
    def gate(self, state, recalled):
        return torch.where(state[:, 0] > 0, 0.5, 0.2)


@pytest.mark.parametrize(("before", "factor"), [(0, 1.0), (1, 0.8)])
def test_a_gate_accumulates_from_the_models_own_first_iteration_on(before, factor):
    loop = HalfGated()
    loop.iterations_before = before
    inputs, targets = deadlines()
    found = ls.exits(loop, inputs, targets, iterations=4, rules=["fixed", "accumulated gate"])
    points = found.rule("accumulated gate").points
    # The doubt after iteration t is the product of what the gate left open, the same for all examples.
    assert {point.iterations: point.threshold for point in points} == pytest.approx(
        {count: factor * 0.5**count for count in (1.0, 2.0, 3.0, 4.0)}
    )
    assert ("add 1 to count" in str(found)) == bool(before)


def test_a_model_without_a_gate_may_say_none():
    class Without(Deadline):
        def gate(self, state, recalled):
            return None

    found = ls.exits(Without(), deadlines()[0], iterations=3)
    assert "gate" not in {rule.name for rule in found.rules}
    assert found.absent[0].startswith("gate: the loop has no gate")


# Loops without a fixed map


class TimedDeadline(Deadline):
    """The orbits of `Deadline`, by a step that is told the iteration instead of counting in its state."""

    def step(self, state, recalled, iteration):
        moved = torch.full_like(recalled, iteration + 1.0).minimum(recalled)
        return torch.stack([moved, state[:, 1]], dim=1)

    def gate(self, state, recalled):
        return (state[:, 0] >= recalled).float() * 0.9


def test_a_time_dependent_loop_is_recorded_as_it_runs():
    inputs, targets = deadlines()
    assert ls.exits(TimedDeadline(), inputs, targets, iterations=ITERATIONS) == ls.exits(
        Gated(), inputs, targets, iterations=ITERATIONS
    )


def test_a_stochastic_loop_is_compared_over_several_draws():
    loop = ls.FunctionLoop(
        encode=lambda x: x,
        start=torch.zeros_like,
        step=lambda z, e, generator: e + 2 * torch.randn(e.shape, generator=generator),
        read=lambda z: torch.cat([-z, z], dim=1),
    )
    inputs, targets = torch.ones(300, 1), torch.ones(300, dtype=torch.long)
    found = ls.exits(loop, inputs, targets, iterations=2, several=9)
    one, most = (found.rule("majority of several starts").points[place] for place in (0, -1))
    # Right with probability Phi(1/2) = 0.69 for one draw, and 0.89 for most of nine (binomial).
    assert one.quality == pytest.approx(0.691, abs=0.08)
    assert most.quality == pytest.approx(0.890, abs=0.06)
    assert found == ls.exits(loop, inputs, targets, iterations=2, several=9)


def test_a_gate_of_a_wrong_shape_is_refused():
    class Wrong(Deadline):
        def gate(self, state, recalled):
            return state[:3]

    with pytest.raises(LoopscopeError, match=r"gate returned \(3, 2\), expected a tensor with one probability"):
        ls.exits(Wrong(), deadlines()[0], iterations=3)


def basins():
    """z -> z + 0.2 (z - z^3): the sign of a random start decides, and starts near zero arrive last."""
    return ls.FunctionLoop(
        encode=lambda x: x,
        start=lambda e, generator: torch.randn(e.shape, generator=generator) + 0.5,
        step=lambda z, e: z + 0.2 * (z - z**3),
        read=lambda z: torch.cat([-z, z], dim=1),
    )


def test_several_starts_cost_their_iterations_and_majority_beats_one():
    inputs, targets = torch.zeros(200, 1), torch.ones(200, dtype=torch.long)
    found = ls.exits(basins(), inputs, targets, iterations=30, several=9)
    most = found.rule("majority of several starts").points
    assert [point.threshold for point in most] == [1, 2, 4, 8, 9]
    assert [point.iterations for point in most] == [30, 60, 120, 240, 270]
    assert most[0].quality == found.rule("fixed").points[-1].quality
    assert most[-1].quality > most[0].quality + 0.1
    assert len(found.absent) == 1
    assert found.absent[0].startswith("gate: the loop has no gate")


def recording(answers, right, residual):
    units = len(residual)
    return Recording({}, torch.tensor([answers]), torch.tensor([right]), torch.arange(units), torch.tensor(residual))


def test_the_best_converged_start_and_the_most_common_answer_are_taken():
    one = recording([[[7], [1]]][0], [False, True], [0.5, 0.1])
    two = recording([[[8], [2]]][0], [True, False], [0.1, 0.5])
    three = recording([[[8], [1]]][0], [True, True], [0.9, 0.9])
    assert starts.best_converged([one, two, three]).tolist() == [1, 0]
    assert starts.majority([one, two, three]).tolist() == [1, 0]
    point = starts.point([one, two, three], torch.tensor([0, 0]))
    assert (point.threshold, point.iterations, point.quality) == (3.0, 3.0, 0.5)


# Results and bad input


def test_the_batch_is_recorded_in_parts_with_the_same_result(monkeypatch):
    inputs, targets = deadlines()
    whole = ls.exits(Deadline(), inputs, targets, iterations=12)
    monkeypatch.setattr("loopscope.readouts.TOGETHER", 12)
    assert ls.exits(Deadline(), inputs, targets, iterations=12) == whole


def test_the_comparison_prints_and_becomes_json():
    inputs, targets = deadlines()
    found = ls.exits(Deadline(), inputs, targets, iterations=ITERATIONS)
    assert str(found).startswith("accuracy of 40 examples over 50 iterations\nstop by ")
    assert found.to_dict()["rules"][0]["points"][0]["iterations"] == 1.0
    with pytest.raises(KeyError):
        found.rule("unknown")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": ["residuals"]}, "rule.*residual"),
        ({"iterations": -1}, "iterations"),
        ({"several": 0}, "several"),
        ({"targets": torch.zeros(3)}, "targets"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(LoopscopeError, match=message):
        ls.exits(Deadline(), deadlines()[0], **options)


def test_a_rule_of_answers_cannot_judge_tokens():
    with pytest.raises(LoopscopeError, match="targets are a function, but the loop answers token by token"):
        ls.exits(by_token(), torch.ones(1, 3, 1), lambda logits, rows: torch.ones(len(rows), dtype=torch.bool))


def test_the_shipped_rules_are_all_explained():
    inputs, targets = deadlines()
    found = ls.exits(Gated(), inputs, targets, iterations=3)
    assert {rule.name for rule in found.rules} <= MEANINGS.keys()
    assert all(rule.meaning == MEANINGS[rule.name] for rule in found.rules)
