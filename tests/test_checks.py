"""Every verb refuses what it cannot measure, in one line that names the true cause."""

import dataclasses
import random
from collections import UserDict
from typing import NamedTuple

import numpy
import pytest
import torch
from torch import Tensor, nn

import loopscope as ls
from loopscope.checks import (
    check_answers,
    check_finite,
    check_is_loop,
    check_outputs_last,
    check_start_repeats,
    prepare,
    prepare_states,
)
from loopscope.contexts import seeded
from loopscope.errors import LoopscopeError
from loopscope.fixed_points import Implicit, Truncated, fixed_point
from loopscope.forecasts.leaps import leaps

INPUTS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def loop_of(step=lambda z, e: z / 2 + e, start=torch.zeros_like, read=lambda z: z, encode=lambda x: x, **extra):
    return ls.FunctionLoop(encode, start, step, read, **extra)


def spectral_radius(loop, inputs):
    recalled = loop.encode(inputs)
    return ls.spectral_radius(loop, loop.start(recalled), recalled)


def top_eigenvalues(loop, inputs):
    recalled = loop.encode(inputs)
    return ls.top_eigenvalues(loop, loop.start(recalled), recalled, 2)


ON_INPUTS = {
    "examine": lambda loop, inputs: ls.examine(loop, inputs, effort="quick", iterations=40),
    "forecast": ls.forecast,
    "solve": ls.solve,
}
WITHOUT_STEPS = {**ON_INPUTS, "fixed_point": lambda loop, inputs: fixed_point(loop, inputs, gradient=Implicit())}
ON_STATES = {"spectral_radius": spectral_radius, "top_eigenvalues": top_eigenvalues}
ON_RECALLED = {"leaps": lambda loop, inputs: leaps(loop, loop.encode(inputs))}


def named(verbs):
    return pytest.mark.parametrize("verb", verbs.values(), ids=verbs)


@named({**WITHOUT_STEPS, **ON_RECALLED, "radius": lambda loop, inputs: ls.spectral_radius(loop, inputs, inputs)})
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "got NoneType, which lacks encode, start, step, read"),
        (nn.Linear(2, 2), "got Linear, which lacks encode, start, step, read"),
        (ls.FunctionLoop, "got the class FunctionLoop: make an instance of it first"),
    ],
    ids=["None", "module", "class"],
)
def test_what_is_not_a_loop_is_refused_by_every_verb(verb, given, said, unchecked):
    if verb is ON_RECALLED["leaps"]:
        verb = lambda loop, inputs: leaps(loop, inputs)  # noqa: E731
    with pytest.raises(LoopscopeError, match=said):
        verb(given, INPUTS)


def test_a_module_with_padding_in_place_of_mask_is_refused():
    class Padded(nn.Module):
        def encode(self, inputs):
            return inputs

        def start(self, recalled):
            return torch.zeros_like(recalled)

        def step(self, state, recalled):
            return state / 2 + recalled

        def read(self, state):
            return state

        def padding(self, recalled):
            return recalled[:, :, 0] != 0

    with pytest.raises(LoopscopeError, match=r"Padded has a method padding, which is ignored: rename it to mask"):
        ls.solve(Padded(), INPUTS[:, :, None])
    Padded.mask = Padded.padding
    check_is_loop(Padded())


@named({**WITHOUT_STEPS, **ON_STATES, **ON_RECALLED})
def test_an_empty_batch_is_refused_by_every_verb(verb):
    with pytest.raises(LoopscopeError, match="the batch is empty"):
        verb(loop_of(), INPUTS[:0])


@named({**WITHOUT_STEPS, **ON_STATES, **ON_RECALLED})
def test_states_whose_batch_is_second_are_refused_by_every_verb(verb):
    """As those of nn.GRU: one layer first."""
    with pytest.raises(
        LoopscopeError, match=r"got 1 states for 4 inputs: the batch is the second dimension; transpose"
    ):
        verb(loop_of(start=lambda e: e[None] * 0), INPUTS)


@named({**ON_INPUTS, **ON_RECALLED})
def test_a_first_state_that_is_not_finite_is_refused_by_every_verb(verb):
    def start(e):
        return torch.where(torch.arange(4)[:, None] >= 2, torch.nan, e)

    with pytest.raises(
        LoopscopeError, match="the first state of input 2 and 1 more contains NaN, expected finite numbers"
    ):
        verb(loop_of(start=start), INPUTS)
    with pytest.raises(LoopscopeError, match="the first state of input 0 and 3 more contains infinity"):
        verb(loop_of(start=lambda e: e / 0), INPUTS)


