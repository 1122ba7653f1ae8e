"""Examinations of loops whose behaviour is known, and of what must be left as it was."""

import json
import math
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import loopscope as ls
from loopscope.evidence import MendingOption, MendingRecord, mending
from loopscope.stability.advice import advise, against_collapse
from loopscope.stability.orbits.normalized import normalized as normalized_loop
from loopscope.stability.results import AnswerResult, GeometryResult, ReachabilityResult
from loopscope.stability.targets import rule_of
from loopscope.stability.verdict import TESTED_ON, THRESHOLDS, Axis, Status

COLD = torch.tensor([[0.5, 0.2], [-0.2, 0.4]])
ANGLE = 1.0
TURN = torch.tensor([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])
INPUTS = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))


def loop_of(step, read=lambda state: state, start=torch.zeros_like):
    return ls.FunctionLoop(encode=lambda inputs: inputs, start=start, step=step, read=read)


CONTRACTION = loop_of(lambda z, e: z @ COLD.T + e)
DRIFT = loop_of(lambda z, e: z + torch.nn.functional.normalize(e, dim=1))


def quick(loop, inputs=INPUTS, **options):
    return ls.examine(loop, inputs, effort="quick", iterations=options.pop("iterations", 120), **options)


def test_a_contraction_with_input_keeps_its_answer():
    exam = ls.examine(CONTRACTION, INPUTS, iterations=120)
    assert exam.verdict is ls.Verdict.STABLE
    assert exam.provisional
    assert not exam.unknown
    radius = torch.linalg.eigvals(COLD).abs().max().item()
    assert exam.spectrum.radius == pytest.approx([radius] * 8, rel=1e-4)
    resolvent = torch.linalg.svdvals(torch.linalg.inv(torch.eye(2) - COLD)).max().item()
    assert exam.geometry.resolvent.value == pytest.approx([resolvent] * 8, rel=1e-2)
    assert exam.geometry.lipschitz.value == pytest.approx([resolvent] * 8, rel=1e-2)
    assert exam.input_dependence.distinct.common[-1] == 12
    assert exam.input_dependence.variance.share == pytest.approx(1, abs=1e-3)


def test_the_relative_lipschitz_constant_does_not_depend_on_the_units_of_the_embedding():
    """x -> z* has the same relative derivative whether encode or the step does the scaling."""
    scaled = ls.FunctionLoop(
        encode=lambda inputs: 10 * inputs,
        start=torch.zeros_like,
        step=lambda z, e: z @ COLD.T + e / 10,
        read=lambda z: z,
    )
    plain, through = quick(CONTRACTION), quick(scaled)
    assert through.geometry.lipschitz.path == "inputs, through encode"
    assert through.geometry.lipschitz.relative == pytest.approx(plain.geometry.lipschitz.relative, rel=1e-3)
    fixed = INPUTS @ torch.linalg.inv(torch.eye(2) - COLD).T
    gain = torch.linalg.svdvals(torch.linalg.inv(torch.eye(2) - COLD)).max()
    expected = (gain * INPUTS.norm(dim=1) / fixed.norm(dim=1))[plain.geometry.rows]
    assert plain.geometry.lipschitz.relative == pytest.approx(expected.tolist(), rel=1e-2)


def test_right_targets_make_it_extrapolate_and_wrong_ones_do_not():
    fixed = INPUTS @ torch.linalg.inv(torch.eye(2) - COLD).T
    assert quick(CONTRACTION, targets=fixed.argmax(1)).verdict is ls.Verdict.STABLE_AND_ACCURATE
    wrong = quick(CONTRACTION, targets=fixed.argmin(1))
    assert wrong.verdict is ls.Verdict.STABLE
    assert "0% of the answers are right" in wrong.advice
    assert wrong.curves.accuracy[-1] == 0


def test_padding_is_neither_right_nor_wrong():
    logits = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    targets, mask = torch.tensor([[1, -100]] * 3), torch.tensor([[True, False]] * 3)
    assert rule_of(targets, mask)(logits, torch.arange(3)).tolist() == [True, True, False]
    mask[1], targets[1, 1] = True, 1
    assert rule_of(targets, mask)(logits[1:], torch.tensor([1, 2])).tolist() == [False, False]
    whole = rule_of(torch.tensor([1, 0, 0]), mask)
    assert whole(logits[:, 0], torch.arange(3)).tolist() == [True, False, True]


def test_the_class_of_a_single_logit_is_its_sign():
    logits = torch.tensor([[[2.0], [-1.0]], [[0.5], [0.1]]])
    assert rule_of(torch.tensor([[1, 0], [1, 0]]))(logits, torch.arange(2)).tolist() == [True, False]


def test_without_recall_the_answer_is_input_independent():
    exam = quick(loop_of(lambda z, e: z @ COLD.T, start=torch.clone))
    assert exam.verdict is ls.Verdict.INPUT_INDEPENDENT
    assert exam.input_dependence.distinct.common[-1] == 1
    assert exam.axes[1].numbers == {"fraction moved": 0.0, "fraction shared": 1.0}
    assert "share their fixed point" in exam.axes[1].reason
    assert "recall" in exam.advice


ROUNDING = loop_of(lambda z, e: 0.5 * (z + torch.floor(z) + 0.5), start=torch.clone)
"""Its fixed points are the integers plus a half: the start chooses among them, what is recalled does not."""


@pytest.mark.parametrize(
    ("loop", "inputs", "points"),
    [
        (ROUNDING, torch.arange(12.0)[:, None] + 0.3, 8),
        (loop_of(lambda z, e: z.clone(), start=torch.clone), INPUTS, 8),
        (loop_of(lambda z, e: torch.tanh(2 * z), start=torch.clone), INPUTS, 3),
        (loop_of(lambda z, e: torch.tanh(2 * z), start=torch.clone), INPUTS[:, :1], 2),
    ],
    ids=["rounding", "identity", "wells", "two wells"],
)
def test_a_loop_whose_start_alone_decides_is_path_dependent(loop, inputs, points):
    exam = quick(loop, inputs)
    assert exam.input_dependence.distinct.common[-1] == 1
    assert exam.input_dependence.distinct.own[-1] == points
    assert exam.axes[1].numbers["fraction shared"] <= 0.5
    assert exam.verdict is ls.Verdict.PATH_DEPENDENT


