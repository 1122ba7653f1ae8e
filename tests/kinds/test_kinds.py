"""A loop tells its kind itself, and every verb takes it or says why not."""

import pytest
import torch
from torch import nn

import loopscope as ls
from loopscope.checks import check_step_alone, prepare
from loopscope.errors import LoopscopeError
from loopscope.fixed_points import PlainIteration
from loopscope.kinds import Kind, Wants, timed, wants_of
from loopscope.kinds.history import remembers
from loopscope.kinds.timed import noise
from loopscope.stability.nonautonomous.view import view_of
from loopscope.trees import Context

CPU = torch.device("cpu")
INPUTS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def loop_of(step, start=torch.zeros_like, read=lambda z: z, **options):
    return ls.FunctionLoop(encode=lambda x: x, start=start, step=step, read=read, **options)


def autonomous(z, e):
    return z / 2 + e


def clocked(z, e, iteration):
    return z / (2 + iteration) + e


def noisy(z, e, generator):
    return z / 2 + e + torch.randn(z.shape, generator=generator)


def both(z, e, *, iteration, generator):
    return z / (2 + iteration) + e + torch.randn(z.shape, generator=generator)


def counting(state, e):
    return {"z": state["z"] / (2 + state["t"][:, None]) + e, "t": state["t"] + 1}


def counter(e):
    return {"z": torch.zeros_like(e), "t": torch.zeros(len(e), dtype=torch.long)}


@pytest.mark.parametrize(
    ("step", "wants", "kind"),
    [
        (autonomous, Wants(), Kind.AUTONOMOUS),
        (clocked, Wants(iteration=True), Kind.TIME_DEPENDENT),
        (noisy, Wants(generator=True), Kind.STOCHASTIC),
        (both, Wants(iteration=True, generator=True), Kind.TIME_DEPENDENT_AND_STOCHASTIC),
    ],
)
def test_a_step_tells_the_kind_by_what_it_takes(step, wants, kind):
    loop = loop_of(step)
    assert wants_of(loop) == wants
    view = view_of(loop, INPUTS, 0)
    assert view.kind.name is kind
    assert (kind is Kind.AUTONOMOUS) == (not view.kind.undefined) == view.kind.is_plain


def test_a_counter_in_the_state_tells_it_too():
    view = view_of(loop_of(counting, counter, lambda state: state["z"]), INPUTS, 0)
    assert (view.kind.name, view.kind.told_by) == (Kind.TIME_DEPENDENT, "the state carries a counter")

    def noisy_counting(state, e, generator):
        return {**counting(state, e), "z": state["z"] + torch.randn(e.shape, generator=generator)}

    view = view_of(loop_of(noisy_counting, counter, lambda state: state["z"]), INPUTS, 0)
    assert view.kind.name is Kind.TIME_DEPENDENT_AND_STOCHASTIC


def test_a_module_tells_it_by_its_method():
    class Model(nn.Module):
        def encode(self, inputs):
            return inputs

        def start(self, recalled):
            return torch.zeros_like(recalled)

        def step(self, state, recalled, iteration):
            return clocked(state, recalled, iteration)

        def read(self, state):
            return state

    assert isinstance(Model(), ls.Loop)
    assert view_of(Model(), INPUTS, 0).kind.name is Kind.TIME_DEPENDENT


def test_an_argument_of_another_name_is_refused():
    with pytest.raises(LoopscopeError, match=r"step takes \(z, e, t\), expected .*rename t, or carry it in the state"):
        wants_of(loop_of(lambda z, e, t: z / 2 + e))
    assert wants_of(loop_of(lambda z, e, t=0: z / 2 + e)) == Wants(), "it need not be given"


@pytest.mark.parametrize("step", [clocked, noisy, both])
@pytest.mark.parametrize(
    "verb",
    [
        lambda loop: ls.solve(loop, INPUTS),
        lambda loop: ls.leaps(loop, INPUTS),
        lambda loop: ls.spectral_radius(loop, INPUTS, INPUTS),
        lambda loop: prepare(loop, INPUTS),
    ],
)
def test_what_needs_one_map_refuses_other_kinds_in_one_line(step, verb):
    with pytest.raises(LoopscopeError, match=r"has no fixed point: ls\.examine and ls\.forecast take it") as caught:
        verb(loop_of(step))
    assert "\n" not in str(caught.value)


def test_a_view_gives_the_step_its_iteration_and_counts():
    seen = []

    def step(z, e, iteration):
        seen.append(iteration)
        return z + e

    view = timed(loop_of(step))
    state = view.start(INPUTS)
    for _ in range(3):
        state = view.step(state, INPUTS)
    assert seen == [0, 1, 2]
    assert state.iteration.tolist() == [3, 3, 3, 3]
    assert timed(plain := loop_of(autonomous)) is plain
    with pytest.raises(LoopscopeError, match="at different iterations, 0 to 3"):
        view.step(state._replace(iteration=torch.tensor([0, 3, 3, 3])), INPUTS)