def test_padding_may_hold_what_is_not_finite():
    state = INPUTS[:, :, None].clone()
    mask = torch.tensor([[True, True, False]] * 4)
    state[:, 2] = torch.nan
    check_finite(state, mask)


class Caching:
    """Attention that appends to a cache, as a language model with use_cache=True does."""

    def __init__(self):
        self.cache = []

    def step(self, state, recalled):
        self.cache.append(state)
        return torch.stack(self.cache).mean(0) / 2 + recalled


class Growing(Caching):
    def step(self, state, recalled):
        self.cache.append(recalled)
        mask = torch.zeros(len(state), 1) if len(self.cache) == 1 else torch.zeros(len(state), 3)
        return state / 2 + torch.stack(self.cache, 1).mean(2) * mask


def counting():
    calls = []

    def step(state, recalled):
        calls.append(1)
        return state / 2 + len(calls) * recalled

    return step


REMEMBERING = {
    "counter": counting,
    "cache": lambda: Caching().step,
    "cache of another shape": lambda: Growing().step,
    "own generator": lambda: (
        lambda z, e, own=torch.Generator(): z / 2 + e + torch.randn(z.shape, generator=own)  # noqa: B008
    ),
}


@named(ON_INPUTS)
@pytest.mark.parametrize("make", REMEMBERING.values(), ids=REMEMBERING)
@pytest.mark.parametrize("batch", [1, 4])
def test_a_step_that_remembers_is_told_from_a_random_one(verb, make, batch):
    with pytest.raises(
        LoopscopeError, match=r"when it is called again.*it remembers earlier calls \(a counter, a cache"
    ):
        verb(loop_of(make()), INPUTS[:batch])


RANDOM = {
    "dropout": lambda z, e: torch.nn.functional.dropout(z, 0.5) / 2 + e,
    "torch": lambda z, e: z / 2 + e + 1e-3 * torch.randn_like(z),
    "numpy": lambda z, e: z / 2 + e * numpy.random.rand(),  # noqa: NPY002
    "python": lambda z, e: z / 2 + e * random.random(),
}


@named(ON_INPUTS)
@pytest.mark.parametrize("step", RANDOM.values(), ids=RANDOM)
@pytest.mark.parametrize("batch", [1, 4])
def test_a_random_step_is_called_random_though_its_first_state_is_zero(verb, step, batch):
    with pytest.raises(LoopscopeError, match=r"the step is random.*module=model"):
        verb(loop_of(step), INPUTS[:batch])


@pytest.mark.usefixtures("unchecked")
def test_every_global_random_state_is_left_as_it_was():
    def drawn():
        return torch.rand(1).item(), numpy.random.rand(), random.random()  # noqa: NPY002

    with seeded(3, torch.device("cpu")):
        expected = drawn()
    with seeded(7, torch.device("cpu")):
        before = drawn()
        with seeded(3, torch.device("cpu")):
            assert drawn() == expected
        after = drawn()
    with seeded(7, torch.device("cpu")):
        assert (drawn(), drawn()) == (before, after)


@named({**ON_INPUTS, **ON_STATES})
def test_a_step_that_writes_over_the_recalled_input_is_refused(verb):
    with pytest.raises(LoopscopeError, match="the step writes over the recalled input that it is given"):
        verb(loop_of(lambda z, e: z / 2 + e.mul_(0.5)), INPUTS.clone())


@named(ON_INPUTS)
def test_an_assertion_on_the_batch_size_is_named(verb):
    def step(state, recalled):
        assert len(state) == 4, "batch must be 4"
        return state / 2 + recalled

    with pytest.raises(LoopscopeError, match=r"the step fails on 2 of 4 examples \(AssertionError: batch must be 4"):
        verb(loop_of(step), INPUTS)


@named(ON_INPUTS)
def test_an_unseeded_start_is_refused(verb):
    loop = loop_of(start=lambda e: torch.randn(e.shape))
    with pytest.raises(LoopscopeError, match=r"start draws from the global random state.*generator=generator"):
        verb(loop, INPUTS)
    seeded = loop_of(start=lambda e, generator: torch.randn(e.shape, generator=generator))
    verb(seeded, INPUTS)


