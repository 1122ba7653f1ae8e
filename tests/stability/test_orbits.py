"""Orbit labels, periods and exponents against maps whose long-run behaviour is known."""

import math

import pytest
import torch

from loopscope.errors import LoopscopeError
from loopscope.jacobian import step_jacobian
from loopscope.loop import FunctionLoop
from loopscope.stability.orbits.classify import Orbit, classify, cycles, exponent, recurrence, spread
from loopscope.stability.orbits.normalized import normalized
from loopscope.stability.orbits.trace import trace
from loopscope.trees import flatten

F64 = torch.float64
# PyTorch's own forward mode loads rules through torch.jit.script on first use, which it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def loop_of(step, start, read=lambda state: state, padding=None) -> FunctionLoop:
    return FunctionLoop(encode=lambda x: x, start=start, step=step, read=read, padding=padding)


def column(*values, dtype=F64):
    return torch.tensor(values, dtype=dtype)[:, None]


def planar(step, start=(0.3, 0.4)):
    """A map of the plane, (x, y, parameter) -> (x, y)."""
    return loop_of(
        lambda z, e: torch.stack(step(z[:, 0], z[:, 1], e[:, 0]), 1),
        lambda e: torch.tensor([start], dtype=e.dtype).expand(len(e), 2),
    )


LOGISTIC = loop_of(lambda z, r: r * z * (1 - z), lambda r: torch.full_like(r, 0.3))
TURN = planar(lambda x, y, a: (a.cos() * x - a.sin() * y, a.sin() * x + a.cos() * y))
HENON = planar(lambda x, y, a: (1 - a * x**2 + y, 0.3 * x), start=(0.0, 0.0))


def test_logistic_map_through_period_doubling_to_chaos():
    r = column(2.8, 3.2, 3.5, 3.55, 3.566, 3.83, 4.0, 4.5)
    path = trace(LOGISTIC, r, iterations=1000)
    found = classify(LOGISTIC, r, path, window=3000)
    assert found.labels == (Orbit.FIXED_POINT, *[Orbit.CYCLE] * 5, Orbit.CHAOTIC, Orbit.DIVERGING)
    assert found.period.tolist() == [1, 2, 4, 8, 16, 3, 0, 0]
    assert (found.cycle_residual[1:6] < 1e-6).all()
    assert float(found.lyapunov[6]) == pytest.approx(math.log(2), abs=0.01)
    assert abs(float(found.lyapunov[6]) - math.log(2)) <= float(found.lyapunov_error[6]) < 0.02
    assert torch.isnan(found.lyapunov[:6]).all()
    assert found.iterations.tolist() == [0, 0, 0, 0, 0, 0, 3000, 0]


def test_henon_map():
    a = column(0.2, 0.5, 1.0, 1.4, 2.0)
    path = trace(HENON, a, iterations=500)
    found = classify(HENON, a, path, window=3000)
    assert found.labels == (Orbit.FIXED_POINT, Orbit.CYCLE, Orbit.CYCLE, Orbit.CHAOTIC, Orbit.DIVERGING)
    assert found.period.tolist() == [1, 2, 4, 0, 0]
    # 0.41922 is the standard value (Sprott, 2003).
    assert abs(float(found.lyapunov[3]) - 0.4192) <= float(found.lyapunov_error[3]) < 0.04


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_rotations(dtype):
    golden = math.pi * (math.sqrt(5) - 1)
    angles = column(golden, 1.0, 2 * math.pi / 5, 2 * math.pi * 3 / 16, 2 * math.pi / 40, dtype=dtype)
    path = trace(TURN, angles, iterations=100)
    found = classify(TURN, angles, path, window=300)
    assert found.labels == (*[Orbit.QUASI_PERIODIC] * 2, *[Orbit.CYCLE] * 3)
    assert found.period.tolist() == [0, 0, 5, 16, 40]
    assert (found.lyapunov[:2].abs() <= found.lyapunov_error[:2]).all()
    assert (found.lyapunov_error[:2] < 1e-5).all()
    # Convergents of the golden mean and of 2 pi are the lags of best return.
    assert int(found.recurrence_lag[0]) in (34, 55, 89, 144)
    assert int(found.recurrence_lag[1]) == 44


def test_every_period_up_to_sixteen_on_an_attracting_circle():
    def step(x, y, p):
        angle, pull = 2 * math.pi / p, (x**2 + y**2) ** -0.25
        return pull * (angle.cos() * x - angle.sin() * y), pull * (angle.sin() * x + angle.cos() * y)

    loop = planar(step)
    p = column(*range(2, 17))
    found = classify(loop, p, trace(loop, p, iterations=60), window=0)
    assert found.period.tolist() == list(range(2, 17))
    assert set(found.labels) == {Orbit.CYCLE}


