"""Examinations of loops whose behaviour is known, and of what must be left as it was."""

import json
import math

import pytest
import torch

import loopscope as ls
from loopscope.stability.verdict import THRESHOLDS, Axis, Status, judge, verdict

COLD = torch.tensor([[0.5, 0.2], [-0.2, 0.4]])
ANGLE = 1.0
TURN = torch.tensor([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])
INPUTS = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))


def loop_of(step, read=lambda state: state, start=torch.zeros_like):
    return ls.FunctionLoop(encode=lambda inputs: inputs, start=start, step=step, read=read)


CONTRACTION = loop_of(lambda z, e: z @ COLD.T + e)


def quick(loop, inputs=INPUTS, **options):
    return ls.examine(loop, inputs, effort="quick", iterations=options.pop("iterations", 120), **options)


def test_a_contraction_with_input_keeps_its_answer():
    exam = ls.examine(CONTRACTION, INPUTS, iterations=120)
    assert exam.verdict is ls.Verdict.KEEPS_ITS_ANSWER
    assert exam.provisional
    assert not exam.unknown
    radius = torch.linalg.eigvals(COLD).abs().max().item()
    assert exam.spectrum["radius"] == pytest.approx([radius] * 8, rel=1e-4)
    resolvent = torch.linalg.svdvals(torch.linalg.inv(torch.eye(2) - COLD)).max().item()
    assert exam.geometry["resolvent"] == pytest.approx([resolvent] * 8, rel=1e-2)
    assert exam.geometry["lipschitz"] == pytest.approx([resolvent] * 8, rel=1e-2)
    assert exam.input_dependence["distinct_common"][-1] == 12
    assert exam.input_dependence["variance"]["share"] == pytest.approx(1, abs=1e-3)


def test_right_targets_make_it_extrapolate_and_wrong_ones_do_not():
    fixed = INPUTS @ torch.linalg.inv(torch.eye(2) - COLD).T
    assert quick(CONTRACTION, targets=fixed.argmax(1)).verdict is ls.Verdict.EXTRAPOLATES
    wrong = quick(CONTRACTION, targets=fixed.argmin(1))
    assert wrong.verdict is ls.Verdict.KEEPS_ITS_ANSWER
    assert "0% of these answers are right" in wrong.advice
    assert wrong.curves.accuracy[-1] == 0


def test_without_recall_the_answer_is_shared():
    exam = quick(loop_of(lambda z, e: z @ COLD.T, start=torch.clone))
    assert exam.verdict is ls.Verdict.SHARED_ANSWER
    assert exam.input_dependence["distinct_common"][-1] == 1
    assert "recall" in exam.advice


def test_an_expanding_map_diverges():
    exam = quick(loop_of(lambda z, e: 3 * z + e), iterations=200)
    assert exam.verdict is ls.Verdict.UNSTABLE
    assert exam.reachability["counts"] == {"diverging": 12}
    assert exam.axes[2].status is Status.UNKNOWN


def test_a_rotation_never_arrives():
    exam = quick(loop_of(lambda z, e: z @ TURN.T, start=torch.clone))
    assert not any(exam.reachability["arrived"])
    assert exam.verdict in (ls.Verdict.UNSTABLE, ls.Verdict.UNKNOWN)
    assert exam.spectrum["radius"] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert exam.spectrum["at_fixed_point"] == [False, False]


def test_a_drift_is_judged_by_its_directions_too():
    exam = quick(loop_of(lambda z, e: z + torch.nn.functional.normalize(e, dim=1)), iterations=400)
    assert exam.reachability["counts"] == {"drift": 12}
    assert exam.verdict is ls.Verdict.UNSTABLE
    assert "norm grows" in exam.advice
    assert exam.normalized_axes is not None


def test_a_counter_leaves_only_orbits():
    loop = ls.FunctionLoop(
        encode=lambda inputs: inputs,
        start=lambda e: {"z": torch.zeros_like(e), "t": torch.zeros(len(e), dtype=torch.int64)},
        step=lambda s, e: {"z": 0.5 * s["z"] + e, "t": s["t"] + 1},
        read=lambda s: s["z"],
    )
    exam = quick(loop)
    assert exam.reachability["counts"] == {"fixed point": 12}
    assert exam.spectrum == {}
    assert "counter" in exam.unknown["spectrum"]
    assert exam.verdict is ls.Verdict.UNKNOWN