def test_the_noise_is_that_of_its_seed_draw_and_iteration():
    def drawn(*key):
        return torch.randn(3, generator=noise(*key, CPU))

    assert torch.equal(drawn(0, 0, 0), drawn(0, 0, 0))
    others = [drawn(*key) for key in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2**32, 0, 0), (-1, 0, 0))]
    assert all(not torch.equal(drawn(0, 0, 0), other) for other in others)
    view = timed(loop_of(noisy), seed=3)
    one, again, other = (loop.step(loop.start(INPUTS), INPUTS).state for loop in (view, view, view.redrawn(1)))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_two_orbits_of_a_draw_see_the_same_noise():
    """Common random numbers: what is left of a difference is what the step makes of it."""
    view = timed(loop_of(noisy))
    one = view.start(INPUTS)
    other = one._replace(state=one.state + 8)
    for _ in range(5):
        one, other = view.step(one, INPUTS), view.step(other, INPUTS)
    torch.testing.assert_close(other.state - one.state, torch.full_like(INPUTS, 8 / 2**5), atol=1e-6, rtol=0)


def test_a_stochastic_step_that_mixes_examples_is_refused():
    def mixing(z, e, generator):
        return noisy(z, e, generator) + 3 * e.mean(0)

    with pytest.raises(LoopscopeError, match="the step mixes examples: one goes elsewhere beside another"):
        view_of(loop_of(mixing), INPUTS, 0)
    view_of(loop_of(noisy), INPUTS[:1], 0)


def test_randomness_that_is_not_told_is_refused_with_what_to_do():
    with pytest.raises(LoopscopeError, match="or let step take a generator and draw from it"):
        view_of(loop_of(lambda z, e: z / 2 + torch.randn_like(e)), INPUTS, 0)


def test_a_step_that_fails_later_says_at_which_iteration():
    table = nn.Embedding(5, 3)

    def step(z, e, iteration):
        return z / 2 + e + table(torch.tensor(iteration)).detach()

    with pytest.raises(LoopscopeError, match=r"fails at iteration 5, counted from 0 .*ask for at most 5 iterations"):
        ls.examine(loop_of(step, module=table), INPUTS, effort="quick", iterations=8)
    ls.examine(loop_of(step, module=table), INPUTS, effort="quick", iterations=5)


# One iteration frozen


@pytest.mark.parametrize(
    "loop", [loop_of(clocked), loop_of(counting, counter, lambda state: state["z"])], ids=["asked", "counted"]
)
def test_a_frozen_iteration_is_that_map_again_and_again(loop):
    frozen = ls.freeze(loop, iteration=7)
    check_step_alone(frozen)
    view = view_of(frozen, INPUTS, 0)
    assert view.kind.is_plain
    solved = ls.solve(frozen, INPUTS, tolerance=1e-6)
    torch.testing.assert_close(solved.output, INPUTS * 9 / 8, atol=1e-5, rtol=0)
    assert float(ls.spectral_radius(frozen, view.ready.start, INPUTS).radius[0]) == pytest.approx(1 / 9)


def test_a_frozen_loop_starts_where_the_loop_is_then():
    view = timed(loop_of(clocked))
    state = view.start(INPUTS)
    for _ in range(7):
        state = view.step(state, INPUTS)
    assert torch.equal(ls.freeze(loop_of(clocked), 7).start(INPUTS), state.state)


def test_freezing_a_step_that_ignores_the_iteration_changes_nothing():
    gain = torch.full((3,), 2.0)
    plain = loop_of(autonomous, padding=lambda e: None, outer_gain=gain)
    frozen = ls.freeze(loop_of(lambda z, e, iteration: autonomous(z, e), outer_gain=gain), iteration=0)
    one, other = (ls.examine(loop, INPUTS, effort="quick", iterations=60) for loop in (plain, frozen))
    assert {**one.to_dict(), "seconds": 0} == {**other.to_dict(), "seconds": 0}


def test_freezing_holds_the_iteration_and_keeps_the_noise():
    frozen = ls.freeze(loop_of(both), iteration=3)
    assert wants_of(frozen) == Wants(generator=True)
    assert view_of(frozen, INPUTS, 0).kind.name is Kind.STOCHASTIC
    assert torch.equal(frozen.start(INPUTS), frozen.start(INPUTS))


