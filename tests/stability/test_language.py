"""What an examination says about a language model, against orbits that are known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from looped_models import OuroForCausalLM, ids, seeded

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.stability.language.loop_counts import by_accuracy, by_agreement, reference_of, same_as
from loopscope.stability.language.part import EXITS, RADII
from loopscope.stability.language.questions import OLD, replies
from loopscope.stability.language.tokens import groups_of, shown_iterations

TRAINED = 4
RATES = torch.tensor([0.5, 0.8, 0.9])
"""A token of rate r has the state z_t = 1 - r^t, and the answer 1 once this is above 0.7: after 2, 6 and 12 loops."""


def rates(batch=20):
    return RATES.expand(batch, -1)[..., None].clone()


def loop(padding=None, **options):
    return ls.FunctionLoop(
        encode=lambda rate: rate,
        start=torch.zeros_like,
        step=lambda state, rate: rate * state + (1 - rate),
        read=lambda state: torch.cat([torch.full_like(state, 0.7), state], dim=-1),
        padding=padding,
        answers_per="token",
        **options,
    )


def residual(rate, count):
    return rate ** (count - 1) * (1 - rate) / (1 - rate**count)


def flips(rate):
    """Return the first loop after which a token's state is above 0.7."""
    return next(count for count in range(1, 100) if 1 - rate**count > 0.7)


@pytest.fixture(scope="module")
def exam():
    words = [["a", "b", "c"]] * 20
    return ls.examine(loop(), rates(), trained_iterations=TRAINED, iterations=120, words=words)


def test_each_token_has_its_own_residual_settling_answers_and_radius(exam):
    found = exam.language.tokens
    text = found.texts[0]
    assert text.words == ["a", "b", "c"]
    for place, rate in enumerate(RATES.tolist()):
        for count, value, same in zip(found.loops, text.residual[place], text.same[place], strict=True):
            if residual(rate, count) > 1e-6:
                assert value == pytest.approx(residual(rate, count), rel=0.02)
            assert same == ((count >= flips(rate)) == (flips(rate) <= TRAINED))
        assert text.settled[place] == next(count for count in range(1, 200) if residual(rate, count) <= 1e-4)
    assert text.radius == pytest.approx(RATES.tolist(), rel=1e-3)
    assert all(error < 0.01 for error in text.radius_error)


def test_the_medians_of_a_length_are_those_of_its_tokens(exam):
    (one,) = exam.language.tokens.lengths
    assert (one.shortest, one.longest, one.texts, one.tokens) == (3, 3, 20, 60)
    assert (one.settled, one.settled_at) == (1.0, exam.language.tokens.texts[0].settled[1])
    assert one.radius == pytest.approx(0.8, rel=1e-3)
    assert one.final == pytest.approx(1 / 3), "one token of three answers as after the loops of training"


def test_too_few_loops_and_too_many_are_told_from_enough(exam):
    loops = exam.language.loops
    assert [flips(rate) for rate in RATES.tolist()] == [2, 6, 12]
    assert loops.reference == TRAINED
    assert loops.enough == 2
    assert loops.safe == 5
    assert not loops.safe_to_the_end
    assert loops.quality[:12] == pytest.approx([2 / 3, 1, 1, 1, 1, *[2 / 3] * 6, 1 / 3])


def test_a_rule_is_compared_with_answers_that_are_safe(exam):
    assert exam.language.exits.iterations == exam.language.loops.safe
    assert "as after 5 loops" in exam.replies[2].why


def test_with_targets_quality_is_accuracy():
    targets = torch.ones(20, 3, dtype=torch.long)
    found = ls.examine(loop(), rates(), targets, TRAINED, effort="quick", iterations=120)
    loops = found.language.loops
    assert (loops.measured, loops.reference, loops.enough) == ("accuracy", None, 12)
    assert loops.safe_to_the_end
    assert (found.language.exits.measured, found.language.exits.iterations) == ("accuracy", 4 * TRAINED)
    assert "at least 120 loops" in str(found)


def test_the_first_screen_answers_three_questions(exam):
    said = str(exam)
    assert said.startswith("How many loops are enough? 2 loops")
    assert said.index("How far is it safe to go?  up to 5 loops") < said.index("Which rule should stop it?")
    assert said.index("Which rule should stop it?") < said.index("reachability")
    assert [reply.tone for reply in exam.replies] == ["holds", "borderline", "holds"]


def test_a_language_model_survives_json_and_older_files_say_what_they_lack(exam):
    assert ls.Examination.from_dict(exam.to_dict()) == exam
    older = exam.to_dict()
    del older["language"]
    assert [reply.why for reply in ls.Examination.from_dict(older).replies] == [OLD] * 3


def test_other_loops_are_asked_nothing():
    found = ls.examine(replace(loop(), answers_per="example"), rates(4), effort="quick", iterations=60)
    assert found.language is None
    assert found.replies == []
    assert "How many loops" not in str(found)


def test_padding_is_no_token_and_lengths_are_told_apart():
    inputs = rates()
    inputs[:8, 2] = 0
    found = ls.examine(
        loop(lambda rate: rate[..., 0] > 0),
        inputs,
        None,
        TRAINED,
        iterations=120,
        words=[["a", "b"]] * 8 + [["c"] * 3] * 12,
    )
    short, long = found.language.tokens.lengths
    assert (short.longest, short.texts, short.tokens, long.shortest, long.tokens) == (2, 8, 16, 3, 36)
    assert short.final == pytest.approx(1 / 2)
    text = found.language.tokens.texts[0]
    assert (text.words, len(text.settled), len(text.radius)) == (["a", "b"], 2, 2)
    assert long.radius is None, "the radii of the first four texts alone are measured"