def test_a_random_step_is_refused():
    with pytest.raises(ls.LoopscopeError, match="the step is random"):
        quick(loop_of(lambda z, e: z / 2 + torch.randn_like(z)))


def test_a_forecast_goes_no_further_than_training():
    steps = []

    def step(state, recalled):
        if not torch.is_grad_enabled():
            steps.append(len(state))
        return state @ COLD.T + recalled

    exam = quick(loop_of(step), trained_iterations=7, prediction=True)
    assert len(exam.curves.residual[0]) == 7
    assert exam.settings["iterations"] == 7
    # Orbits: the inputs' own, two swaps, a common start, three kinds of basin starts, the portrait's two; two more steps
    # see that the step is not random.
    assert len(steps) <= 9 * 7 + 2
    with pytest.raises(ls.LoopscopeError, match="trained_iterations"):
        quick(CONTRACTION, prediction=True)


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ls.LoopscopeError, match="targets have shape"):
        quick(CONTRACTION, targets=torch.zeros(12, 5, dtype=torch.int64))


@pytest.mark.parametrize("option", [{"tolerance": 0.0}, {"iterations": 0}, {"effort": "quik"}])
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
    assert exam.verdict is ls.Verdict.KEEPS_ITS_ANSWER
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
    assert ls.Examination.load(path).to_dict() == exam.to_dict()
    values = exam.to_dict()
    with pytest.raises(ls.LoopscopeError, match="schema 0"):
        ls.Examination.from_dict({**values, "schema": 0})
    values.pop("curves")
    with pytest.raises(ls.LoopscopeError, match="damaged"):
        ls.Examination.from_dict(values)
    with pytest.raises(ls.LoopscopeError, match=r"expected one of .json, .html"):
        exam.save(tmp_path / "exam.pdf")


def test_the_terminal_report_fits_one_screen():
    lines = str(quick(loop_of(lambda z, e: z + torch.nn.functional.normalize(e, dim=1)), iterations=400)).splitlines()
    assert len(lines) <= 24
    assert lines[0].startswith("unstable")


def test_float64_stays_float64():
    exam = quick(loop_of(lambda z, e: z @ COLD.double().T + e), INPUTS.double())
    assert exam.settings["dtype"] == "float64"
    assert exam.curves.residual[1][-1] < 1e-14


def axis(status):
    return Axis("any", status, {}, "")


@pytest.mark.parametrize(
    ("reach", "depends", "smooth", "accuracy", "expected"),
    [
        ("holds", "holds", "holds", 0.95, "extrapolates"),
        ("holds", "holds", "holds", None, "keeps its answer"),
        ("holds", "holds", "holds", 0.2, "keeps its answer"),
        ("holds", "fails", "holds", 0.95, "shared answer"),
        ("holds", "fails", "fails", None, "shared answer"),
        ("holds", "holds", "fails", 0.95, "fragile"),
        ("fails", "holds", "holds", 0.95, "unstable"),
        ("borderline", "holds", "holds", 0.95, "unknown"),
        ("unknown", "fails", "fails", None, "unknown"),
        ("holds", "unknown", "holds", None, "unknown"),
        ("holds", "holds", "borderline", None, "unknown"),
    ],
)
def test_axes_add_up_to_a_verdict(reach, depends, smooth, accuracy, expected):
    found = verdict(axis(Status(reach)), axis(Status(depends)), axis(Status(smooth)), accuracy)
    assert found.value == expected


@pytest.mark.parametrize("measure", list(THRESHOLDS))
def test_a_threshold_holds_at_its_own_values(measure):
    limit = THRESHOLDS[measure]
    assert limit.status(limit.holds) is Status.HOLDS
    assert limit.status(limit.fails) is Status.FAILS
    assert limit.status((limit.holds + limit.fails) / 2) is Status.BORDERLINE
    assert limit.status(None) is Status.UNKNOWN
    assert limit.status(math.nan) is Status.UNKNOWN


def test_an_axis_fails_by_its_worst_number():
    assert judge("geometry", {"radius": 0.5, "relative Lipschitz constant": 1e9}, "").status is Status.FAILS
    assert judge("geometry", {"radius": 0.5, "relative Lipschitz constant": None}, "").status is Status.UNKNOWN
    assert judge("geometry", {"radius": 0.5, "relative Lipschitz constant": 1.0}, "").status is Status.HOLDS