def test_a_slow_spiral_is_no_cycle():
    rate, angle = 0.999, 2 * math.pi / 5
    loop = planar(
        lambda x, y, e: (
            rate * (math.cos(angle) * x - math.sin(angle) * y) + 1,
            rate * (math.sin(angle) * x + math.cos(angle) * y),
        )
    )
    e = column(0.0)
    path = trace(loop, e, iterations=100, tolerance=0.1)
    apart = (path.recent[-1] - path.recent[-6]).norm() / path.recent[-1].norm()
    assert float(apart) < 0.1 * path.tolerance
    assert float(path.residual[-1, 0]) > 10 * float(apart)
    found = classify(loop, e, path, window=100)
    assert found.labels == (Orbit.UNDECIDED,)
    assert abs(float(found.lyapunov[0]) - math.log(rate)) <= float(found.lyapunov_error[0]) < 1e-6


def test_neimark_sacker():
    """The delayed logistic map x_{t+1} = a x_t (1 - x_{t-1}): past a = 2 the fixed point gives way to a circle."""
    loop = planar(lambda x, y, a: (y, a * y * (1 - x)))
    a = column(1.9, 2.05, 2.1, 2.27)
    path = trace(loop, a, iterations=1000)
    found = classify(loop, a, path, window=1000)
    assert found.labels == (Orbit.FIXED_POINT, Orbit.QUASI_PERIODIC, Orbit.QUASI_PERIODIC, Orbit.CHAOTIC)
    assert (found.lyapunov[1:3].abs() <= found.lyapunov_error[1:3]).all()
    assert (found.recurrence[1:3] < 0.1).all()
    # a = 2.27 is the classical chaotic case, exponent 0.183 (Sprott, 2003).
    assert abs(float(found.lyapunov[3]) - 0.183) <= float(found.lyapunov_error[3])