WELLS = loop_of(lambda z, e: torch.stack([torch.tanh(3 * z[:, 0]), 0.5 * z[:, 1] + e[:, 1]], 1), start=torch.clone)
"""Two wells for every input: the sign of the start's first number chooses one; the second number is the input's."""
SIDES = torch.tensor([1.0, -1.0]).repeat(6)


def test_two_wells_for_every_input_are_path_dependence():
    inputs = torch.stack([SIDES, INPUTS[:, 1]], 1)
    right = (SIDES < 0).long()
    well = ls.FunctionLoop(WELLS.encode, WELLS.start, WELLS.step, lambda z: torch.stack([z[:, 0], -z[:, 0]], 1))
    exam = quick(well, inputs, targets=right)
    assert exam.verdict is ls.Verdict.PATH_DEPENDENT
    assert exam.axes[0].status is Status.HOLDS
    assert exam.axes[1].numbers["fraction moved"] <= 0.125
    assert exam.axes[1].numbers["fraction shared"] <= 0.125
    assert "several fixed points" in exam.axes[1].reason
    assert "keeps its answer (100% of these answers are right)" in exam.advice
    assert str(exam).startswith("path-dependent (provisional")
    # In one well alone the input decides everything.
    same = quick(well, torch.stack([SIDES.abs(), INPUTS[:, 1]], 1), targets=torch.zeros(12, dtype=torch.long))
    assert same.verdict is ls.Verdict.STABLE_AND_ACCURATE


def test_an_expanding_map_diverges():
    exam = quick(loop_of(lambda z, e: 3 * z + e), iterations=200)
    assert exam.verdict is ls.Verdict.UNSTABLE
    assert exam.reachability.counts == {"diverging": 12}
    assert exam.axes[2].status is Status.UNKNOWN


def test_a_rotation_is_unstable():
    exam = ls.examine(loop_of(lambda z, e: z @ TURN.T + e), INPUTS, iterations=300)
    assert not any(exam.reachability.arrived)
    assert set(exam.reachability.counts) == {"quasi-periodic", "undecided"}
    assert exam.verdict is ls.Verdict.UNSTABLE
    assert exam.axes[2].status is Status.UNKNOWN
    assert exam.spectrum.radius == pytest.approx([1.0] * 8, abs=1e-5)
    assert not any(exam.spectrum.at_fixed_point)
    assert exam.unknown["resolvent"] == "no orbit arrived: it is defined at a fixed point"


def logistic(rates):
    """Return z -> r z (1 - z) with the rates as inputs: chaotic at 4, arriving at 1 - 1/r below 3."""
    step = lambda z, r: r * z * (1 - z)  # noqa: E731
    return loop_of(step, start=lambda r: torch.full_like(r, 0.3)), torch.tensor(rates)[:, None]


@pytest.mark.parametrize("inputs", [8, 17, 64])
def test_chaos_is_unstable_however_many_inputs_show_it(inputs):
    """Eight orbits are followed further, at most; the others are like them."""
    exam = ls.examine(*logistic([4.0] * inputs), iterations=120)
    assert exam.verdict is ls.Verdict.UNSTABLE
    assert exam.axes[0].numbers["fraction arrived"] == 0
    assert ("like those followed further" in exam.axes[0].reason) is (inputs > 8)
    assert exam.advice.startswith("Orbits are chaotic")


def test_half_of_the_orbits_is_half_though_few_of_the_others_are_followed():
    """In order, as inputs of rising difficulty would be."""
    exam = ls.examine(*logistic([2.5] * 16 + [4.0] * 32 + [2.5] * 16), iterations=120)
    assert exam.axes[0].numbers["fraction arrived"] == pytest.approx(0.5)
    assert "32 fixed point, 8 chaotic, 24 like those followed further" in exam.axes[0].reason


def test_a_flip_is_a_cycle_and_advice_is_by_counts():
    exam = quick(loop_of(lambda z, e: -z, start=torch.clone))
    assert exam.reachability.counts == {"cycle": 12}
    assert exam.reachability.period == [2] * 12
    assert exam.verdict is ls.Verdict.UNSTABLE
    assert "period is 2" in exam.advice
    assert exam.advice.endswith(against_collapse(mending()))


def test_a_state_that_wanders_where_it_is_read_the_same_never_settles_but_keeps_its_answer():
    """The first number alternates for ever, the second settles and is read; a readout of the first would alternate too."""

    def wandering(place):
        step = lambda z, e: torch.stack([-z[:, 0], 0.5 * z[:, 1] + e[:, 1]], 1)  # noqa: E731
        start = lambda e: torch.ones_like(e)  # noqa: E731
        return ls.FunctionLoop(lambda x: x, start, step, lambda z: torch.stack([z[:, place], -z[:, place]], 1))

    inputs = torch.stack([torch.zeros(12), SIDES], 1)
    right = (SIDES < 0).long()
    exam = quick(wandering(1), inputs, targets=right)
    assert exam.reachability.counts == {"cycle": 12}
    assert exam.verdict is ls.Verdict.UNSETTLED
    assert exam.axes[0].numbers == {"fraction arrived": 0.0, "fraction of answers that stand": 1.0}
    assert exam.axes[0].reason.endswith("100% of the answers never changed after iteration 60")
    assert "(most orbits: cycle)" in exam.advice
    assert quick(wandering(1), inputs).verdict is ls.Verdict.UNSTABLE
    assert quick(wandering(1), inputs, targets=1 - right).verdict is ls.Verdict.UNSTABLE
    # Where the place of the largest size is the answer, turning the sign changes none.
    assert quick(wandering(0), inputs, targets=lambda logits, rows: rows >= 0).verdict is ls.Verdict.UNSTABLE
    one = quick(
        wandering(0), inputs, targets=lambda logits, rows: rows >= 0, answers=lambda logits: logits.abs().argmax(1)
    )
    assert one.verdict is ls.Verdict.UNSETTLED
    flipped = quick(wandering(0), inputs, targets=torch.zeros(12, dtype=torch.long))
    assert flipped.verdict is ls.Verdict.UNSTABLE
    assert flipped.axes[0].numbers["fraction of answers that stand"] == 0.0


