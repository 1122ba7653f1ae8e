"""Examinations of loops without a single map, against closed forms."""

import math
from dataclasses import replace

import pytest
import torch

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.kinds import Kind, timed
from loopscope.readouts import ReadingPlan
from loopscope.stability import Status, Verdict
from loopscope.stability.dependence.swap_test import SwapOutcome
from loopscope.stability.nonautonomous import kept
from loopscope.stability.nonautonomous.axes import judge_axes, verdict_of
from loopscope.stability.nonautonomous.kept import answers_kept, draws_of, kept_along
from loopscope.stability.nonautonomous.noise_size import levelled_residual, noise_of_step
from loopscope.stability.nonautonomous.results import ExponentsResult, KeptResult, NonautonomousResult
from loopscope.stability.nonautonomous.swaps import swap_along
from loopscope.stability.results import SwapResult

INPUTS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


def loop_of(step, start=torch.zeros_like, read=lambda z: z, **options):
    return ls.FunctionLoop(encode=lambda x: x, start=start, step=step, read=read, **options)


def quick(loop, inputs=INPUTS, iterations=60, **options):
    return ls.examine(loop, inputs, effort="quick", iterations=iterations, **options)


def slowing(z, e, iteration):
    """Contract by a factor that rises to .8."""
    return (0.8 - 0.3 / (1 + iteration)) * z + e


def noisy(scale, contraction=0.5):
    def step(z, e, generator):
        return contraction * z + e + scale * torch.randn(z.shape, generator=generator)

    return step


# The whole examination


def test_a_time_dependent_loop_is_judged_without_a_fixed_point(tmp_path):
    exam = quick(loop_of(slowing), trained_iterations=10)
    assert exam.verdict is Verdict.STABLE
    assert exam.headline == "stable (time-dependent: no fixed point is claimed)"
    assert (exam.kind.name, exam.kind.told_by) == (Kind.TIME_DEPENDENT, "its step takes iteration")
    assert [axis.name for axis in exam.axes] == ["answer retention", "input-dependence", "error growth"]
    assert [axis.status for axis in exam.axes] == [Status.HOLDS] * 3
    assert exam.spectrum is exam.basin is exam.portrait is None
    assert not any(exam.reachability.arrived)
    assert "fixed point" not in exam.reachability.counts
    assert all(exam.unknown[part] == exam.kind.undefined for part in ("spectrum", "basin", "gradients", "portrait"))
    known = sum(math.log(0.8 - 0.3 / (1 + t)) for t in range(15, 60)) / 45
    assert exam.nonautonomous.exponents.largest == pytest.approx([known] * 2, abs=1e-4)
    assert exam.nonautonomous.answers.reference == exam.nonautonomous.swapped_at == 10
    assert exam.input_dependence.swaps.moved == 1
    printed = " ".join(str(exam).split())
    assert "kind of loop: time-dependent, since its step takes iteration; fixed points" in printed
    assert "not computed" not in printed
    assert "spectral radius, median" not in printed
    exam.save(tmp_path / "exam.json")
    assert ls.Examination.load(tmp_path / "exam.json") == exam
    exam.save(tmp_path / "exam.html")
    page = (tmp_path / "exam.html").read_text()
    for said in ("Kind of loop:", "Are answers kept?", "Do errors grow?", "error growth per iteration", "Swap test"):
        assert said in page
    assert "figure: Eigenvalues" not in page, "the reason stands in the row of the part"


def test_a_counter_in_the_state_gives_the_numbers_of_a_step_that_takes_the_iteration():
    def counting(state, e):
        return {"z": slowing(state["z"], e, int(state["t"][0])), "t": state["t"] + 1}

    def start(e):
        return {"z": torch.zeros_like(e), "t": torch.zeros(len(e), dtype=torch.long)}

    asked, counted = quick(loop_of(slowing)), quick(loop_of(counting, start, lambda state: state["z"]))
    assert counted.kind.told_by == "the state carries a counter"
    assert replace(counted, kind=asked.kind, seconds={}) == replace(asked, seconds={})


def test_what_was_known_of_autonomous_loops_stays_the_same():
    exam = quick(loop_of(lambda z, e: z / 2 + e))
    assert exam.kind.is_plain
    assert exam.nonautonomous is None
    assert "kind of loop" not in str(exam)
    assert (
        ls.Examination.from_dict({k: v for k, v in exam.to_dict().items() if k not in ("kind", "nonautonomous")})
        == exam
    )