class PreNorm(torch.nn.Module):
    """z + S(N(z)) + e per token: the update keeps its size while the state grows without bound."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(0.3 * torch.randn(6, 6, generator=generator, dtype=F64))

    def encode(self, inputs):
        return inputs

    def start(self, recalled, generator=None):
        return recalled

    def step(self, state, recalled):
        unit = torch.nn.functional.rms_norm(state, (6,))
        return state + torch.tanh(unit @ self.weight + recalled)

    def read(self, state):
        return torch.nn.functional.rms_norm(state, (6,))


@pytest.fixture(scope="module")
def drifting():
    loop = PreNorm()
    inputs = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1), dtype=F64)
    return loop, inputs, trace(loop, inputs, iterations=400)


def test_a_pre_norm_loop_drifts(drifting):
    loop, inputs, path = drifting
    found = classify(loop, inputs, path, window=0)
    assert set(found.labels) == {Orbit.DRIFT}
    assert not path.arrived.any()
    torch.testing.assert_close(path.residual[-1], torch.full((4,), 1 / 400, dtype=F64), rtol=0.05, atol=0)
    # Growth as t gives a mean of 1/t over the last quarter.
    expected = torch.full((4,), math.log(400 / 300) / 100, dtype=F64)
    torch.testing.assert_close(found.growth, expected, rtol=0.05, atol=0)
    assert (path.read_residual[-1] < path.residual[-1] / 5).all()
    assert (found.growth_error < 0.05 * found.growth).all()


def test_a_straight_drift_and_the_turn_it_has_left():
    loop = planar(lambda x, y, e: (x + 1, y + 0 * e), start=(0.0, 2.0))
    path = trace(loop, column(0.0), iterations=200)
    found = classify(loop, column(0.0), path, window=0)
    assert found.labels == (Orbit.DRIFT,)
    assert float(found.direction_left[0]) == pytest.approx(math.atan2(2, 200), rel=0.15)
    assert float(path.direction_residual[-1, 0]) == pytest.approx(math.atan2(2, 199) - math.atan2(2, 200), rel=1e-3)


def test_the_normalized_loop_arrives_where_the_loop_drifts():
    """z + S(N(z)) points where S(N(z)) does, whatever the size at which the state is held."""
    loop = PreNorm()
    inputs = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1), dtype=F64)
    held = []
    for drifted in (10, 20):
        state = trace(loop, inputs, iterations=drifted).state
        wrapped, problem = normalized(loop, inputs, state)
        recalled = wrapped.encode(problem)
        ends = trace(wrapped, recalled, iterations=1000, start=state)
        assert classify(wrapped, recalled, ends, window=0).labels == (Orbit.FIXED_POINT,) * 4
        torch.testing.assert_close(ends.state.norm(dim=-1), state.norm(dim=-1))
        update = loop.step(ends.state, inputs) - ends.state
        cosine = torch.nn.functional.cosine_similarity(update, ends.state, dim=-1)
        assert float(cosine.detach().amin()) > 1 - 1e-6
        held.append(torch.nn.functional.normalize(ends.state, dim=-1))
    torch.testing.assert_close(held[0], held[1], rtol=0, atol=1e-3)


def test_the_normalized_jacobian_is_projected_on_both_sides(drifting):
    loop, inputs, path = drifting
    wrapped, problem = normalized(loop, inputs[:1], path.state[:1])
    state = path.state[:1]
    jacobian = torch.func.jacrev(lambda z: loop.step(z.view(1, 3, 6), inputs[:1]).flatten())(state.flatten())
    after = loop.step(state, inputs[:1])[0]

    def projector(tokens):
        return torch.block_diag(*[torch.eye(6, dtype=F64) - torch.outer(t, t) / t.dot(t) for t in tokens])

    shrink = (state[0].norm(dim=-1) / after.norm(dim=-1)).repeat_interleave(6)
    expected = shrink[:, None] * projector(after) @ jacobian @ projector(state[0])
    product = step_jacobian(wrapped, state, wrapped.encode(problem))
    columns = torch.stack([product.jvp(unit[None])[0] for unit in torch.eye(18, dtype=F64)], 1)
    torch.testing.assert_close(columns, expected.detach())
    assert wrapped.read(state, wrapped.encode(problem)).equal(loop.read(state))
    assert wrapped.mask(wrapped.encode(problem)) is None


def test_growth_that_is_geometric_is_divergence_and_growth_that_stops_is_undecided():
    e = column(1.05, 0.98)
    loop = loop_of(lambda z, q: q * z + 1, lambda q: torch.ones_like(q))
    path = trace(loop, e, iterations=120)
    found = classify(loop, e, path, window=20)
    assert found.labels == (Orbit.DIVERGING, Orbit.UNDECIDED)
    assert float(found.growth[0]) == pytest.approx(math.log(1.05), rel=0.02)
    assert float(found.lyapunov[1]) == pytest.approx(math.log(0.98), abs=1e-6)
    assert "still on its way" in found.reasons[1]


def test_a_time_dependent_loop_has_orbits_but_no_exponent():
    def step(state, r):
        return {"z": r * state["z"] * (1 - state["z"]), "t": state["t"] + 1}

    def start(r):
        return {"z": torch.full_like(r, 0.3), "t": torch.zeros(len(r), dtype=torch.long)}

    loop = loop_of(step, start, read=lambda state: state["z"])
    r = column(2.5, 3.2, 4.0)
    path = trace(loop, r, iterations=300)
    found = classify(loop, r, path, window=100)
    assert found.labels == (Orbit.FIXED_POINT, Orbit.CYCLE, Orbit.UNDECIDED)
    assert torch.isnan(found.lyapunov).all()
    assert "depends on time" in found.reasons[2]


def test_budgets():
    calls = []

    def step(z, r):
        calls.append(len(z))
        return r * z * (1 - z)

    loop = loop_of(step, lambda r: torch.full_like(r, 0.3))
    r = column(4.0, 3.9, 3.95)
    path = trace(loop, r, iterations=40)
    assert len(calls) == 40
    none = classify(loop, r, path, window=0)
    assert set(none.iterations.tolist()) == {0}
    assert torch.isfinite(none.lyapunov).all()
    assert (none.lyapunov > 0).all()
    some = classify(loop, r, path, window=200, at_most=2)
    assert some.labels == (Orbit.CHAOTIC, Orbit.CHAOTIC, Orbit.UNDECIDED)
    assert some.reasons[2] == "not followed further"
    assert some.iterations.tolist() == [200, 200, 0]
    assert some.weight.tolist() == [1.5, 1.5, 0]
    assert none.weight.tolist() == [1, 1, 1]
    with pytest.raises(LoopscopeError, match="window is -1, expected a whole number of at least 0"):
        classify(loop, r, path, window=-1)


def test_those_followed_are_spread_over_those_that_are_left_and_stand_for_them():
    loop = loop_of(lambda z, r: r * z * (1 - z), lambda r: torch.full_like(r, 0.3))
    r = column(2.8, *[4.0] * 6, 2.8, 3.9)  # two that arrive, seven that are chaotic
    found = classify(loop, r, trace(loop, r, iterations=200), window=200, at_most=3)
    assert [row for row, spent in enumerate(found.iterations.tolist()) if spent] == [1, 3, 5]
    assert found.weight.tolist() == pytest.approx([1, 7 / 3, 0, 7 / 3, 0, 7 / 3, 0, 1, 0])
    assert spread(torch.arange(5), 9).tolist() == list(range(5))
    assert spread(torch.arange(5), 0).tolist() == []


def test_examples_do_not_disturb_each_other_and_seeds_repeat():
    r = column(4.0, 2.8, 3.9)
    together = classify(LOGISTIC, r, trace(LOGISTIC, r, iterations=100), window=300)
    alone = classify(LOGISTIC, r[2:], trace(LOGISTIC, r[2:], iterations=100), window=300)
    torch.testing.assert_close(together.lyapunov[2:], alone.lyapunov)
    assert together.labels[2] == alone.labels[0]
    before = torch.get_rng_state()
    again = classify(LOGISTIC, r, trace(LOGISTIC, r, iterations=100), window=300)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.lyapunov[[0, 2]], together.lyapunov[[0, 2]])


def test_padding_does_not_enter():
    """A chaotic padding token beside a real one on a cycle."""
    mask = torch.tensor([[True, False]])
    rates = torch.tensor([[[3.2], [4.0]], [[4.0], [3.2]]], dtype=F64)
    loop = loop_of(
        lambda z, r: r * z * (1 - z), lambda r: torch.full_like(r, 0.3), padding=lambda r: mask.expand(len(r), 2)
    )
    found = classify(loop, rates, trace(loop, rates, iterations=300), window=1000)
    assert found.labels == (Orbit.CYCLE, Orbit.CHAOTIC)
    assert float(found.lyapunov[1]) == pytest.approx(math.log(2), abs=0.03)


def test_exponent_intervals():
    generator = torch.Generator().manual_seed(0)
    noisy = 0.1 + torch.randn(400, 200, generator=generator, dtype=F64)
    mean, error = exponent(noisy, 1e-16)
    assert float(((mean - 0.1).abs() <= error).double().mean()) >= 0.95
    wobble = torch.cos(torch.arange(400, dtype=F64))[:, None]
    mean, error = exponent(wobble, 1e-16)
    assert abs(float(mean)) <= float(error) < 0.01
    assert math.isinf(float(exponent(wobble[:10], 1e-16)[1]))


def test_recurrence_of_noise_and_of_a_standing_orbit():
    noise = torch.randn(400, 1, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert float(recurrence(noise, 1e-4)[0]) > 0.8
    still = torch.ones(50, 1, 2, dtype=F64)
    assert math.isinf(float(recurrence(still, 1e-4)[0]))
    creeping = torch.linspace(0, 1, 200, dtype=F64)[:, None, None]
    assert float(recurrence(creeping, 1e-4)[0]) > 0.5


def test_cycles_need_twice_their_length():
    points = [torch.tensor([[math.cos(k), math.sin(k)]]) for k in torch.arange(40) * 2 * math.pi / 8]
    assert int(cycles(points[:17], 1e-4)[0]) == 8
    assert int(cycles(points[:16], 1e-4)[0]) == 0
    assert flatten(points[0]).shape == (1, 2)


def test_growth_by_a_constant_a_step_is_no_divergence_wherever_it_starts():
    """One number that grows linearly beside others that have stopped: log||z|| bends upwards, from a start at zero."""
    e = torch.tensor([[0.9, 0.001], [0.9, 0.0005], [0.001, 0.001]], dtype=F64)
    loop = loop_of(lambda z, e: (z + e).clamp(-1, 1), torch.zeros_like)
    found = classify(loop, e, trace(loop, e, iterations=500), window=64)
    assert found.labels == (Orbit.UNDECIDED, Orbit.UNDECIDED, Orbit.DRIFT)


@pytest.mark.parametrize("window", [64, 256])
def test_a_spiral_that_grows_too_slowly_to_be_told_by_its_norm_is_not_chaotic(window):
    """Its exponent is positive, but chaos stays where it is: weak chaos and a strange attractor do, this does not."""
    grown = loop_of(lambda z, e: 1.002 * z @ rotation(0.7, e.dtype) + e, torch.zeros_like)
    e = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = classify(grown, e, trace(grown, e, iterations=500), window=window)
    assert found.labels == (Orbit.DIVERGING,) * 3
    torch.testing.assert_close(found.lyapunov, torch.full((3,), math.log(1.002), dtype=F64))
    assert "own steps grow" in found.reasons[0]
    for loop, values in ((LOGISTIC, column(3.6, 3.7, 3.9, 4.0)), (HENON, column(1.2, 1.4))):
        found = classify(loop, values, trace(loop, values, iterations=500), window=window)
        assert set(found.labels) == {Orbit.CHAOTIC}


def rotation(angle, dtype):
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=dtype)