def test_answers_of_states_that_are_no_numbers_do_not_stand_and_are_not_right():
    exam = quick(loop_of(lambda z, e: 3 * z + e), iterations=200, targets=lambda logits, rows: rows >= 0)
    assert exam.axes[0].numbers["fraction of answers that stand"] == 0.0
    assert (exam.curves.accuracy[0], exam.curves.accuracy[-1], exam.settings.accuracy) == (1, 0, 0)


def reached(inputs):
    """Orbits of which nothing is known."""
    unknown, none = [None] * inputs, [0] * inputs
    return ReachabilityResult(
        arrived=[False] * inputs,
        **dict.fromkeys(("iterations_to_tolerance", "rate", "rate_error", "distance_left"), unknown),
        **dict.fromkeys(("norm", "start_norm", "lyapunov", "lyapunov_error", "growth"), unknown),
        **dict.fromkeys(("labels", "reasons"), [""] * inputs),
        **dict.fromkeys(("period", "left_at", "readout_broken_at"), none),
        answered=[True] * inputs,
        counts={},
    )


def test_nan_is_never_right_and_never_kept():
    nowhere = loop_of(CONTRACTION.step, read=lambda z: z * math.nan)
    exam = quick(nowhere, targets=torch.zeros(12, dtype=torch.long))
    assert exam.verdict is ls.Verdict.UNSTABLE
    assert exam.settings.accuracy == 0
    assert exam.axes[0].numbers == {"fraction arrived": 0.0, "fraction of answers that stand": 0.0}
    assert "the readout of 12 turns NaN or infinite, the first at iteration 1" in exam.axes[0].reason
    assert exam.advice.startswith("The state arrives, but its readout gives no answer (NaN")
    assert exam.answers == AnswerResult([None] * 12, None, None, None)
    # A user's own rule may call it right, too.
    assert quick(nowhere, targets=lambda logits, rows: rows >= 0).settings.accuracy == 0


def test_minus_infinity_for_some_classes_is_a_mask_and_for_all_no_answer():
    masked = loop_of(CONTRACTION.step, read=lambda z: torch.stack([z[:, 0], torch.full_like(z[:, 0], -math.inf)], 1))
    exam = quick(masked, targets=torch.zeros(12, dtype=torch.long))
    assert exam.verdict is ls.Verdict.STABLE_AND_ACCURATE
    assert exam.reachability.readout_broken_at == [0] * 12
    none = quick(loop_of(CONTRACTION.step, read=lambda z: torch.full_like(z, -math.inf)))
    assert none.verdict is ls.Verdict.UNSTABLE
    assert none.axes[0].numbers["fraction of answers that stand"] == 0


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_readout_that_breaks_at_iteration_200_is_named_with_the_iteration(value):
    """The state settles, all but a number that counts; the readout of some inputs breaks when it has come to 200."""
    start = lambda e: torch.cat([torch.zeros_like(e), torch.zeros(len(e), 1)], 1)  # noqa: E731
    step = lambda z, e: torch.cat([z[:, :2] / 2 + e, z[:, 2:] + 1], 1)  # noqa: E731
    read = lambda z: z[:, :2].masked_fill(z[:, 2:] >= 200, value)  # noqa: E731
    exam = quick(ls.FunctionLoop(lambda x: x, start, step, read), iterations=250)
    assert exam.reachability.readout_broken_at == [200] * 12
    assert "the readout of 12 turns NaN or infinite, the first at iteration 200" in exam.axes[0].reason
    assert exam.axes[0].numbers["fraction of answers that stand"] == 0
    assert exam.answers.all is None


def test_a_state_that_overflows_breaks_its_readout_at_that_iteration():
    exam = quick(loop_of(lambda z, e: 1.34 * z + e), iterations=400)
    state, overflow = torch.zeros_like(INPUTS), torch.zeros(12, dtype=torch.long)
    for iteration in range(1, 401):
        state = 1.34 * state + INPUTS
        overflow[(overflow == 0) & ~state.isfinite().all(1)] = iteration
    # Norms overflow up to two iterations before their largest number does.
    assert all(
        0 <= late - named <= 2 for named, late in zip(exam.reachability.readout_broken_at, overflow, strict=True)
    )


def test_answers_are_final_from_the_iteration_after_which_they_never_change():
    """The second class overtakes the first when the state, which grows by one, has passed the input."""
    step = lambda z, e: torch.minimum(z + 1, torch.full_like(z, 40))  # noqa: E731
    read = lambda z: torch.stack([torch.full_like(z[:, 0], 0.5), z[:, 0] - z[:, 1]], 1)  # noqa: E731
    start = lambda e: torch.cat([torch.zeros_like(e), e], 1)  # noqa: E731
    wait = torch.tensor([2.0, 4, 6, 8, 10, 12, 14, 16, 18, 60])[:, None]
    loop = ls.FunctionLoop(lambda x: x, start, lambda z, e: torch.cat([step(z[:, :1], e), z[:, 1:]], 1), read)
    exam = quick(loop, wait, iterations=100)
    # The last answer never changes: it stands from the first iteration on.
    assert exam.answers.final_at == [3, 5, 7, 9, 11, 13, 15, 17, 19, 1]
    assert (exam.answers.half, exam.answers.nine_tenths, exam.answers.all) == (9, 17, 19)
    assert "answers final                50% by iteration 9, 90% by iteration 17, all by iteration 19" in str(exam)


def test_answers_that_change_until_the_end_are_not_final():
    flips = quick(loop_of(lambda z, e: -z, start=torch.clone))
    assert flips.answers == AnswerResult([None] * 12, None, None, None)
    assert "answers final                fewer than 50%" in str(flips)


def test_advice_on_instability_is_about_orbits_that_were_decided():
    """Undecided orbits are the most here, yet it is the drift that made reachability fail."""
    axes = tuple(Axis(name, Status.FAILS, {}, "") for name in ("reachability", "input-dependence", "geometry"))
    labels = [*["undecided"] * 5, *["drift"] * 4, *["fixed point"] * 2, "cycle"]
    growth = [math.log(2) / 100 if label == "drift" else 0.0 for label in labels]
    found = replace(reached(12), counts=dict(Counter(labels)), labels=labels, growth=growth)
    advice = advise(ls.Verdict.UNSTABLE, axes, found, None, None, False, {})
    assert advice.startswith("The state's norm grows 2x per 100 iterations")


