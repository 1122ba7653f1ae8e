"""The loop protocol: wrapping functions, trees, and the check for randomness."""

import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import loopscope as ls
from loopscope.checks import check_mask, check_read, check_step
from loopscope.errors import LoopscopeError, nearest
from loopscope.loop import FunctionLoop, Loop, first_state, is_time_dependent, iterate, mask_of, readout
from loopscope.trees import (
    batch_size,
    binary_scale,
    flatten,
    floating_leaves,
    has_clock,
    join,
    leaves,
    masks_aside,
    masks_back,
    norms,
    scaled_norm,
    select,
    token_norms,
    tree_map,
    unflatten,
    where,
)


def halving() -> FunctionLoop:
    """z -> z/2 + e, whose fixed point is 2e."""
    return FunctionLoop(
        encode=lambda inputs: inputs,
        start=lambda recalled: torch.zeros_like(recalled),
        step=lambda state, recalled: state / 2 + recalled,
        read=lambda state: state,
    )


def nested(batch: int = 3) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "high": torch.randn(batch, 4, 5, generator=generator),
        "pair": (torch.randn(batch, 4, 2, generator=generator), torch.arange(batch)),
    }


def test_function_loop_is_a_loop_and_iterates_by_its_closed_form():
    loop = halving()
    assert isinstance(loop, Loop)
    recalled = loop.encode(torch.tensor([[1.0], [-3.0]]))
    for iterations in range(6):
        state = iterate(loop, loop.start(recalled), recalled, iterations)
        torch.testing.assert_close(state, 2 * recalled * (1 - 0.5**iterations))