def test_noise_of_size_zero_gives_the_ordinary_examination():
    def silent(z, e, generator):
        return 0.5 * z + e + 0 * torch.randn(z.shape, generator=generator)

    plain, still = quick(loop_of(lambda z, e: 0.5 * z + e)), quick(loop_of(silent))
    assert replace(still, kind=plain.kind, seconds={}) == replace(plain, seconds={})
    assert still.kind.name is Kind.STOCHASTIC
    assert "the noise is 0" in str(still)


def test_noise_that_comes_late_is_noise():
    def late(state, e, generator):
        noise = torch.randn(e.shape, generator=generator) * (state["t"] >= 20)[:, None]
        return {"z": 0.5 * state["z"] + e + noise, "t": state["t"] + 1.0}

    loop = loop_of(late, lambda e: {"z": torch.zeros_like(e), "t": torch.zeros(len(e))}, lambda state: state["z"])
    assert quick(loop).kind.undefined


def test_a_stochastic_loop_is_judged_over_draws():
    exam = quick(loop_of(noisy(0.01), read=lambda z: z[:, :2]), 3 * INPUTS, seed=1)
    assert exam.kind.name is Kind.STOCHASTIC
    assert exam.verdict is Verdict.STABLE
    assert exam.nonautonomous.exponents.factor == pytest.approx(0.5, abs=1e-4)
    assert len(exam.nonautonomous.answers.draws) == 2
    assert exam.nonautonomous.answers.agreement == 1
    assert "under common random numbers" in exam.kind.undefined
    again = quick(loop_of(noisy(0.01), read=lambda z: z[:, :2]), 3 * INPUTS, seed=1)
    assert replace(again, seconds={}) == replace(exam, seconds={})


def test_targets_and_a_mask_are_used():
    def step(z, e, iteration):
        return slowing(z, e, iteration) * torch.tensor([1.0, 1.0, math.inf])[:, None] if iteration > 90 else z / 2 + e

    targets = (INPUTS > 0).long()[:, :2]
    two = INPUTS[:, :, None].expand(8, 3, 2).contiguous()
    loop = loop_of(step, read=lambda z: torch.cat([-z[:, :2, :1], z[:, :2, :1]], 2))
    exam = quick(loop, two, targets=targets, iterations=30)
    assert exam.settings.accuracy == 1
    assert exam.verdict is Verdict.STABLE_AND_ACCURATE


def test_the_time_limit_ends_parts():
    exam = quick(loop_of(slowing), iterations=400, time_limit=1e-6)
    assert exam.verdict is Verdict.UNDECIDED
    assert "the time limit" in exam.unknown["exponents"]
    assert "No verdict, since answer retention is unknown" in exam.advice


def test_prediction_mode_goes_no_further_than_training():
    exam = quick(loop_of(slowing), trained_iterations=12, prediction=True)
    assert len(exam.curves.residual[0]) == len(exam.nonautonomous.answers.kept) == 12
    assert exam.nonautonomous.swapped_at == 6


def test_an_orbit_that_rested_is_followed_until_the_step_moves_it():
    """A step that changes over time may move a state that had settled: orbits are followed to the end."""
    exam = quick(loop_of(lambda z, e, iteration: z if iteration < 40 else -e), iterations=50)
    residual = exam.curves.residual[1]
    assert residual[38] == 0
    assert residual[40] == 1


def test_a_loop_whose_answers_change_late_is_unstable():
    exam = quick(loop_of(lambda z, e, iteration: z / 2 + (e if iteration < 30 else -e)), trained_iterations=10)
    assert exam.verdict is Verdict.UNSTABLE
    assert exam.nonautonomous.answers.kept[9] == 1
    assert exam.nonautonomous.answers.at_end < 0.5
    assert "Fewer than 90% remain at iteration 3" in exam.advice


# Answers kept


def test_answers_are_compared_with_those_of_the_reference():
    def turning(z, e, iteration):
        return e if iteration % 4 else -e

    # After iterations 1, 5, 9, ... the state is -e, after all others e.
    view = timed(loop_of(turning))
    found = answers_kept([view], INPUTS, view.start(INPUTS), iterations=17, reference=3)
    assert found.kept == [None, None, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0]
    assert found.at_end == 6 / 8
    assert found.agreement is None