def counted(*mended: int) -> MendingRecord:
    names = ("state noise", "damping", "random starts", "residual scale")
    options = [
        MendingOption(name, f"training.x {place}", number, 8, number + 1, 20, 0.5, 0.2, -0.1, 1.1)
        for place, (name, number) in enumerate(zip(names, mended, strict=False))
    ]
    return MendingRecord("python -m somewhere", "small loops, 3 seeds", 500, options)


def test_advice_on_collapse_names_what_worked_in_half_of_the_configurations_with_the_counts():
    assert against_collapse(counted(7, 4, 3, 1)) == (
        "What kept accuracy in configurations that lost it otherwise: training.x 0 in 7 of 8 (8 of 20 runs), "
        "training.x 1 in 4 of 8 (5 of 20 runs). Measured on small loops, 3 seeds at iteration 500."
    )
    assert against_collapse(counted(8, 7, 6, 5)).count(" of 8 ") == 3
    assert against_collapse(counted(3, 2)) == (
        "Nothing kept accuracy in half of the configurations that lost it otherwise. The best was: training.x 0 "
        "in 3 of 8 (4 of 20 runs). Measured on small loops, 3 seeds at iteration 500."
    )


@pytest.mark.parametrize(
    ("needed", "said"),
    [
        ([*range(1, 10), None], "Half of the inputs have settled after 5 iterations, 9 of 10 after 9."),
        ([*range(1, 9), None, None], "Half of the inputs have settled after 5 iterations."),
        ([7, None, None], "The state settles."),
    ],
)
def test_inputs_that_never_settled_are_among_those_of_which_half_did(needed, said):
    axes = tuple(Axis(name, Status.HOLDS, {}, "") for name in ("reachability", "input-dependence", "geometry"))
    advice = advise(
        ls.Verdict.STABLE_AND_ACCURATE,
        axes,
        replace(reached(len(needed)), iterations_to_tolerance=needed),
        None,
        1.0,
        False,
        {},
    )
    assert advice.startswith(said)


def test_advice_on_a_radius_near_one_does_not_ask_for_more_iterations():
    exam = quick(loop_of(lambda z, e: 0.995 * z + e), iterations=2000)
    assert exam.advice.startswith(
        "No verdict, because geometry is borderline: radius 0.995 lies between 0.99, where it holds"
    )
    assert "more inputs" not in exam.advice


def tokens_loop(encode):
    """A contraction towards the embedding of the input's token."""
    table = torch.randn(20, 2, generator=torch.Generator().manual_seed(2))
    embed = lambda recalled: recalled if recalled.is_floating_point() else table[recalled]  # noqa: E731
    return ls.FunctionLoop(
        encode=lambda ids: table[ids] if encode == "embedded" else ids,
        start=lambda recalled: torch.zeros(len(recalled), 2),
        step=lambda z, e: 0.5 * torch.tanh(z) + embed(e),
        read=lambda z: z,
    )


def test_a_verdict_on_token_inputs_stands_without_a_lipschitz_constant():
    exam = quick(tokens_loop("ids"), torch.arange(12))
    assert exam.verdict is ls.Verdict.STABLE
    assert str(exam).startswith("stable, without a relative Lipschitz constant (provisional")
    assert exam.axes[2].numbers.keys() == {"radius", "gradient growth per iteration"}
    assert "relative Lipschitz constant not defined" in exam.axes[2].reason
    assert exam.advice.endswith(
        "(recalled is int64, inputs is int64): let encode return the embedded input, such as embed(ids), instead of the ids."
    )
    embedded = quick(tokens_loop("embedded"), torch.arange(12))
    assert str(embedded).startswith("stable (provisional")
    assert embedded.geometry.lipschitz.path == "recalled input"
    assert embedded.axes[2].numbers["radius"] == exam.axes[2].numbers["radius"]
    assert ls.Examination.from_dict(exam.to_dict()) == exam


def test_a_mask_of_zeros_beside_token_ids_is_not_the_input():
    """A mask that is added to attention scores has only zeros where nothing is padding."""
    masked = ls.FunctionLoop(
        encode=lambda ids: {"ids": ids, "mask": torch.zeros(len(ids), 2)},
        start=lambda recalled: torch.zeros(len(recalled["ids"]), 2),
        step=lambda z, e: tokens_loop("ids").step(z, e["ids"]) + e["mask"],
        read=lambda z: z,
    )
    exam = quick(masked, torch.arange(12))
    assert exam.geometry.lipschitz is None
    assert exam.axes[2].numbers.keys() == {"radius", "gradient growth per iteration"}
    assert "recalled['mask'] is a mask in float32" in exam.advice


def test_a_lipschitz_constant_that_failed_leaves_the_verdict_undecided_and_is_the_reason(monkeypatch):
    def fails(*arguments, **options):
        raise ls.LoopscopeError("out of luck")

    monkeypatch.setattr("loopscope.stability.parts.geometry.lipschitz", fails)
    exam = quick(CONTRACTION)
    assert exam.verdict is ls.Verdict.UNDECIDED
    assert exam.advice == "No verdict, because geometry is unknown: out of luck."


def test_advice_on_a_step_without_gradients_says_so():
    exam = quick(loop_of(torch.no_grad()(lambda z, e: z / 2 + e)))
    assert exam.advice.startswith(
        "No verdict, because geometry is unknown: the step changes with the state but carries no gradient"
    )


PADDED = replace(loop_of(lambda z, e: z / 2 + e), padding=lambda e: e[:, :, 0] != 0)
"""A contraction of inputs of several tokens, the last of which may be padding (zero)."""


def of_lengths(lengths):
    inputs = torch.randn(len(lengths), max(lengths), 1, generator=torch.Generator().manual_seed(0))
    return inputs.masked_fill(torch.arange(max(lengths))[:, None] >= torch.tensor(lengths)[:, None, None], 0)


def test_inputs_of_one_length_are_swapped_wherever_they_stand():
    """Seven lengths of twelve, none beside its like: of the eight that are swapped all have a partner."""
    exam = quick(PADDED, of_lengths([1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5]))
    assert exam.input_dependence.swaps.recall["moved"] == 8
    assert exam.basin.foreign.known == 1
    assert exam.verdict is ls.Verdict.STABLE