def test_a_second_parameter_with_a_default_is_no_generator():
    recalled = torch.ones(2, 3)
    loop = loop_of(start=lambda e, scale=2.0: scale * e)
    check_start_repeats(loop, recalled, 0)
    assert torch.equal(prepare(loop, recalled).start, 2 * recalled)
    by_name = loop_of(start=lambda e, scale=2.0, generator=None: torch.randn(e.shape, generator=generator) * scale)
    assert not torch.equal(prepare(by_name, recalled, seed=1).start, prepare(by_name, recalled, seed=2).start)


class Plain(nn.Module):
    """A loop whose start takes the recalled input alone, as the protocol allows."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.5)

    def encode(self, inputs: Tensor) -> Tensor:
        return inputs

    def start(self, recalled: Tensor) -> Tensor:
        return torch.zeros_like(recalled)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        return torch.tanh(self.mix(self.drop(state)) + recalled)

    def read(self, state: Tensor) -> Tensor:
        return state


@named({**WITHOUT_STEPS, **ON_RECALLED})
def test_a_module_whose_start_takes_no_generator_is_a_loop(verb):
    verb(Plain().eval(), INPUTS)


@named(ON_INPUTS)
def test_the_modules_of_a_function_loop_are_put_in_eval_mode_and_back(verb):
    model = Plain().train()
    named_one = loop_of(lambda z, e: model.step(z, e), module=model)
    verb(named_one, INPUTS)
    verb(ls.FunctionLoop(model.encode, model.start, model.step, model.read), INPUTS)
    assert all(part.training for part in model.modules())
    with pytest.raises(LoopscopeError, match="the step is random"):
        verb(loop_of(lambda z, e: model.step(z, e)), INPUTS)


def test_a_function_loop_with_a_module_is_measured_in_double_precision():
    model = Plain().eval()
    loop = loop_of(lambda z, e: model.step(z, e), module=model)
    state = ls.solve(loop, INPUTS).state
    found = ls.spectral_radius(loop, state, INPUTS, dtype=torch.float64)
    twin = ls.spectral_radius(model, state, INPUTS, dtype=torch.float64)
    assert torch.equal(found.eigenvalue, twin.eigenvalue)
    assert model.mix.weight.dtype == torch.float32
    with pytest.raises(
        LoopscopeError, match=r"the step does not run in float64 .*FunctionLoop\(\.\.\., module=model\)"
    ):
        ls.spectral_radius(loop_of(lambda z, e: model.step(z, e)), state, INPUTS, dtype=torch.float64)


@dataclasses.dataclass
class Carry:
    high: Tensor
    low: Tensor
    note: str | None = None


class Pair(NamedTuple):
    high: Tensor
    low: Tensor


def carried(kind):
    return ls.FunctionLoop(
        encode=lambda x: {"e": x, "nothing": None, "count": 3},
        start=lambda e: kind(torch.zeros_like(e["e"]), torch.zeros_like(e["e"])),
        step=lambda z, e: kind(z.high / 2 + e["e"], z.low / 2 + z.high),
        read=lambda z: z.low,
    )


@named({**WITHOUT_STEPS, **ON_STATES, **ON_RECALLED})
@pytest.mark.parametrize("kind", [Carry, Pair])
def test_dataclasses_and_named_tuples_are_states_and_none_is_recalled(verb, kind):
    verb(carried(kind), INPUTS)


@named({**WITHOUT_STEPS, **ON_RECALLED})
def test_other_mappings_are_inputs(verb):
    loop = loop_of(
        encode=lambda x: UserDict(e=x["a"], b=x["b"]), start=lambda e: e["e"] * 0, step=lambda z, e: z / 2 + e["e"]
    )
    verb(loop, UserDict(a=INPUTS, b=torch.arange(4)))


@pytest.mark.parametrize("verb", [ls.examine, ls.forecast, ls.solve])
@pytest.mark.parametrize(
    ("start", "said"),
    [
        (lambda e: None, "start returned None: expected torch tensors, batch first"),
        (lambda e: 0.0, "start returned float: expected torch tensors"),
        (lambda e: numpy.zeros((4, 3)), "start returned ndarray: expected torch tensors"),
        (lambda e: torch.arange(4), r"the state has no floating tensor \(int64\)"),
        (lambda e: e.half(), "expected a state in float32 or float64, got .*float16"),
    ],
)
def test_states_of_other_kinds_are_refused_by_name(verb, start, said, unchecked):
    with pytest.raises(LoopscopeError, match=said):
        verb(loop_of(start=start), INPUTS)


@named({**ON_INPUTS, **ON_STATES})
def test_a_constant_integer_leaf_is_context_and_no_clock(verb):
    loop = ls.FunctionLoop(
        encode=lambda x: x,
        start=lambda e: {"z": torch.zeros_like(e), "ids": torch.arange(len(e)), "flag": e[:, 0] > 0},
        step=lambda z, e: {**z, "z": z["z"] / 2 + e},
        read=lambda z: z["z"],
    )
    found = verb(loop, INPUTS)
    if isinstance(found, ls.Examination):
        assert not any("counter" in reason for reason in found.unknown.values())
        assert found.axes[2].numbers["radius"] == pytest.approx(0.5)
    else:
        assert found is not None
    assert ls.solve(loop, INPUTS, solver=ls.Anderson()).arrived.all()


def test_encoders_that_change_the_batch_are_refused():
    with pytest.raises(LoopscopeError, match=r"encode returned 8 examples for 4 inputs"):
        ls.solve(loop_of(encode=lambda x: torch.cat([x, x])), INPUTS)
    with pytest.raises(LoopscopeError, match=r"encode returned None: expected torch tensors"):
        ls.solve(loop_of(encode=lambda x: None), INPUTS)


READOUTS = {
    "no outputs": (lambda z: z[:, :0], r"\(4, 0\), which has no outputs"),
    "bool": (lambda z: z > 0, r"\(4, 3\) of bool, .*return logits"),
    "integers": (lambda z: z.long(), r"\(4, 3\) of int64, .*return logits"),
    "tuple": (lambda z: (z, z), "read returned tuple, expected a tensor"),
    "fewer rows": (lambda z: z[:2], r"read returned a tensor of shape \(2, 3\)"),
}


@named(ON_INPUTS)
@pytest.mark.parametrize(("read", "said"), READOUTS.values(), ids=READOUTS)
def test_readouts_that_are_no_logits_are_refused_by_every_verb(verb, read, said, unchecked):
    with pytest.raises(LoopscopeError, match=said):
        verb(loop_of(read=read), INPUTS)


@named(ON_INPUTS)
def test_readouts_in_half_precision_are_read(verb):
    for dtype in (torch.bfloat16, torch.float16):
        verb(loop_of(read=lambda z, dtype=dtype: z.to(dtype)), INPUTS)


def test_logits_whose_outputs_come_first_are_told_by_the_state():
    state = torch.zeros(8, 81, 64)
    with pytest.raises(LoopscopeError, match=r"\(8, 10, 81\) for a state of shape \(8, 81, 64\): outputs come last"):
        check_outputs_last(torch.zeros(8, 10, 81), state)
    with pytest.raises(LoopscopeError, match="outputs come last"):
        check_outputs_last(torch.zeros(8, 3, 9, 9), torch.zeros(8, 32, 9, 9))
    for logits in ((8, 81, 10), (8, 81, 81), (8, 10), (8, 7, 10), (8, 9, 9, 10)):
        check_outputs_last(torch.zeros(logits), state)


@pytest.mark.parametrize("verb", [ls.examine, ls.forecast])
def test_channel_first_logits_are_refused_unless_it_is_said_what_is_answered(verb):
    loop = loop_of(read=lambda z: z.mT[:, :2])
    inputs = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1))
    with pytest.raises(LoopscopeError, match="outputs come last"):
        verb(loop, inputs)
    verb(loop, inputs, answers=lambda logits: logits.argmax(1))


@pytest.mark.parametrize("verb", [ls.examine, ls.forecast])
@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            lambda logits: logits.argmax(),
            r"answers returned shape \(\), expected a tensor with one row per input \(4 rows\)",
        ),
        (lambda logits: logits.argmax(1)[:3], r"answers returned shape \(3,\)"),
        (lambda logits: logits.argmax(1).tolist(), "answers returned list"),
    ],
)
def test_answers_that_are_not_one_row_an_input_are_refused(verb, answers, said, unchecked):
    with pytest.raises(LoopscopeError, match=said):
        verb(loop_of(), INPUTS, answers=answers)
    assert check_answers(lambda logits: logits.argmax(1), INPUTS).shape == (4,)


@pytest.mark.parametrize("verb", [ls.examine, ls.forecast])
@pytest.mark.parametrize("wrong", [0.5, torch.nan])
def test_targets_that_are_no_classes_are_refused(verb, wrong):
    targets = torch.tensor([0.0, 1.0, wrong, 2.0])
    with pytest.raises(LoopscopeError, match=f"targets contain {wrong}, expected class indices"):
        verb(loop_of(), INPUTS, targets)
    verb(loop_of(), INPUTS, torch.tensor([0.0, 1.0, 1.0, 2.0]))


MASKS = {
    "scalar": (lambda e: torch.tensor(True), r"the mask has shape \(\)"),
    "all false": (lambda e: e[:, :, 0] > 9, "the mask of input 0 is false everywhere"),
}


@named({**ON_INPUTS, **ON_STATES, **ON_RECALLED})
@pytest.mark.parametrize(("padding", "said"), MASKS.values(), ids=MASKS)
def test_masks_without_a_real_token_are_refused(verb, padding, said, unchecked):
    with pytest.raises(LoopscopeError, match=said):
        verb(loop_of(padding=padding), INPUTS[:, :, None])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("verb", [ls.examine, ls.forecast, ls.solve])
@pytest.mark.parametrize("seed", [1.5, None, 2**64, True, "x"])
def test_seeds_are_whole_numbers_that_generators_take(verb, seed):
    with pytest.raises(LoopscopeError, match=f"seed is .*{seed}.*, expected a whole number"):
        verb(loop_of(), INPUTS, seed=seed)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "measure", [ls.spectral_radius, lambda *args, **options: ls.top_eigenvalues(*args, 2, **options)]
)
@pytest.mark.parametrize("option", [{"seed": 1.5}, {"tolerance": "x"}, {"max_products": True}, {"subspace": 2.5}])
def test_options_of_spectra_are_checked(measure, option):
    (name,) = option
    with pytest.raises(LoopscopeError, match=f"^{name} is"):
        measure(loop_of(), INPUTS, INPUTS, **option)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("verb", [ls.examine, ls.solve])
def test_tolerances_are_numbers(verb):
    for tolerance in ("x", 1000, True, None):
        with pytest.raises(LoopscopeError, match="tolerance is"):
            verb(loop_of(), INPUTS, tolerance=tolerance)
    with pytest.raises(LoopscopeError, match="iterations is True, expected a whole number"):
        ls.examine(loop_of(), INPUTS, iterations=True)


TASK = ls.PrefixSums(train_bits=6, test_bits=(6,), strings=20, test_strings=12)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"start": lambda e: e[:3]}, "got 3 states for 4 inputs"),
        ({"read": lambda z: z[:, :, :0]}, "which has no outputs"),
        ({"read": lambda z: (z, z)}, "read returned tuple"),
        ({"padding": lambda e: e[:, :, 0] > 9}, "is false everywhere"),
        ({"step": lambda z, e: z / 2 + e - z.mean(0)}, "the step mixes examples"),
        ({"step": lambda z, e: z / 2 + e + torch.rand_like(z)}, "the step is random"),
    ],
)
def test_evaluation_refuses_what_the_other_verbs_refuse(changed, said, unchecked):
    pair = {"read": lambda z: torch.cat([z, -z], -1)}
    config = ls.EvaluationConfig(iterations=3, examples=12, until_settled=True)
    ls.evaluate(loop_of(**pair), TASK, config)
    with pytest.raises(LoopscopeError, match=said):
        ls.evaluate(loop_of(**{**pair, **changed}), TASK, config)
    with pytest.raises(LoopscopeError, match="got NoneType, which lacks encode"):
        ls.evaluate(None, TASK, config)


def test_prepare_states_takes_no_step_and_keeps_the_graph_of_what_is_recalled():
    def step(state, recalled):
        raise AssertionError("no step")

    weight = torch.ones(3, requires_grad=True)
    ready = prepare_states(loop_of(step, encode=lambda x: x * weight), INPUTS)
    assert ready.recalled.requires_grad
    assert not ready.start.requires_grad
    assert ready.time_dependent is None


def test_training_goes_on_where_states_are_not_finite():
    """A training that diverges is told by its loss; solving for a fixed point only reports it."""
    found = []
    loop = loop_of(start=lambda e: e / 0)
    state = fixed_point(loop, INPUTS, gradient=Truncated(), report=found.append)
    assert not state.isfinite().any()
    assert not (found[0].residual <= 1e-4).any()