def test_an_answer_that_is_no_number_is_not_kept():
    def breaking(z, e, iteration):
        return e if iteration < 5 else e * math.nan

    view = timed(loop_of(breaking))
    found = kept_along(view, INPUTS, view.start(INPUTS), 8, 2)
    assert found.same[1:5].eq(1).all()
    assert found.same[5:].eq(0).all()
    assert kept_along(view, INPUTS, view.start(INPUTS), 8, 7).at_end.eq(0).all()


def test_answers_of_padding_do_not_count():
    def step(z, e, iteration):
        return torch.where(torch.tensor([True, True, False])[:, None], e, -e * (-1.0) ** iteration)

    tokens = torch.randn(5, 3, 4)
    mask = torch.tensor([True, True, False]).expand(5, 3)
    for padding, share in ((lambda e: mask[: len(e)], 1), (None, 0.5)):
        view = timed(loop_of(step, padding=padding))
        found = answers_kept([view], tokens, view.start(tokens), iterations=20, reference=4)
        assert found.at_end == share


def test_answers_of_a_language_model_are_counted_by_token():
    def step(z, e, iteration):
        return torch.where(torch.tensor([True, True, True, False])[:, None], e, e * (-1.0) ** iteration)

    tokens = torch.randn(5, 4, 6)
    shares = {}
    for unit in ("token", "example"):
        view = timed(loop_of(step, answers_per=unit))
        found = answers_kept([view], tokens, view.start(tokens), iterations=20, reference=3)
        shares[unit] = found.kept[3:5]
    assert shares == {"token": [0.75, 1.0], "example": [0.0, 1.0]}


def test_an_expensive_readout_is_read_now_and_then_and_in_parts(monkeypatch):
    view = timed(loop_of(lambda z, e, iteration: e if iteration < 15 else -e))
    start = view.start(INPUTS)
    every = answers_kept([view], INPUTS, start, iterations=24, reference=4)
    seen = []
    plan = ReadingPlan(examples=3, spacing=4.0)
    monkeypatch.setattr(kept, "plan_readings", lambda *_: plan)
    few = answers_kept(
        [view], INPUTS, start, iterations=24, reference=4, answers=lambda z: (seen.append(len(z)), z.argmax(1))[1]
    )
    assert max(seen) == 3
    read = [iteration for iteration, share in enumerate(few.kept, start=1) if share is not None]
    assert read == [4, 7, 11, 15, 19, 23, 24]
    assert [few.kept[iteration - 1] for iteration in read] == [every.kept[iteration - 1] for iteration in read]
    assert few.at_end == every.at_end == 0


def test_own_answers_are_compared():
    view = timed(loop_of(lambda z, e, iteration: e * (-1.0) ** iteration))
    start = view.start(INPUTS)
    sizes = answers_kept([view], INPUTS, start, iterations=9, reference=2, answers=lambda logits: logits.abs() > 1)
    assert sizes.at_end == 1


def test_draws_of_the_noise_differ_in_what_they_keep():
    loop = timed(loop_of(noisy(1.0, 0.0), read=lambda z: z[:, :1]))
    draws = draws_of(loop, 4)
    inputs = torch.zeros(400, 3)
    found = answers_kept(draws, inputs, loop.start(inputs), iterations=20, reference=5)
    # The sign of independent noise: kept by half of all, the same in four draws of one in eight.
    assert found.draws == pytest.approx([0.5] * 4, abs=0.05)
    assert len(set(found.draws)) == 4
    assert found.agreement == pytest.approx(1 / 8, abs=0.06)
    assert len(draws_of(timed(loop_of(slowing)), 4)) == 1


# Swaps at an iteration


def outcomes(step, inputs=INPUTS, start=torch.zeros_like, iteration=10, until=60):
    view = timed(loop_of(step, start))
    return swap_along(view, inputs, view.start(inputs), iteration=iteration, until=until)


def test_a_loop_that_recalls_its_input_moves_and_comes_back():
    found = outcomes(slowing)
    assert set(found.recall) == {SwapOutcome.MOVED}
    assert set(found.start) == {SwapOutcome.STAYED}
    known = math.exp(sum(math.log(0.8 - 0.3 / (1 + t)) for t in range(10, 60)) / 50)
    torch.testing.assert_close(found.contraction, torch.full((8,), known, dtype=torch.float64), atol=0.01, rtol=0)