def test_advice_on_inputs_that_all_differ_in_length_is_to_give_some_of_each():
    exam = quick(PADDED, of_lengths(range(1, 13)))
    assert exam.verdict is ls.Verdict.UNDECIDED
    assert exam.unknown["swaps"].startswith("8 of 8 inputs have padding unlike that of all others")
    assert exam.advice.endswith("give more inputs, or several of each length.")


HYSTERESIS = loop_of(lambda z, e: torch.tanh(5 * z + e))
"""A state that saturates at the sign of its input and stays there, or at that of its start, where this has one."""


def test_where_recall_chooses_once_inputs_have_several_points_and_no_shared_one():
    """Three signs are eight points, from one start; each of them stays when another input is recalled."""
    signs = torch.tensor([[1.0 if row >> bit & 1 else -1.0 for bit in range(3)] for row in range(8)])
    exam = quick(HYSTERESIS, signs)
    assert exam.input_dependence.swaps.recall["stayed"] == exam.input_dependence.distinct.common[-1] == 8
    assert exam.axes[1].numbers == {"fraction moved": 0, "fraction shared": 0}
    assert exam.verdict is ls.Verdict.PATH_DEPENDENT
    assert "several fixed points" in exam.axes[1].reason
    assert "Begin every input at the loop's own start" in exam.advice


def test_a_start_that_chooses_between_points_of_the_input_is_path_dependence():
    """The start has the sign of the input, whose size moves both points a little: recall counts for less, but counts."""
    inputs = torch.linspace(0.2, 1.0, 12, dtype=torch.float64)[:, None] * torch.tensor([1.0, -1.0]).repeat(6)[:, None]
    exam = quick(replace(HYSTERESIS, start=torch.sign), inputs)
    assert exam.input_dependence.swaps.recall["stayed"] == 8
    assert exam.verdict is ls.Verdict.PATH_DEPENDENT


def test_a_drift_is_judged_by_its_directions_too():
    """A pre-norm loop with recall: its update has a bounded size, so its norm grows by a constant per iteration."""
    exam = quick(DRIFT, iterations=400)
    assert exam.reachability.counts == {"drift": 12}
    assert exam.verdict is ls.Verdict.UNSTABLE
    assert exam.reachability.norm == pytest.approx([400.0] * 12, rel=1e-3)
    # A norm that grows linearly grows by a factor of e in 100 iterations at 100, and by exp(1/4) at 400.
    assert "norm grows 1.2" in exam.advice or "norm grows 1.3" in exam.advice
    assert [axis.name for axis in exam.normalized_axes] == ["reachability", "input-dependence", "geometry"]
    assert exam.normalized_axes[0].status is not Status.FAILS


def test_where_the_time_is_over_among_directions_they_say_so(monkeypatch):
    clock = SimpleNamespace(ahead=0.0)
    shifted = SimpleNamespace(perf_counter=lambda: time.perf_counter() + clock.ahead)
    monkeypatch.setattr("loopscope.stability.parts.progress.time", shifted)

    def normalized(*arguments):
        clock.ahead = 1e4
        return normalized_loop(*arguments)

    monkeypatch.setattr("loopscope.stability.parts.directions.normalized", normalized)
    exam = quick(DRIFT, iterations=400, time_limit=5e3)
    assert exam.unknown["directions: orbits"] == "the time limit of 5000 s had passed after 1 iterations"
    assert exam.unknown["directions: spectrum"] == "the time limit of 5000 s had passed"
    assert not {"orbits", "spectrum"} & exam.unknown.keys()


def test_inputs_that_the_effort_leaves_out_are_counted():
    exam = quick(CONTRACTION, torch.cat([INPUTS, INPUTS[:3]]))
    assert "\n12 of 15 inputs, at most 120 iterations, effort quick" in str(exam)
    assert "\n12 inputs, at most" in str(quick(CONTRACTION))


def test_a_counter_leaves_no_fixed_point_to_be_claimed():
    loop = ls.FunctionLoop(
        encode=lambda inputs: inputs,
        start=lambda e: {"z": torch.zeros_like(e), "t": torch.zeros(len(e), dtype=torch.int64)},
        step=lambda s, e: {"z": 0.5 * s["z"] + e, "t": s["t"] + 1},
        read=lambda s: s["z"],
    )
    exam = quick(loop)
    assert exam.reachability.counts == {"settles": 12}
    assert not any(exam.reachability.arrived)
    assert exam.kind.told_by == "the state carries a counter"
    assert exam.spectrum is exam.basin is exam.normalized_axes is None
    assert exam.geometry == GeometryResult()
    assert exam.input_dependence.distinct is exam.input_dependence.variance is None


def test_a_random_step_is_refused():
    with pytest.raises(ls.LoopscopeError, match="the step is random"):
        quick(loop_of(lambda z, e: z / 2 + torch.randn_like(z)))


class Odometer:
    """The contraction, noting how far each orbit has gone: a state that no step returned begins one."""

    def __init__(self):
        self.travelled, self.longest = {}, 0

    def step(self, state, recalled):
        after = state @ COLD.T + recalled
        if not torch.is_grad_enabled():  # products with Jacobians evaluate the step too, and are no orbit
            for before, next_one, e in zip(state.tolist(), after.tolist(), recalled.tolist(), strict=True):
                steps = self.travelled.get((*before, *e), 0) + 1
                self.travelled[*next_one, *e] = steps
                self.longest = max(self.longest, steps)
        return after


@pytest.mark.parametrize("effort", ["quick", "standard"])
def test_no_orbit_in_prediction_mode_goes_further_than_training(effort, monkeypatch):
    """Products with the Jacobian at an orbit's end are allowed; the check that a step is not random looks there, too."""
    monkeypatch.setattr("loopscope.jacobian.check_step", lambda loop, state, recalled: None)
    odometer = Odometer()
    exam = ls.examine(loop_of(odometer.step), INPUTS, effort=effort, trained_iterations=7, prediction=True)
    assert odometer.longest == 7
    assert len(exam.curves.residual[1]) == exam.settings.iterations == 7
    assert exam.reachability.counts == {"undecided": 12}
    assert "Examine without prediction mode to decide; loopscope forecast (ls.forecast) tells" in exam.advice


def test_the_odometer_sees_longer_orbits():
    odometer = Odometer()
    quick(loop_of(odometer.step), trained_iterations=7)
    assert odometer.longest > 7