def test_the_loops_of_a_captured_model_are_counted_as_it_counts_them():
    text = {"input_ids": ids(4), "attention_mask": torch.ones_like(ids(4))}
    adapted = ls.adapt(seeded(OuroForCausalLM), text, positions="all")
    assert adapted.iterations_before == 1
    found = ls.examine(adapted, text, None, TRAINED, effort="quick", iterations=30).language
    assert (found.before, found.loops.reference, found.loops.loops[0]) == (1, TRAINED, 2)
    assert found.tokens.loops[0] == 2
    assert {rule.name for rule in found.exits.rules} >= {"gate", "accumulated gate"}
    assert found.exits.iterations == min(4 * (TRAINED - 1), found.loops.safe - 1)


def test_what_is_not_measured_says_why(monkeypatch):
    monkeypatch.setattr("loopscope.stability.language.part.MOST_LOGITS", 6 * 5 * 3)
    found = ls.examine(loop(), rates(), None, TRAINED, effort="quick", iterations=60)
    assert found.language.exits is None
    assert "6 logits of each input after each of 5 iterations are too many" in found.unknown[EXITS]
    assert found.replies[2].short == "not known"
    assert found.replies[2].why == found.unknown[EXITS]
    assert found.unknown[RADII] == "not measured at effort quick"


def test_radii_of_many_tokens_are_left_to_their_own_function(monkeypatch):
    monkeypatch.setattr("loopscope.stability.language.tokens.LARGEST", 8)
    found = ls.examine(loop(), rates(), None, TRAINED, iterations=60)
    assert "3 tokens need as many copies of a state of 3 numbers: ls.token_spectral_radius" in found.unknown[RADII]
    assert found.language.tokens.texts[0].radius == []


def test_nothing_beyond_training_is_claimed_in_prediction_mode():
    found = ls.examine(loop(), rates(), None, TRAINED, effort="quick", prediction=True)
    assert found.language.loops.safe is None
    assert "no loop beyond those of training was run" in found.replies[1].why


def test_a_time_dependent_language_model_is_asked_too():
    timed = ls.FunctionLoop(
        encode=lambda rate: rate,
        start=torch.zeros_like,
        step=lambda state, rate, iteration: rate * state + (1 - rate),
        read=lambda state: torch.cat([torch.full_like(state, 0.7), state], dim=-1),
        answers_per="token",
    )
    found = ls.examine(timed, rates(), None, TRAINED, iterations=60)
    assert found.language.loops.enough == 2
    assert "no token has a Jacobian of its own" in found.unknown[RADII]
    assert found.language.tokens.texts[0].settled[0] > 0
    assert found.language.exits.recommendation is not None


def test_a_rule_that_does_not_hold_on_other_inputs_is_not_recommended():
    """Seven tokens are too few: one that the rule stops too early is 14 points."""
    found = ls.examine(loop(), rates(), None, TRAINED, effort="quick", iterations=60)
    assert found.replies[2].tone == "holds"
    lucky = replace(found.language.exits.recommendation, rule="residual", quality=0.714, fixed_quality=0.857)
    assert not lucky.held
    assert "no rule can be recommended, the one that was chosen did not hold: stop by residual" in str(lucky)
    language = replace(found.language, exits=replace(found.language.exits, recommendation=lucky))
    reply = replies(language, found.unknown, rests=True)[2]
    assert (reply.short, reply.tone) == ("not known", "unknown")
    assert "was chosen and did not hold on other inputs" in reply.why


def test_a_model_that_answers_nothing_is_not_called_safe():
    silent = replace(loop(), read=lambda state: torch.full((*state.shape[:-1], 2), math.nan))
    found = ls.examine(silent, rates(), None, TRAINED, effort="quick", iterations=30)
    assert found.language.loops.enough is None
    assert found.language.loops.safe is None
    assert [reply.short for reply in found.replies[:2]] == ["not known", "not known"]


def test_words_are_one_list_per_input():
    with pytest.raises(
        LoopscopeError, match="words has 2 lists, expected 20: the text of each token, one list per input"
    ):
        ls.examine(loop(), rates(), effort="quick", words=[["a"], ["b"]])


def test_accuracy_that_falls_ends_what_is_safe():
    found = by_accuracy([1, 2, 4, 8, 16], [0.3, 0.895, 0.9, 0.82, 0.5])
    assert (found.enough, found.safe, found.safe_to_the_end) == (2, 8, False)
    assert "82.0% of the tokens are right there, and 50.0% after 16" in found.why_safe
    nothing = by_accuracy([1, 2], [0.0, 0.0])
    assert (nothing.enough, nothing.safe, nothing.why_enough) == (None, None, "no token is ever right")


def test_agreement_must_last_until_the_reference():
    # The answers of two loops agree with those of four by chance: those of three do not.
    assert by_agreement([1, 2, 3, 4], [0.5, 1.0, 0.6, 1.0], 4, told=True).enough == 4
    late = by_agreement([1, 2, 3, 4], [0.5, 0.6, 0.7, 1.0], 4, told=False)
    assert (late.enough, late.safe) == (None, None)
    assert "answers still change late: 70.0% are final after 3 of 4 loops" in late.why_enough
    early = by_agreement([1, 2, 3, 4], [0.5, 1.0, 1.0, 1.0], 4, told=False)
    assert (early.enough, early.safe, early.safe_to_the_end) == (2, 4, True)


def test_references_groups_and_shown_loops():
    assert reference_of([1, 4, 9], 10) == 9
    assert same_as(torch.tensor([[1, -1], [1, -1]]), 1).tolist() == [[True, False], [True, False]]
    assert groups_of(torch.tensor([9, 1, 2, 3, 4, 5, 6, 7, 8]))[0].tolist() == [1, 2]
    assert shown_iterations(500)[-1] == 500
    assert len(shown_iterations(500)) <= 24
