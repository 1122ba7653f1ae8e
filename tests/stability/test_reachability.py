"""Reachability against orbits that are known in closed form."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.loop import FunctionLoop
from loopscope.stability.orbits.arrival import FixedPoints, contraction, follow, step_in_parts
from loopscope.stability.orbits.basin import basin, fraction
from loopscope.stability.orbits.rounding import floor_of
from loopscope.stability.orbits.trace import quantiles, trace

F64 = torch.float64


def zeros(recalled):
    return torch.zeros_like(recalled)


def ones(recalled):
    return torch.ones_like(recalled)


def loop_of(step, start=zeros, read=lambda state: state, padding=None) -> FunctionLoop:
    return FunctionLoop(encode=lambda x: x, start=start, step=step, read=read, padding=padding)


def affine(rates: Tensor, target: float = 1.0) -> FunctionLoop:
    """z -> q z + (1 - q) target: z_t = target (1 - q^t) from zero."""
    return loop_of(lambda z, e: rates * z + (1 - rates) * target)


@settings(max_examples=20)
@given(st.floats(0.05, 0.95), st.floats(1e-8, 1e-3))
def test_affine_contraction(rate, tolerance):
    rates = torch.full((1, 3), rate, dtype=F64)
    path = trace(affine(rates), torch.zeros(1, 3, dtype=F64), iterations=1000, tolerance=tolerance)
    steps = int(path.iterations[0])
    t = torch.arange(steps, dtype=F64)
    expected = (1 - rate) * rate**t / (1 - rate ** (t + 1))
    torch.testing.assert_close(path.residual[:steps, 0], expected, rtol=1e-6, atol=1e-15)
    torch.testing.assert_close(path.norm[:steps, 0], math.sqrt(3) * (1 - rate ** (t + 1)))
    assert bool(path.arrived[0])
    assert int(path.iterations_to_tolerance[0]) == 1 + int((expected > tolerance).sum())
    assert abs(float(path.rate[0]) - rate) <= float(path.rate_error[0]) + 0.02
    assert float((path.state - 1).norm()) <= float(path.error[0])


def test_rate_of_a_complex_pair_is_its_modulus():
    angle, rate = 1.1, 0.8
    turn = rate * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=F64)
    path = trace(loop_of(lambda z, e: z @ turn.T + e), torch.ones(1, 2, dtype=F64), iterations=60)
    fixed = torch.linalg.solve(torch.eye(2, dtype=F64) - turn, torch.ones(2, dtype=F64))
    assert float(path.rate[0]) == pytest.approx(rate, abs=1e-3)
    assert float((path.state[0] - fixed).norm()) <= float(path.error[0])
    assert bool(path.arrived[0])


def test_early_leaving_agrees_with_running_to_the_floor():
    rates = torch.tensor([[0.2], [0.5], [0.9], [0.99]], dtype=F64)
    start = torch.zeros(4, 1, dtype=F64)
    # A loop that closes over per-example numbers could not leave the batch, so the rates are recalled.
    loop = loop_of(lambda z, q: q * z + 1 - q)
    early = follow(loop, rates, start, iterations=3000, until="arrival")
    late = follow(loop, rates, start, iterations=3000)
    assert early.arrived.all()
    assert late.arrived.all()
    assert late.at_floor.all()
    assert not early.at_floor.any()
    assert (early.iterations < late.iterations).all()
    assert (early.iterations[1:] > early.iterations[:-1]).all()
    assert ((early.state - 1).abs().squeeze(1) <= early.error).all()
    assert ((late.state - 1).abs().squeeze(1) <= late.error).all()
    torch.testing.assert_close(early.rate, rates.squeeze(1), rtol=0.05, atol=0)
    torch.testing.assert_close(early.radius, early.residual[-1] / (1 - early.rate), rtol=1e-12, atol=0)
    assert torch.equal(early.error, early.radius * early.scale)


def test_what_must_not_count_as_arrived():
    e = torch.zeros(1, 1, dtype=F64)
    drift = trace(loop_of(lambda z, e: z + 1, ones), e, iterations=2000, tolerance=1e-3)
    assert float(drift.residual[-1, 0]) == pytest.approx(1 / 2001)
    assert float(drift.rate[0]) < 1
    assert not drift.arrived[0]
    assert int(drift.iterations_to_tolerance[0]) == 999
    slow = trace(loop_of(lambda z, e: 0.999 * z + 1e-3), e, iterations=2000, tolerance=1e-3)
    assert float(slow.residual[-1, 0]) < 1e-3
    # 0.999^2000 = 0.135 of the way is still to go, 0.156 of the norm; the norm still grows, which flatters q a little.
    assert float(slow.radius[0]) == pytest.approx(0.135 / 0.865, rel=0.15)
    assert not slow.arrived[0]
    growing = trace(loop_of(lambda z, e: 1 + 1.2 * (z - 1), lambda e: torch.full_like(e, 1 + 1e-9)), e, iterations=30)
    assert float(growing.residual[-1, 0]) < 1e-4
    assert float(growing.rate[0]) == pytest.approx(1.2, rel=1e-3)
    assert math.isinf(float(growing.radius[0]))
    assert not growing.arrived[0]


@pytest.mark.parametrize(("numbers", "sizes"), [(100, [7]), (12, [2, 2, 2, 1]), (1, [1] * 7)])
def test_a_step_in_parts_is_the_step(numbers, sizes):
    """Two leaves and a counter, five numbers an example (the counter is none)."""
    seen = []

    def step(state, recalled):
        seen.append(len(recalled))
        return {"a": state["a"] / 2 + recalled, "b": -state["b"], "count": state["count"] + 1}

    loop = FunctionLoop(lambda x: x, lambda e: e, step, lambda state: state["a"])
    state = {"a": torch.randn(7, 3), "b": torch.randn(7, 2), "count": torch.arange(7)}
    recalled = torch.randn(7, 3)
    found = step_in_parts(loop, state, recalled, numbers)
    assert seen == sizes
    assert all(torch.equal(found[name], value) for name, value in step(state, recalled).items())


def test_the_rounding_floor_counts_as_arrived():
    path = trace(loop_of(lambda z, e: e), torch.ones(2, 3), iterations=50)
    assert path.arrived.all()
    assert path.at_floor.all()
    assert path.iterations.tolist() == [9, 9]
    assert path.residual[:, 0].tolist() == [1.0] + [0.0] * 49
    turning = trace(
        loop_of(lambda z, e: torch.cat([z[:, :1], z[:, 1:].flip(1)], 1), lambda e: e),
        torch.tensor([[1.0, 1e-7, 2e-7]]),
        iterations=20,
    )
    assert 0 < float(turning.residual[-1, 0]) < floor_of(torch.float32).residual
    assert turning.arrived[0]
    assert math.isnan(float(turning.rate[0]))
    assert 1e-7 < float(turning.error[0]) < 1e-4


def test_an_orbit_that_dies_out_arrives_at_zero():
    path = trace(loop_of(lambda z, e: 0.5 * z, ones), torch.ones(1, 4), iterations=100)
    assert path.arrived[0]
    assert float(path.norm[-1, 0]) < 1e-10
    again = follow(loop_of(lambda z, e: 0.5 * z), torch.ones(1, 4), path.state, iterations=60)
    assert again.arrived[0]


def test_divergence_is_flagged_and_leaves_the_others_alone():
    gains = torch.tensor([[0.5], [1e4], [0.7]])
    loop = loop_of(lambda z, g: g * z + 1, ones)
    path = trace(loop, gains, iterations=60)
    assert path.diverged.tolist() == [False, True, False]
    assert path.arrived.tolist() == [True, False, True]
    assert torch.isfinite(path.state).all()
    assert math.isinf(float(path.residual[-1, 1]))
    alone = trace(loop, gains[2:], iterations=60)
    torch.testing.assert_close(path.residual[:, 2], alone.residual[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(path.state[2], alone.state[0], rtol=0, atol=0)
    assert path.unarrived.tolist() == []


def test_tokens_settle_each_at_their_own_time_and_padding_is_left_out():
    rates = torch.tensor([0.5, 0.8, 0.95, 2.0], dtype=F64)[None, :, None].expand(1, 4, 2)
    mask = torch.tensor([[True, True, True, False]])
    loop = loop_of(lambda z, q: q * z + 1 - q, padding=lambda q: mask.expand(len(q), 4))
    path = trace(loop, rates, iterations=150, tolerance=1e-3)
    for token, rate in enumerate((0.5, 0.8, 0.95)):
        t = torch.arange(150, dtype=F64)
        expected = (1 - rate) * rate**t / (1 - rate ** (t + 1))
        torch.testing.assert_close(path.token_residual[:, 0, token], expected, rtol=1e-6, atol=1e-13)
        assert int(path.token_settled[0, token]) == 1 + int((expected > 1e-3).sum())
    assert int(path.token_settled[0, 3]) == 0
    assert (path.token_residual[:, 0, 3] == 0).all()
    assert path.arrived[0]
    short = trace(loop, rates, iterations=20, tolerance=1e-3)
    assert short.token_settled[0].tolist()[1:] == [-1, -1, 0]
    assert short.iterations_to_tolerance.tolist() == [-1]


def test_a_scale_invariant_readout_hides_a_growing_state():
    loop = loop_of(
        lambda z, e: z + e,
        ones,
        read=lambda z: torch.nn.functional.normalize(z, dim=-1),
    )
    e = torch.tensor([[2.0, 0.0, -1.0]], dtype=F64)
    path = trace(loop, e, iterations=300)
    assert float(path.read_residual[-1, 0]) < 1e-4 < float(path.residual[-1, 0])
    torch.testing.assert_close(path.read_residual, path.direction_residual)
    assert float(path.norm[-1, 0]) > 100 * float(path.start_norm[0])
    before, after = (e + torch.ones(1, 3, dtype=F64) / t for t in (299, 300))
    turned = (after / after.norm() - before / before.norm()).norm()
    assert float(path.direction_residual[-1, 0]) == pytest.approx(float(turned), rel=1e-6)


def test_prediction_changes():
    logits = loop_of(lambda z, e: z + e, zeros, read=lambda z: torch.stack([z, 2.5 - z], -1))
    path = trace(logits, torch.tensor([[1.0, 0.5, 0.0, 0.0]]), iterations=5)
    assert path.prediction_changes[:, 0].tolist() == [0.0, 0.25, 0.25, 0.0, 0.0]
    padded = FunctionLoop(logits.encode, logits.start, logits.step, logits.read, lambda e: e > 0)
    assert trace(padded, torch.tensor([[1.0, 0.5, 0.0, 0.0]]), iterations=3).prediction_changes[1, 0] == 0.5
    single = loop_of(lambda z, e: z + 1, lambda e: torch.full_like(e, -1.5), read=lambda z: z)
    assert trace(single, torch.zeros(1, 1), iterations=3).prediction_changes[:, 0].tolist() == [0.0, 1.0, 0.0]


def test_budget_is_kept_and_the_global_random_state_is_not_touched():
    calls = []

    def step(z, e):
        calls.append(len(z))
        return 0.999 * z + e

    loop = loop_of(step, start=lambda e, generator=None: torch.randn(e.shape, generator=generator))
    before = torch.get_rng_state()
    first, second, third = (trace(loop, torch.ones(3, 2), iterations=25, seed=seed) for seed in (0, 0, 1))
    assert calls == [3] * 75
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.state, second.state)
    assert not torch.equal(first.state, third.state)


class Attending(torch.nn.Module):
    """A small transformer with recall and outer normalization."""

    def __init__(self, width=16):
        super().__init__()
        self.encode = torch.nn.Linear(3, width)
        self.mix, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, 4)
        self.norm = torch.nn.RMSNorm(width)

    def start(self, recalled, generator=None):
        return recalled

    def step(self, state, recalled):
        query, key, value = self.mix(state + recalled).chunk(3, -1)
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return self.norm(state + attended)

    def read(self, state):
        return self.out(state)


def test_a_transformer_against_the_naive_loop_and_autocast():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Attending()
    with torch.no_grad():
        recalled = model.encode(torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0)))
        state = model.start(recalled)
        expected, read = [], []
        for _ in range(12):
            after = model.step(state, recalled)
            size = torch.maximum(state.flatten(1).norm(dim=1), after.flatten(1).norm(dim=1))
            expected.append((after - state).flatten(1).norm(dim=1) / size)
            old, new = (model.read(part).flatten(1) for part in (state, after))
            read.append((new - old).norm(dim=1) / torch.maximum(old.norm(dim=1), new.norm(dim=1)))
            state = after
    plain = trace(model, recalled, iterations=12)
    torch.testing.assert_close(plain.residual, torch.stack(expected))
    torch.testing.assert_close(plain.read_residual, torch.stack(read))
    torch.testing.assert_close(plain.state, state)
    with torch.autocast("cpu", torch.bfloat16):
        cast = trace(model, recalled, iterations=12)
    assert torch.equal(cast.residual, plain.residual)


def test_recalled_inputs_may_be_integers():
    loop = loop_of(lambda z, e: 0.5 * z + e, start=lambda e: torch.zeros(e.shape))
    path = trace(loop, torch.tensor([[3, 4]]), iterations=60)
    assert path.arrived[0]
    torch.testing.assert_close(path.state, torch.tensor([[6.0, 8.0]]))


def test_contraction_is_fitted_before_rounding_takes_over():
    floor = floor_of(F64)
    falling = 0.5 ** torch.arange(60, dtype=F64)
    rate, error = contraction(torch.cat([falling, torch.full((20,), 1e-17, dtype=F64)])[:, None], floor)
    assert float(rate) == pytest.approx(0.5, abs=0.02)
    assert float(error) < 0.1
    rate, error = contraction(torch.tensor([[0.5], [0.25]], dtype=F64), floor)
    assert float(rate) == pytest.approx(0.5)
    assert math.isinf(float(error))


def test_quantiles_leave_out_what_was_not_computed():
    values = torch.tensor([[1.0, 2.0, torch.nan, 3.0], [4.0, 4.0, 4.0, torch.nan]])
    assert quantiles(values, (0.0, 0.5, 1.0)).tolist() == [[1.0, 4.0], [2.0, 4.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": 0}, "iterations is 0, expected a whole number above 0"),
        ({"iterations": 5, "tolerance": 0.0}, "tolerance is 0, expected a number between 0 and 1"),
        ({"iterations": 5, "start": torch.zeros(3, 2)}, "3 states and 2"),
        ({"iterations": 5, "start": torch.zeros(2, 2, dtype=torch.bfloat16)}, "float32 or float64"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(LoopscopeError, match=message):
        trace(loop_of(lambda z, e: z + e), torch.zeros(2, 2), **arguments)


class TestBasin:
    """z -> tanh(2 z) has fixed points 0 (unstable) and +-a, whose basins are the half lines."""

    loop = loop_of(lambda z, e: torch.tanh(2 * z), start=lambda e: e)
    starts = torch.tensor([[0.3], [-0.3], [0.5], [0.1]], dtype=F64)

    def test_half_lines(self):
        path = trace(self.loop, self.starts, iterations=200)
        found = basin(self.loop, self.starts, path, iterations=200, radii=(0.01, 0.5, 3.0), random=4, foreign=3)
        assert (found.perturbed[:2] == 1).all()
        generator = torch.Generator().manual_seed(0)
        signs = torch.stack([torch.randn(4, 1, generator=generator, dtype=F64).sign() for _ in range(3)])
        start = path.state + 3.0 * path.state.abs() * signs[2]
        assert torch.equal(found.perturbed[2], (start.sign() == path.state.sign()).squeeze(1).to(F64))
        assert 0 < float(found.perturbed[2].sum()) < 4
        # The ends are +, -, +, +: which of them share a side with the one 1, 2 and 3 places further on?
        assert found.foreign.tolist() == [[0, 0, 1, 1], [1, 0, 1, 0], [1, 0, 0, 1]]
        share, known = fraction(found.random)
        assert share.shape == known.shape == (4,)
        assert 0 < float(share.mean()) < 1
        assert (known == 1).all()

    def test_everything_returns_under_a_contraction(self):
        loop = loop_of(lambda z, e: 0.5 * z + e)
        e = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
        found = basin(loop, e, trace(loop, e, iterations=100), iterations=100, random=2, foreign=2)
        assert all((part == 1).all() for part in (found.perturbed, found.random, found.foreign))

    def test_a_line_of_fixed_points_does_not_attract(self):
        loop = loop_of(lambda z, e: z, start=lambda e: e)
        e = torch.ones(2, 3)
        found = basin(loop, e, trace(loop, e, iterations=20), iterations=20, random=0)
        assert (found.perturbed == 0).all()
        assert found.random.shape == (0, 2)

    def test_unknown_is_said(self):
        sizes = []

        def step(z, e):
            sizes.append(len(z))
            return 0.99 * z + e

        loop = loop_of(step)
        e = torch.ones(2, 1, dtype=F64)
        exact = FixedPoints(100 * e, torch.zeros(2, dtype=F64), torch.tensor([True, False]))
        found = basin(loop, e, exact, iterations=5, radii=(0.5,), random=0, foreign=1)
        assert torch.isnan(found.perturbed).all()
        assert torch.isnan(found.foreign[0]).tolist() == [True, True]
        assert sizes == [1] * 6
        none = FixedPoints(100 * e, exact.error, torch.tensor([False, False]))
        assert torch.isnan(basin(loop, e, none, iterations=5).random).all()
        assert sizes == [1] * 6
        coarse = FixedPoints(100 * e, torch.full((2,), 10.0, dtype=F64), torch.tensor([True, True]))
        found = basin(loop, e, coarse, iterations=3000, radii=(0.5, 2.0), random=0, foreign=0)
        assert torch.isnan(found.perturbed).tolist() == [[True, True], [False, False]]
        share, known = fraction(found.perturbed)
        assert torch.isnan(share).tolist() == [True, False]
        assert known.tolist() == [0.0, 1.0]

    def test_other_shapes_are_unknown_and_radii_positive(self):
        mask = torch.tensor([[True, True], [True, False], [True, True]])
        loop = loop_of(lambda z, e: 0.5 * z + e, padding=lambda e: e[:, :, 0] > 0)
        e = mask[:, :, None] * torch.tensor([1.0, 2.0, 3.0], dtype=F64)[:, None, None]
        found = basin(loop, e, trace(loop, e, iterations=100), iterations=100, foreign=1)
        assert torch.isnan(found.foreign[0]).tolist() == [False, True, False]
        with pytest.raises(LoopscopeError, match=r"radii is .*, expected a number above 0"):
            basin(loop, e, trace(loop, e, iterations=100), iterations=100, radii=(0.0,))


class TestApproach:
    """Orbits that are on their way to a fixed point that is known leave early, and only those."""

    @staticmethod
    def known(points: Tensor) -> FixedPoints:
        batch = len(points)
        return FixedPoints(points, torch.full((batch,), 1e-9, dtype=F64), torch.ones(batch, dtype=torch.bool))

    def test_a_slow_orbit_is_cut_short_and_takes_on_the_fixed_point(self):
        rates = torch.tensor([[0.9], [0.98], [0.99]], dtype=F64)
        loop, start, points = (
            loop_of(lambda z, q: q * z + 1 - q),
            torch.zeros(3, 1, dtype=F64),
            torch.ones(3, 1).double(),
        )
        ends = follow(loop, rates, start, iterations=3000, until="arrival", toward=self.known(points))
        whole = follow(loop, rates, start, iterations=3000, until="arrival")
        assert ends.arrived.tolist() == ends.approached.tolist() == [True] * 3
        assert not whole.approached.any()
        # The distance is q^t: it has fallen to a twentieth after log(1/20) / log q steps.
        assert ends.iterations.tolist() == [math.ceil(math.log(1 / 20) / math.log(float(q))) for q in rates]
        assert (2 * ends.iterations < whole.iterations).all()
        assert torch.equal(ends.state, points)
        torch.testing.assert_close(ends.error, torch.full((3,), 1e-9, dtype=F64))

    def test_what_ends_beside_it_is_followed_to_its_own_end(self):
        # A line of fixed points along the second coordinate; the start is off it, and a little along it.
        shrink = torch.tensor([0.9, 1.0], dtype=F64)
        loop = loop_of(lambda z, e: shrink * z)
        start = torch.tensor([[1.0, 0.03]], dtype=F64)
        ends = follow(
            loop, start, start, iterations=1000, until="arrival", toward=self.known(torch.zeros(1, 2).double())
        )
        assert ends.arrived.tolist() == [True]
        assert ends.approached.tolist() == [False]
        torch.testing.assert_close(ends.state, torch.tensor([[0.0, 0.03]], dtype=F64), rtol=0, atol=1e-2)
        # A neighbour at a hundredth of the distance can't be told apart, one at three hundredths can.
        towards_a_neighbour = loop_of(lambda z, e: e + 0.95 * (z - e))
        one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64)
        ends = follow(towards_a_neighbour, 0.03 * one, one, iterations=1000, until="arrival", toward=self.known(zero))
        assert ends.approached.tolist() == [False]
        torch.testing.assert_close(ends.state, 0.03 * one, rtol=0, atol=float(ends.error))

    def test_what_has_not_arrived_is_no_place_to_go_to(self):
        points = torch.ones(2, 1, dtype=F64)
        known = FixedPoints(points, torch.zeros(2, dtype=F64), torch.tensor([True, False]))
        loop, rates = loop_of(lambda z, q: q * z + 1 - q), torch.full((2, 1), 0.98, dtype=F64)
        ends = follow(loop, rates, torch.zeros_like(rates), iterations=3000, until="arrival", toward=known)
        assert ends.approached.tolist() == [True, False]
        assert ends.arrived.all()

    @settings(max_examples=25)
    @given(st.integers(0, 10**6), st.floats(0.3, 0.97))
    def test_on_linear_maps_it_tells_what_the_whole_orbit_tells(self, seed, radius):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(6, 6, generator=generator, dtype=F64)
        matrix *= radius / torch.linalg.eigvals(matrix).abs().max()
        inputs, start = torch.randn(2, 5, 6, generator=generator, dtype=F64)
        loop = loop_of(lambda z, e: z @ matrix.T + e)
        points = torch.linalg.solve(torch.eye(6, dtype=F64) - matrix, inputs.T).T
        ends = follow(loop, inputs, start, iterations=2000, until="arrival", toward=self.known(points))
        whole = follow(loop, inputs, start, iterations=2000, until="arrival")
        assert ends.arrived.tolist() == whole.arrived.tolist() == [True] * 5
        near = ends.approached
        assert ((ends.state - points).norm(dim=1) <= ends.error)[near].all()
        # An orbit of its own ends where it would have; its error is an estimate from its last steps, not a bound.
        torch.testing.assert_close(ends.state[~near], whole.state[~near], rtol=0, atol=1e-12)
        assert (ends.iterations <= whole.iterations).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-9, 1.0, 1e9, 3e19, 1e30])
def test_orbits_of_any_scale_arrive_alike(scale):
    """From zero there is no first size to compare with, and squares of these numbers leave float32."""
    loop = loop_of(lambda z, e: 0.5 * z + scale * e)
    recalled = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    path = trace(loop, recalled, iterations=60)
    plain = trace(loop_of(lambda z, e: 0.5 * z + e), recalled, iterations=60)
    assert path.arrived.all()
    assert not path.diverged.any()
    assert torch.equal(path.iterations_to_tolerance, plain.iterations_to_tolerance)
    torch.testing.assert_close(path.state / scale, 2 * recalled, rtol=1e-5, atol=0)
    torch.testing.assert_close(path.norm / scale, plain.norm)
    torch.testing.assert_close(path.read_residual, plain.read_residual)