def test_thorough_looks_at_more_than_standard():
    many = torch.randn(40, 2, generator=torch.Generator().manual_seed(3))
    standard, thorough = (ls.examine(CONTRACTION, many, effort=e, iterations=60) for e in ("standard", "thorough"))
    for values in (
        lambda exam: exam.spectrum.radius,
        lambda exam: exam.geometry.gradients.growth,
        lambda exam: exam.input_dependence.distinct.own,
    ):
        assert len(values(thorough)) > len(values(standard)) > 0


def test_gradients_agree_with_the_spectrum_of_a_linear_map():
    exam = quick(loop_of(lambda z, e: 0.8 * z @ TURN.T + e))
    assert exam.geometry.gradients.agreement == pytest.approx([0.0] * 2, abs=1e-5)
    assert len(exam.geometry.gradients.growth) == 8


def test_behind_an_outer_normalization_the_radial_gain_is_near_zero():
    torch.manual_seed(0)
    config = {"width": 16, "heads": 2, "inputs": 3, "outputs": 2, "grid": (6,), "attention": "full"}
    outer, pre = (ls.LoopedTransformer(ls.LoopedTransformerConfig(norm=norm, **config)) for norm in ("outer", "pre"))
    with torch.no_grad():
        outer.outer_gain.uniform_(0.5, 2)
    inputs = torch.randn(4, 6, 3)
    assert pre.outer_gain is None
    assert max(quick(outer, inputs, iterations=10).geometry.radial_gain) < 1e-4
    assert min(quick(pre, inputs, iterations=10).geometry.radial_gain) > 0.1


@pytest.mark.parametrize("slow", ["swaps", "distinct fixed points", "basin", "spectrum", "gradients", "smoothness"])
def test_the_time_limit_ends_a_part_that_has_begun(slow, monkeypatch):
    """By a clock that goes on by three seconds with every step or product of one part."""
    clock, begun = SimpleNamespace(now=0.0), []

    def tick():
        clock.now += 3.0 if begun and begun[-1] == slow else 0.0
        return clock.now

    monkeypatch.setattr("loopscope.stability.parts.progress.time", SimpleNamespace(perf_counter=tick))
    exam = quick(CONTRACTION, iterations=500, time_limit=10, on_part=begun.append)
    assert exam.unknown[slow] == "the time limit of 10 s had passed"
    assert "orbits" not in exam.unknown


def test_the_time_limit_ends_the_window_that_tells_orbits_apart(monkeypatch):
    clock, calls = SimpleNamespace(now=0.0), []

    def step(z, e):
        calls.append(len(z))
        if len(calls) > 300:
            clock.now += 1.0
        return z @ TURN.T

    monkeypatch.setattr("loopscope.stability.parts.progress.time", SimpleNamespace(perf_counter=lambda: clock.now))
    exam = ls.examine(loop_of(step, start=torch.clone), INPUTS, iterations=120, time_limit=20)
    assert len(calls) < 330
    assert exam.reachability.counts == {"undecided": 12}


def test_when_time_is_over_the_report_has_what_was_measured():
    def slow(z, e):
        time.sleep(0.01)
        return z @ COLD.T + e

    exam = quick(loop_of(slow), iterations=500, time_limit=0.1)
    assert exam.seconds["total"] < 5
    assert sum(residual is not None for residual in exam.curves.residual[1]) > 0
    assert exam.unknown["orbits"].startswith("the time limit of 0.1 s had passed after ")
    assert exam.unknown["spectrum"] == "the time limit of 0.1 s had passed"
    assert exam.spectrum is None
    assert exam.verdict is ls.Verdict.UNDECIDED
    assert "not computed: orbits, swaps" in str(exam)


def test_iterations_bind_the_gradients_too():
    """However long training was: neither time nor memory goes beyond the budget of an orbit."""
    begun, steps = [], Counter()

    def step(z, e):
        steps[begun[-1] if begun else None] += 1
        return z @ COLD.T + e

    exam = quick(loop_of(step), trained_iterations=10**9, iterations=40, on_part=begun.append)
    assert steps["gradients"] <= 3 * 40 + 5  # three evaluations of each iteration, and a few checks
    assert len(exam.geometry.gradients.norms) == 40
    assert exam.settings.trained_iterations == 10**9
    early = quick(CONTRACTION, trained_iterations=10**9, iterations=40, prediction=True)
    assert early.settings.iterations == 40


def test_the_time_limit_binds_the_gradients_too(monkeypatch):
    """A step takes a second, by a clock of its own, once gradients are measured."""
    clock, begun = SimpleNamespace(now=0.0), []
    monkeypatch.setattr("loopscope.stability.parts.progress.time", SimpleNamespace(perf_counter=lambda: clock.now))

    def step(z, e):
        clock.now += 1.0 if begun and begun[-1] == "gradients" else 0.0
        return z @ COLD.T + e

    exam = quick(loop_of(step), trained_iterations=2000, iterations=2000, time_limit=10, on_part=begun.append)
    assert exam.unknown["gradients"] == "the time limit of 10 s had passed"
    assert clock.now <= 12
    assert exam.geometry.gradients is None
    assert exam.spectrum is not None


def test_prediction_mode_needs_to_know_how_far_training_went():
    with pytest.raises(ls.LoopscopeError, match="prediction needs trained_iterations"):
        quick(CONTRACTION, prediction=True)
    with pytest.raises(ls.LoopscopeError, match="trained_iterations is 0, expected a whole number above 0"):
        quick(CONTRACTION, prediction=True, trained_iterations=0)


@pytest.mark.parametrize("shape", [(12, 5), (5,), (50,), ()])
def test_targets_of_another_shape_are_refused(shape):
    with pytest.raises(ls.LoopscopeError, match=r"^targets have shape .*, expected .*$"):
        quick(CONTRACTION, targets=torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("ask", [quick, ls.forecast])
@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([0] * 12, "targets are of type list, expected a tensor"),
        (torch.full((12,), -100), "targets contain -100, expected classes from 0 to 1"),
        (torch.full((12,), 2), "targets contain 2, expected classes from 0 to 1"),
        (torch.full((12,), 0.5), "targets contain 0.5, expected class indices: whole numbers of at least 0"),
        (torch.full((12,), math.nan), "targets contain nan, expected class indices"),
        (
            lambda logits, rows: logits > 0,
            r"returned torch.bool of shape \(12, 2\), expected torch.bool of shape \(12,\)",
        ),
        (lambda logits, rows: torch.full((len(rows),), 0.5), "returned torch.float32 of shape"),
        (lambda logits, rows: True, "returned bool, expected"),
    ],
)
def test_targets_that_can_say_nothing_are_refused(ask, targets, said, unchecked):
    with pytest.raises(ls.LoopscopeError, match=said):
        ask(CONTRACTION, INPUTS, targets=targets)