def test_a_start_receives_a_generator_if_it_takes_one():
    recalled = torch.ones(2, 3)
    torch.testing.assert_close(first_state(halving(), recalled), torch.zeros(2, 3))
    random = FunctionLoop(
        encode=lambda inputs: inputs,
        start=lambda recalled, generator: torch.randn(recalled.shape, generator=generator),
        step=lambda state, recalled: state,
        read=lambda state: state,
    )
    one, same, other = (first_state(random, recalled, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_mask_is_optional():
    recalled = torch.ones(2, 3)
    assert mask_of(halving(), recalled) is None
    padded = FunctionLoop(lambda x: x, lambda e: e, lambda z, e: z, lambda z: z, padding=lambda e: e > 0)
    assert torch.equal(mask_of(padded, recalled), torch.ones(2, 3, dtype=torch.bool))


def test_a_mask_that_fits_no_part_of_the_state_is_refused():
    state = nested()
    padded = FunctionLoop(lambda x: x, lambda e: e, lambda z, e: z, lambda z: z, padding=lambda e: e > 0)
    check_mask(halving(), state, torch.ones(3, 7))
    check_mask(padded, state, torch.ones(3, 4))
    with pytest.raises(LoopscopeError, match=r"the mask has shape \(3, 7\).* \(shapes \(3, 4, 5\).*\(batch, tokens\)$"):
        check_mask(padded, state, torch.ones(3, 7))


@pytest.mark.parametrize("verb", [ls.examine, ls.forecast, ls.solve])
def test_every_verb_refuses_a_mask_that_fits_no_part_of_the_state(verb):
    """A mask of the tokens, though the state has one vector per input: padding would have counted, unsaid."""
    pooled = FunctionLoop(
        lambda x: x,
        lambda e: torch.zeros(len(e), 2),
        lambda z, e: z / 2 + e.mean(1),
        lambda z: z,
        padding=lambda e: e[:, :, 0] != 0,
    )
    with pytest.raises(LoopscopeError, match="fits no tensor of the state"):
        verb(pooled, torch.ones(3, 5, 2))


ARRAYS = numpy.ones((3, 2))


@pytest.mark.parametrize("verb", [ls.examine, ls.forecast, ls.solve])
@pytest.mark.parametrize(
    ("inputs", "kind"), [(ARRAYS, "ndarray"), ([[1.0], [2.0]], "float"), ({"x": torch.ones(3), "y": ARRAYS}, "ndarray")]
)
def test_every_verb_asks_for_tensors_where_arrays_or_lists_are_given(verb, inputs, kind):
    with pytest.raises(LoopscopeError, match=f"expected torch tensors, batch first, got {kind}: convert with torch"):
        verb(halving(), inputs)


def test_a_start_of_arrays_is_refused():
    with pytest.raises(LoopscopeError, match="got ndarray"):
        ls.solve(halving(), torch.ones(3, 2), start=ARRAYS)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("verb", [ls.examine, ls.forecast])
@pytest.mark.parametrize("count", [2.5, 3.0, "3", 0])
def test_iterations_of_training_are_a_whole_number(verb, count):
    with pytest.raises(LoopscopeError, match=f"trained_iterations is {count!r}, expected a whole number above 0"):
        verb(halving(), torch.ones(3, 2), None, count)


@pytest.mark.parametrize("count", [2.5, True])
@pytest.mark.usefixtures("unchecked")
def test_budgets_are_whole_numbers(count):
    with pytest.raises(LoopscopeError, match=f"^iterations is {count}, expected a whole number above 0"):
        ls.examine(halving(), torch.ones(3, 2), iterations=count)
    with pytest.raises(LoopscopeError, match=f"max_iterations is {count}, expected a whole number above 0"):
        ls.solve(halving(), torch.ones(3, 2), max_iterations=count)


@pytest.mark.parametrize("verb", [ls.examine, ls.forecast])
def test_a_rule_of_targets_that_takes_something_else_is_refused_before_the_work(verb):
    with pytest.raises(LoopscopeError, match=r"targets is a function of \(logits\), expected \(logits, rows\)"):
        verb(halving(), torch.ones(3, 2), lambda logits: logits.argmax(1) == 0)
    verb(halving(), torch.ones(3, 2), lambda logits, rows, scale=1: logits.argmax(1) == 0)


def test_flatten_holds_every_floating_number_once_and_unflatten_inverts_it():
    state = nested()
    vectors = flatten(state)
    assert vectors.shape == (3, 4 * 5 + 4 * 2)
    assert torch.equal(vectors[1], torch.cat([state["high"][1].flatten(), state["pair"][0][1].flatten()]))
    back = unflatten(2 * vectors, like=state)
    assert torch.equal(back["high"], 2 * state["high"])
    assert torch.equal(back["pair"][0], 2 * state["pair"][0])
    assert torch.equal(back["pair"][1], state["pair"][1]), "counters pass through"


def test_flatten_sets_padding_to_zero_and_norms_leave_it_out():
    state = nested()
    mask = torch.tensor([[True, True, False, True]] * 3)
    vectors = flatten(state, mask)
    state["high"][:, 2] = torch.nan
    assert torch.equal(flatten(state, mask), vectors)
    high = vectors[:, :20].view(3, 4, 5)
    assert torch.equal(high[:, 2], torch.zeros(3, 5))
    assert torch.equal(high[:, [0, 1, 3]], state["high"][:, [0, 1, 3]])
    squares = sum(part[:, [0, 1, 3]].square().sum((1, 2)) for part in (state["high"], state["pair"][0]))
    torch.testing.assert_close(norms(state, mask), squares.sqrt())
    assert torch.equal(token_norms(state, mask)[:, 2], torch.zeros(3))


def test_token_norms_join_leaves_of_as_many_tokens_and_set_others_side_by_side():
    state = nested()
    expected = (state["high"].square().sum(-1) + state["pair"][0].square().sum(-1)).sqrt()
    torch.testing.assert_close(token_norms(state), expected)
    aside = {"grid": torch.ones(2, 3, 4), "whole": torch.full((2, 9), 2.0)}
    torch.testing.assert_close(token_norms(aside), torch.tensor([[2.0, 2.0, 2.0, 6.0]] * 2))
    torch.testing.assert_close(token_norms(torch.tensor([3.0, -4.0])), torch.tensor([[3.0], [4.0]]))


@given(st.integers(0, 2**16), st.integers(1, 4))
def test_norms_are_the_norm_of_the_flat_state_and_of_the_token_norms(seed, tokens):
    state = torch.randn(2, tokens, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(norms(state), torch.linalg.vector_norm(flatten(state), dim=1))
    torch.testing.assert_close(norms(state), torch.linalg.vector_norm(token_norms(state), dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e-9, 1e9, 1e19, 1e37])
def test_norms_hold_where_squares_overflow_or_vanish(scale, dtype):
    generator = torch.Generator().manual_seed(0)
    state = {"a": torch.randn(3, 4, 5, generator=generator, dtype=dtype), "b": torch.randn(3, 4, 1, dtype=dtype)}
    scaled = tree_map(lambda leaf: scale * leaf, state)
    torch.testing.assert_close(norms(scaled) / scale, norms(state))
    torch.testing.assert_close(token_norms(scaled) / scale, token_norms(state))
    uneven = {**state, "b": torch.ones(3, 7, dtype=dtype)}
    scaled = tree_map(lambda leaf: scale * leaf, uneven)
    torch.testing.assert_close(token_norms(scaled) / scale, token_norms(uneven))


def test_scaled_norms_are_bit_for_bit_those_of_ordinary_numbers():
    """A power of two changes no digit: what was measured before stays as it was."""
    vectors = torch.randn(64, 333, generator=torch.Generator().manual_seed(1)) * torch.logspace(-9, 9, 64)[:, None]
    assert torch.equal(scaled_norm(vectors), torch.linalg.vector_norm(vectors, dim=1))
    assert torch.equal(scaled_norm(vectors, 0, keepdim=True), torch.linalg.vector_norm(vectors, dim=0, keepdim=True))
    odd = torch.tensor([[0.0, 0.0], [torch.inf, 1.0], [torch.nan, 1.0], [1e-45, 0.0], [2e38, 2e38]])
    expected = torch.tensor([0.0, torch.inf, torch.nan, 1e-45, 2**0.5 * 2e38])
    torch.testing.assert_close(scaled_norm(odd), expected, equal_nan=True)
    assert scaled_norm(torch.zeros(3, 0)).tolist() == [0, 0, 0]


@given(st.floats(width=32), st.sampled_from([torch.float32, torch.float64]))
def test_a_scale_is_the_power_of_two_below_the_largest_number(number, dtype):
    scale = binary_scale(torch.tensor([[number, 0.0]], dtype=dtype)).item()
    least = torch.finfo(dtype).smallest_normal
    known = number != 0 and math.isfinite(number)
    assert scale == (max(2.0 ** (math.frexp(number)[1] - 1), least) if known else 1)


def test_masks_are_put_aside_and_come_back():
    embedded = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    tree = {
        "e": embedded,
        "additive": torch.tensor([[0.0, -1e4], [0.0, 0.0]]),
        "zeros": torch.zeros(2, 5),
        "flags": torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
        "ids": torch.arange(2),
    }
    aside = masks_aside(tree)
    assert torch.equal(flatten(aside), torch.cat([embedded, tree["flags"]], 1)), "ones and zeros may be inputs"
    back = masks_back(unflatten(2 * flatten(select(aside, slice(1, 2))), select(aside, slice(1, 2))))
    assert torch.equal(back["e"], 2 * embedded[1:])
    assert torch.equal(back["additive"], tree["additive"][1:])
    assert back.keys() == tree.keys()
    assert flatten(masks_aside({"zeros": torch.zeros(2, 3)})).shape == (2, 3), "there is nothing else"
    assert not floating_leaves(masks_aside({"zeros": torch.zeros(2, 3), "ids": tree["ids"]})), "the input is the ids"
    for other in (torch.tensor([[0.0, -1e4], [-2e4, 0.0]]), torch.tensor([[0.0, -9.0]]), torch.tensor([[1.0, -1e4]])):
        assert len(floating_leaves(masks_aside({"x": other}))) == 1, "two numbers, a small one, or beside ones"


def test_select_join_and_where_work_example_by_example():
    state = nested()
    rows = torch.tensor([True, False, True])
    kept, rest = select(state, rows), select(state, ~rows)
    assert batch_size(kept) == 2
    together = join([kept, rest])
    order = torch.tensor([0, 2, 1])
    for whole, original in zip(leaves(together), leaves(state), strict=True):
        assert torch.equal(whole, original[order])
    other = nested()
    other["high"] = other["high"] + 1
    chosen = where(rows, state, other)
    assert torch.equal(chosen["high"][0], state["high"][0])
    assert torch.equal(chosen["high"][1], other["high"][1])


@pytest.mark.parametrize("other", [numpy.zeros(2), object()])
def test_arrays_and_other_objects_are_refused_wherever_they_lie(other):
    """An example cannot be taken out of it."""
    with pytest.raises(
        LoopscopeError, match=f"got {type(other).__name__}: convert with torch.as_tensor; keep what has no batch"
    ):
        batch_size({"tokens": torch.zeros(2, 3), "options": [other]})


def test_batch_size_refuses_trees_that_disagree():
    with pytest.raises(LoopscopeError, match=r"share their first dimension.*\(2, 3\), \(4,\)"):
        batch_size((torch.zeros(2, 3), torch.zeros(4)))
    with pytest.raises(LoopscopeError, match="share their first dimension"):
        batch_size({"scalar": torch.tensor(1.0)})
    with pytest.raises(LoopscopeError, match="at least one floating tensor"):
        flatten(torch.arange(3))


def test_a_leaf_that_steps_change_is_a_clock_and_one_that_they_keep_is_context():
    def loop_of(step):
        return FunctionLoop(lambda x: x, lambda e: e, step, lambda z: z["high"])

    def counting(state, recalled):
        return {"high": state["high"] / 2, "pair": (state["pair"][0], state["pair"][1] + 1)}

    def late(state, recalled):
        return {**state, "high": torch.ones_like(state["high"]), "done": state["high"].mean((1, 2)) == 1}

    assert is_time_dependent(loop_of(counting), nested(), nested())
    assert not is_time_dependent(loop_of(lambda z, e: {**z, "high": z["high"] / 2}), nested(), nested())
    assert not is_time_dependent(loop_of(lambda z, e: z), torch.zeros(2, 3), torch.zeros(2, 3))
    flagged = {**nested(), "done": torch.zeros(3, dtype=torch.bool)}
    assert is_time_dependent(loop_of(late), flagged, flagged), "a flag that the second step raises"
    number = {"high": torch.ones(2, 3), "t": 0}
    assert is_time_dependent(loop_of(lambda z, e: {**z, "t": z["t"] + 1}), number, number)
    assert not is_time_dependent(loop_of(lambda z, e: z), number, number)
    assert has_clock(nested(), {**nested(), "pair": (nested()["pair"][0], torch.zeros(3, dtype=torch.long))})


def test_a_step_that_writes_over_its_state_is_refused():
    loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda state, e: state.add_(e), lambda state: state)
    with pytest.raises(LoopscopeError, match=r"writes over the state.*must return a new one"):
        check_step(loop, torch.zeros(3, 2), torch.ones(3, 2))


@pytest.mark.parametrize("given", [torch.ones(3), torch.ones(2, 4), (torch.ones(3, 4),), torch.tensor(1.0)])
def test_a_readout_without_outputs_for_every_input_is_refused(given):
    with pytest.raises(LoopscopeError, match=r"expected a tensor of shape \(3, \.\.\., outputs\)"):
        check_read(given, 3)
    check_read(torch.ones(3, 1), 3)


def test_a_random_step_is_refused_and_the_random_state_is_left_alone():
    recalled = torch.ones(2, 3)
    noisy = FunctionLoop(lambda x: x, lambda e: e, lambda z, e: z + torch.rand_like(z), lambda z: z)
    before = torch.get_rng_state()
    with pytest.raises(LoopscopeError, match=r"the step is random.*\.eval\(\)"):
        check_step(noisy, recalled, recalled)
    check_step(halving(), recalled, recalled)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_nearest_option_is_named_only_where_one_is_near():
    assert nearest("interal", ["internal", "external"]) == " (did you mean internal?)"
    assert nearest("zzz", ["internal", "external"]) == ""


def test_a_readout_gets_the_recalled_input_where_it_asks_for_it():
    class Module(torch.nn.Module):
        def read(self, state, recalled):
            return state + recalled

    state, recalled = torch.zeros(2, 3), torch.ones(2, 3)
    for read, expected in [
        (lambda state: state, state),
        (lambda state, recalled: state + recalled, recalled),
        (lambda state, recalled=None: state + recalled, recalled),
        (lambda state, e: state + e, recalled),
        (lambda state, temperature=2.0: state / temperature, state),
        (lambda state, *, temperature=2.0: state / temperature, state),
        (torch.clone, state),
        (Module().read, recalled),
    ]:
        loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z, read)
        assert torch.equal(readout(loop, state, recalled), expected)


def test_every_verb_reads_with_the_recalled_input():
    """The state alone says nothing here: z tends to 0 and only the recalled input tells the examples apart."""
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2, lambda z, recalled: z + recalled)
    targets = inputs.argmax(1)
    assert torch.equal(ls.solve(loop, inputs).output, inputs)
    assert ls.forecast(loop, inputs, targets).points[-1].right == 1
    assert ls.examine(loop, inputs, targets, effort="quick").curves.accuracy[-1] == 1


def test_a_part_that_is_zero_does_not_hide_a_tiny_one():
    """Squares of 3e-30 vanish in float32, in the unit of the other part too."""
    state = {"zero": torch.zeros(2, 3, 4), "tiny": torch.full((2, 3, 4), 3e-30)}
    torch.testing.assert_close(token_norms(state), torch.full((2, 3), 6e-30), rtol=1e-6, atol=0)
    torch.testing.assert_close(norms(state), torch.full((2,), 6e-30 * 3**0.5), rtol=1e-6, atol=0)