def test_a_loop_that_forgets_its_input_stays_where_it_began():
    found = outcomes(lambda z, e, iteration: z * (-1.0) ** iteration, start=lambda e: e)
    assert set(found.recall) == {SwapOutcome.STAYED}
    assert set(found.start) == {SwapOutcome.MOVED}
    assert found.result().moved == 0
    torch.testing.assert_close(found.contraction, torch.ones(8, dtype=torch.float64))


def test_orbits_that_come_together_are_shared():
    found = outcomes(lambda z, e, iteration: 0.5 * z + 1 / (iteration + 1), start=lambda e: e)
    assert found.result().shared == 1


def test_an_orbit_that_is_still_on_its_way_is_unknown():
    found = outcomes(lambda z, e, iteration: 0.97 * z + e, iteration=10, until=40)
    assert set(found.recall) == {SwapOutcome.UNKNOWN}
    assert found.result().moved is None


def test_orbits_are_compared_under_the_same_noise():
    found = outcomes(noisy(10.0))
    assert set(found.recall) == {SwapOutcome.MOVED}
    torch.testing.assert_close(found.contraction, torch.full((8,), 0.5, dtype=torch.float64), atol=0.02, rtol=0)


def test_inputs_that_recall_the_same_have_no_partner():
    exam = quick(loop_of(slowing), torch.ones(4, 3))
    assert "recall the same as all others" in exam.unknown["swaps"]
    assert exam.axes[1].status is Status.UNKNOWN


def test_there_must_be_iterations_after_the_swap():
    with pytest.raises(LoopscopeError, match="the swap is at iteration 60 of 60, expected one between 1 and 59"):
        outcomes(slowing, iteration=60)


# Noise


def test_the_noise_of_a_step_and_the_residual_that_it_leaves():
    """z' = a z + e + s w: a step spreads by s sqrt(n), and consecutive states differ by s sqrt(2 n / (1 + a))."""
    n, scale, contraction = 4000, 0.1, 0.6
    view, inputs = timed(loop_of(noisy(scale, contraction))), torch.ones(1, n)
    state, residuals = view.start(inputs), []
    for _ in range(60):
        after = view.step(state, inputs)
        residuals.append((after.state - state.state).norm(dim=1) / after.state.norm(dim=1))
        state = after
    size = float(state.state.norm())
    assert float(noise_of_step(view, state, inputs)) == pytest.approx(scale * math.sqrt(n) / size, rel=0.02)
    floor = scale * math.sqrt(2 * n / (1 + contraction)) / size
    assert float(levelled_residual(torch.stack(residuals))) == pytest.approx(floor, rel=0.03)


# The axes


def judged(kept, moved, growth, accuracy=None):
    found = NonautonomousResult(
        answers=KeptResult(10, [None] * 9 + [1.0, kept], [kept]),
        exponents=ExponentsResult([0], [[math.log(growth)]], [[0.01]], [[growth]] * 3, 5, [15]),
        swapped_at=10,
        parts={"A": 0.357},
    )
    axes = judge_axes(found, SwapResult({"moved": 1}, {}, moved, 0.0), 0.1)
    return axes, verdict_of(axes, accuracy)


@pytest.mark.parametrize(
    ("kept", "moved", "growth", "accuracy", "verdict"),
    [
        (1.0, 1.0, 0.9, None, Verdict.STABLE),
        (1.0, 1.0, 0.9, 0.95, Verdict.STABLE_AND_ACCURATE),
        (0.4, 1.0, 0.9, None, Verdict.UNSTABLE),
        (0.7, 1.0, 0.9, None, Verdict.UNDECIDED),
        (1.0, 0.2, 0.9, None, Verdict.PATH_DEPENDENT),
        (1.0, 0.2, 1.1, None, Verdict.FRAGILE),
        (1.0, 1.0, 1.01, None, Verdict.UNDECIDED),
    ],
)
def test_the_verdict_of_the_axes(kept, moved, growth, accuracy, verdict):
    assert judged(kept, moved, growth, accuracy)[1] is verdict


def test_the_growth_of_the_whole_step_stands_beside_the_radii_of_its_parts():
    axes, _ = judged(1.0, 1.0, 1.12)
    assert "small errors by 1.12 +- 0.01" in axes[2].reason
    assert "the radius of A, a part of the step, is 0.357" in axes[2].reason