def test_a_single_logit_has_the_classes_0_and_1():
    signs = loop_of(lambda z, e: z / 2 + e, read=lambda state: state[:, :1])
    with pytest.raises(ls.LoopscopeError, match="targets contain -1, expected classes from 0 to 1"):
        quick(signs, targets=2 * (INPUTS[:, 0] > 0) - 1)


def test_a_step_that_changes_its_state_is_refused():
    with pytest.raises(ls.LoopscopeError, match=r"shape \(2, 2\) into \(2, 1\)"):
        quick(loop_of(lambda z, e: z[:, :1]))
    with pytest.raises(ls.LoopscopeError, match="start and step must return states of the same"):
        quick(loop_of(lambda z, e: {"z": z}))

    with pytest.raises(ls.LoopscopeError, match="a state in float32 into float64: start and step must return states"):
        quick(loop_of(lambda z, e: (z / 2 + e).double()))
    with pytest.raises(ls.LoopscopeError, match=r"shape \(2, 2\) into None: "):
        quick(loop_of(lambda z, e: None))


@pytest.mark.parametrize("ask", [quick, ls.forecast])
def test_a_step_that_mixes_examples_is_refused(ask):
    """By its mean over the batch, by the statistics of a batch, by a tensor as large as the batch kept outside encode."""
    kept = INPUTS.clone()
    normalize = torch.nn.BatchNorm1d(2)
    for step, said in (
        (lambda z, e: 0.5 * z + e - 0.4 * z.mean(0), "the step mixes examples: a single one moves differently"),
        (lambda z, e: 0.5 * normalize(z) + e, r"the step mixes examples: a single one fails \(ValueError.*batch norm"),
        (lambda z, e: 0.5 * z + kept, r"the step fails on 2 of 12 examples \(RuntimeError.*must come from encode"),
    ):
        with pytest.raises(ls.LoopscopeError, match=said):
            ask(loop_of(step), INPUTS)


@pytest.mark.parametrize("ask", [quick, ls.forecast, ls.solve])
def test_a_mask_that_is_not_of_truth_values_is_refused(ask, unchecked):
    loop = replace(CONTRACTION, padding=lambda e: torch.ones(len(e), 2))
    with pytest.raises(ls.LoopscopeError, match=r"the mask is torch.float32, expected torch.bool.*\.bool\(\)"):
        ask(loop, INPUTS)


def test_a_state_of_complex_numbers_is_refused():
    turned = ls.FunctionLoop(torch.view_as_complex, torch.zeros_like, lambda z, e: 0.5j * z + e, torch.view_as_real)
    for ask in (quick, ls.forecast, ls.solve):
        with pytest.raises(ls.LoopscopeError, match="expected a state of real numbers, got complex ones"):
            ask(turned, INPUTS)


def test_what_is_no_loop_is_refused(unchecked):
    with pytest.raises(ls.LoopscopeError, match="got Linear, which lacks encode, start, step, read"):
        quick(torch.nn.Linear(2, 2))
    with pytest.raises(ls.LoopscopeError, match="got Linear, which lacks"):
        ls.solve(torch.nn.Linear(2, 2), INPUTS)


@pytest.mark.parametrize("option", [{"tolerance": 0.0}, {"iterations": 0}, {"effort": "quik"}, {"time_limit": 0.0}])
def test_options_out_of_range_are_refused(option, unchecked):
    with pytest.raises(ls.LoopscopeError, match="expected"):
        ls.examine(CONTRACTION, INPUTS, **option)


def test_the_model_is_left_as_it_was():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.dropout = torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)
            torch.nn.init.normal_(self.linear.weight, std=0.2)

        def encode(self, inputs):
            return inputs

        def start(self, recalled, generator=None):
            return torch.zeros_like(recalled)

        def step(self, state, recalled):
            return self.dropout(torch.tanh(self.linear(state) + recalled))

        def read(self, state):
            return state

    model = Model().train()
    model.linear.eval()
    model.linear.weight.grad = torch.ones(2, 2)
    before = torch.random.get_rng_state()
    exam = quick(model)
    assert exam.verdict is ls.Verdict.STABLE
    assert model.training
    assert model.dropout.training
    assert not model.linear.training
    assert torch.equal(model.linear.weight.grad, torch.ones(2, 2))
    assert model.linear.bias.grad is None
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_same_seed_gives_the_same_numbers():
    first, second = (quick(CONTRACTION, seed=3).to_dict() for _ in range(2))
    first.pop("seconds")
    second.pop("seconds")
    assert first == second