def test_a_frozen_module_is_put_in_eval_mode_and_converted():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.drop = nn.Linear(3, 3), nn.Dropout(0.5)

        def encode(self, inputs):
            return inputs

        def start(self, recalled):
            return torch.zeros_like(recalled)

        def step(self, state, recalled, iteration):
            return self.drop(torch.tanh(self.inner(state) / (iteration + 1) + recalled))

        def read(self, state):
            return state

    model = Model().train()
    exam = ls.examine(ls.freeze(model, 2), INPUTS, effort="quick", iterations=60)
    assert exam.reachability.counts == {"fixed point": 4}
    assert model.training
    assert model.drop.training
    frozen = ls.freeze(model.eval(), 2)
    found = ls.spectral_radius(frozen, INPUTS, INPUTS, dtype=torch.float64)
    assert found.radius.dtype is torch.float64


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_frozen_is_refused():
    with pytest.raises(LoopscopeError, match="iteration is -1, expected a whole number of at least 0"):
        ls.freeze(loop_of(clocked), -1)
    short = loop_of(lambda z, e, iteration: z / 2 + e * [1.0, 1.0, 1.0][iteration])
    with pytest.raises(LoopscopeError, match="fails at iteration 3, counted from 0"):
        ls.solve(ls.freeze(short, 9), INPUTS)


# Readouts of the history


def averaging(loop):
    return ls.with_history(
        loop,
        begin=lambda z, e: (torch.zeros_like(z), torch.zeros(len(z), 1)),
        update=lambda carried, z, e: (carried[0] + z, carried[1] + 1),
        read=lambda carried, e: carried[0] / carried[1].clamp_min(1),
    )


def test_a_history_is_what_the_readout_would_see_of_all_states():
    loop, states = loop_of(autonomous), [torch.zeros_like(INPUTS)]
    for _ in range(6):
        states.append(loop.step(states[-1], INPUTS))
    mean = averaging(loop)
    state = mean.start(INPUTS)
    for _ in range(6):
        state = mean.step(state, INPUTS)
    torch.testing.assert_close(mean.read(state, INPUTS), torch.stack(states[1:]).mean(0))


def test_a_history_is_no_part_of_residuals_and_jacobians():
    mean = averaging(loop_of(autonomous))
    view = view_of(mean, INPUTS, 0)
    assert view.kind.name is Kind.AUTONOMOUS
    assert view.kind.reads_history
    assert not view.kind.is_plain
    assert remembers(mean, view.ready.start, INPUTS)
    assert not remembers(loop_of(autonomous), INPUTS, INPUTS)
    plain, remembering = (ls.examine(one, INPUTS, effort="quick", iterations=60) for one in (loop_of(autonomous), mean))
    assert remembering.spectrum == plain.spectrum
    assert remembering.curves.residual[1][:20] == plain.curves.residual[1][:20]
    assert "its readout reads the history" in " ".join(str(remembering).split())


def test_answers_of_a_history_are_followed_to_the_end():
    """The state arrives at once; the mean of its history changes sign much later."""
    mean = ls.with_history(
        loop_of(lambda z, e: e + 0 * z),
        begin=lambda z, e: torch.full_like(z, -100.0),
        update=lambda carried, z, e: carried + z,
        read=lambda carried, e: carried,
    )
    exam = ls.examine(mean, torch.tensor([[1.5], [2.5]]), effort="quick", iterations=90)
    assert exam.answers.final_at == [67.0, 41.0]
    assert ls.forecast(mean, torch.tensor([[1.5], [2.5]])).outlook.value == "collapses"


def test_a_step_that_asks_is_passed_what_it_asks_for():
    loop = averaging(loop_of(both))
    assert wants_of(loop) == Wants(iteration=True, generator=True)
    assert view_of(loop, INPUTS, 0).kind.reads_history


def test_solvers_that_correct_the_state_do_not_take_a_history():
    mean = averaging(loop_of(autonomous))
    assert ls.solve(mean, INPUTS, solver=PlainIteration()).arrived.all()
    with pytest.raises(LoopscopeError, match="the state carries a history, which Anderson would fill"):
        ls.solve(mean, INPUTS, solver=ls.Anderson())


def test_leaps_leave_out_no_history():
    with pytest.raises(LoopscopeError, match="the state carries a history, which a leap would leave out"):
        ls.leaps(averaging(loop_of(autonomous)), INPUTS)


def test_context_without_change_is_no_history():
    def start(e):
        return {"z": torch.zeros_like(e), "table": Context(torch.ones(len(e), 2), batched=True)}

    loop = loop_of(lambda state, e: {**state, "z": state["z"] / 2 + e}, start, lambda state: state["z"])
    assert view_of(loop, INPUTS, 0).kind.is_plain