def test_an_examination_goes_through_json_and_back(tmp_path):
    exam = quick(CONTRACTION, targets=INPUTS.argmax(1))
    path = exam.save(tmp_path / "exam.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert ls.Examination.load(path) == exam
    assert ls.Examination.from_dict(json.loads(json.dumps(exam.to_dict()))) == exam


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"schema": 0}, "has schema 0, expected 2"),
        ({"verdict": "great"}, "damaged"),
        ({"curves": None}, "damaged"),
        ({"axes": []}, "damaged"),
        ({"surplus": 1}, "damaged"),
    ],
)
def test_a_damaged_examination_is_refused_in_one_line(damage, said, tmp_path):
    path = quick(CONTRACTION).save(tmp_path / "exam.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(ls.LoopscopeError, match=said) as refusal:
        ls.Examination.load(path)
    assert "\n" not in str(refusal.value)


def test_saving_goes_by_the_ending(tmp_path):
    exam = quick(CONTRACTION)
    page = exam.save(tmp_path / "exam.html").read_text().lower()
    assert page.startswith("<!doctype html>")
    assert "<strong>stable (provisional)</strong>" in page
    with pytest.raises(ls.LoopscopeError, match=r"ending is '.pdf', expected one of .json, .html"):
        exam.save(tmp_path / "exam.pdf")
    assert not (tmp_path / "exam.pdf").exists()


@pytest.mark.parametrize(("loop", "verdict"), [(DRIFT, "unstable"), (CONTRACTION, "stable")])
def test_the_terminal_report_fits_one_screen(loop, verdict):
    lines = str(quick(loop, iterations=400)).splitlines()
    assert len(lines) <= 24
    assert max(len(line) for line in lines) <= 120
    assert lines[0].startswith(verdict)


@pytest.mark.usefixtures("undrawn")
def test_a_report_names_the_models_behind_a_fitted_threshold(monkeypatch, tmp_path):
    exam = quick(CONTRACTION)
    arrived = replace(THRESHOLDS["fraction arrived"], origin=f"half of {TESTED_ON}")
    monkeypatch.setitem(THRESHOLDS, "fraction arrived", arrived)
    assert f"thresholds fitted on half of {TESTED_ON}: fraction arrived" in str(exam).splitlines()
    fitted = replace(THRESHOLDS["radius"], origin="90 models of prefix sums, width 64")
    monkeypatch.setitem(THRESHOLDS, "radius", fitted)
    lines = str(exam).splitlines()
    assert lines[0] == "stable (provisional: some of its thresholds are priors)"
    assert "thresholds fitted on 90 models of prefix sums, width 64: radius" in lines
    page = exam.save(tmp_path / "exam.html").read_text()
    assert "fitted on 90 models of prefix sums, width 64." in page
    assert "Provisional: some of its thresholds are priors" in page


def test_float64_stays_float64():
    exam = quick(loop_of(lambda z, e: z @ COLD.double().T + e), INPUTS.double())
    assert exam.settings.dtype == "float64"
    assert exam.curves.residual[1][-1] < 1e-14


WIDTH = 32
_RANDOM = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))
MATRIX = 0.68 * _RANDOM / torch.linalg.eigvals(_RANDOM).abs().max()
"""A linear map of spectral radius 0.68."""
WIDE = torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(1))


def in_bfloat16(z, e):
    """Return z A + e, computed in bfloat16 though state and input are float32."""
    return (z.bfloat16() @ MATRIX.bfloat16() + e.bfloat16()).to(e)


def norm_in_float32(z, e):
    """Return A z + e, normalized in float32 though state and input are float64."""
    before = (z @ (1.2 * MATRIX.double()) + e).float()
    return (before * (before.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(e)


def test_a_step_in_bfloat16_is_not_unstable_but_undecided_and_the_report_names_its_floor():
    exam = quick(loop_of(in_bfloat16), WIDE)
    assert exam.verdict is ls.Verdict.UNDECIDED
    assert set(exam.reachability.counts) <= {"fixed point", "undecided"}
    floor = exam.settings.noise_floor
    assert floor.precision == "bfloat16"
    assert 1e-3 < floor.residual < 5e-2
    assert exam.spectrum.radius == pytest.approx([0.68] * 2, rel=0.02)
    assert exam.spectrum.contradicted == [False] * 2
    assert "rounds like bfloat16" in exam.advice
    assert "Damp" not in exam.advice
    assert "the step rounds like bfloat16" in str(exam)


def test_the_tolerance_that_the_advice_names_decides_it():
    advice = quick(loop_of(in_bfloat16), WIDE).advice
    tolerance = float(advice.split("set the tolerance to ")[1].split()[0])
    exam = quick(loop_of(in_bfloat16), WIDE, tolerance=tolerance)
    assert exam.verdict is ls.Verdict.STABLE
    assert exam.reachability.counts == {"fixed point": 12}
    assert exam.input_dependence.distinct.common[-1] == 8


@pytest.mark.parametrize("tolerance", [1e-4, 1e-9])
def test_norms_in_float32_under_a_float64_state(tolerance):
    """Within the tolerance the floor is arrival; where it is above, it is named, and nothing is called a cycle."""
    exam = quick(loop_of(norm_in_float32), WIDE.double(), tolerance=tolerance)
    floor = exam.settings.noise_floor
    assert (exam.settings.dtype, floor.precision) == ("float64", "float32")
    assert 1e-8 < floor.residual < 2e-6
    if tolerance > floor.residual:
        assert exam.reachability.counts == {"fixed point": 12}
        assert exam.verdict is ls.Verdict.STABLE
    else:
        assert set(exam.reachability.counts) <= {"fixed point", "undecided"}
        assert f"above the tolerance of {tolerance:g}" in exam.advice


def test_a_step_as_precise_as_its_state_has_the_floor_of_its_type():
    exam = quick(CONTRACTION)
    assert exam.settings.noise_floor.precision == "float32"
    assert exam.settings.noise_floor.residual == pytest.approx(16 * torch.finfo(torch.float32).eps)
    assert "(residuals up to 1.9e-06 may be rounding)" in str(exam)


def test_what_moves_more_slowly_than_a_coarse_floor_has_not_arrived():
    """A drift of 1/t and a slow turn, both below the floor of the bfloat16 in their step, and below the tolerance."""

    def drift(z, e):
        return z + torch.nn.functional.normalize(e, dim=1).bfloat16().to(e)

    angle = torch.tensor(0.004)
    slow = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])

    def turn(z, e):
        noise = (1e4 * z).remainder(1) - 0.5
        return z @ slow.T + 2e-3 * noise * z.norm(dim=1, keepdim=True)

    drifting = quick(loop_of(drift), WIDE, tolerance=0.02, iterations=400)
    assert "fixed point" not in drifting.reachability.counts
    turning = quick(loop_of(turn, start=torch.clone), tolerance=0.03, iterations=400)
    assert max(turning.curves.residual[2][100:]) < turning.settings.noise_floor.residual < 0.03
    assert "fixed point" not in turning.reachability.counts


@pytest.mark.parametrize("limit", [{}, {"time_limit": 2.0}])
def test_more_iterations_than_can_be_recorded_are_refused_at_once(limit):
    with pytest.raises(
        ls.LoopscopeError, match=r"iterations is 1,000,000,000, expected at most 1,000,000 for these inputs"
    ):
        quick(CONTRACTION, iterations=10**9, **limit)
    with pytest.raises(ls.LoopscopeError, match=r"expected at most 88,417 for these inputs"):
        quick(loop_of(lambda z, e: z / 2 + e), torch.ones(12, 500, 2), iterations=100_000)
