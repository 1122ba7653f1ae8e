"""Exponents of J_t ... J_1 against closed forms, dense products and determinants."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.jacobian import step_jacobian
from loopscope.kinds import HeldLoop, timed
from loopscope.kinds.timed import noise
from loopscope.stability.spectrum.exponents import LEAST, _first_vectors, exponents_along

F64 = torch.float64


def loop_of(step, start=torch.zeros_like, read=lambda z: z, **options):
    return ls.FunctionLoop(encode=lambda x: x, start=start, step=step, read=read, **options)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def orthogonal(n, seed):
    return torch.linalg.qr(normal(n, n, seed=seed))[0]


def turning(factors):
    """Return an affine step whose directions turn at every iteration while they are scaled by known factors.

    J_t = U_(t+1) D_t U_t^T, so that the product telescopes to U_T (D_(T-1) ... D_0) U_0^T.
    """
    period, n = factors.shape
    frames = [orthogonal(n, seed) for seed in range(period)]

    def step(z, e, iteration):
        now, then = frames[iteration % period], frames[(iteration + 1) % period]
        matrix = then @ torch.diag(factors[iteration % period]) @ now.T
        return z @ matrix.T.to(z) + e

    return step


def test_an_affine_loop_that_changes_over_time_has_its_known_exponents():
    factors = torch.tensor([[1.5, 0.9, 0.5, 0.1], [0.6, 0.5, 0.3, 0.2], [1.1, 0.6, 0.3, 0.2]], dtype=F64)
    known = factors.log().mean(0)
    for dtype in (F64, torch.float32):
        found = ls.exponents(loop_of(turning(factors)), normal(2, 4).to(dtype), iterations=80, count=3)
        torch.testing.assert_close(found.values, known[:3].expand(2, 3), atol=1e-3, rtol=0)
        assert bool((found.error < 0.1).all())


def test_a_pace_that_never_repeats_is_averaged_over_the_iterations_that_count():
    def step(z, e, iteration):
        return math.exp(-0.2 - 0.5 / (1 + iteration)) * z.flip(1) + e

    found = ls.exponents(loop_of(step), normal(1, 3), iterations=120, count=2)
    assert found.first == 30
    assert found.counted.tolist() == [90]
    known = sum(-0.2 - 0.5 / (1 + t) for t in range(30, 120)) / 90
    torch.testing.assert_close(found.values, torch.full((1, 2), known, dtype=F64), atol=1e-6, rtol=0)


WEIGHTS = normal(5, 5, seed=3) / 5**0.5


def tanh_step(z, e, iteration):
    return torch.tanh((1.4 + 0.6 * math.cos(iteration)) * z @ WEIGHTS.T.to(z) + e)


def dense(loop, inputs, iterations):
    """Return the Jacobians of one example along its orbit, in full."""
    view = timed(loop)
    state = view.start(inputs)
    held, found = step_jacobian(HeldLoop(view), state, inputs), []
    for _ in range(iterations):
        here = held.at(state)
        found.append(torch.stack([here.jvp(unit[None])[0] for unit in torch.eye(here.size, dtype=F64)], 1))
        state = view.step(state, inputs)
    return found


def test_exponents_agree_with_the_dense_product_in_float64():
    loop, inputs = loop_of(tanh_step), normal(1, 5, seed=4)
    found = ls.exponents(loop, inputs, iterations=60, count=5)
    jacobians, logs = dense(loop, inputs, 60), []
    frame = _first_vectors(inputs, None, 5, seed=0)[0]
    for jacobian in jacobians:
        frame, triangle = torch.linalg.qr(jacobian @ frame)
        logs.append(triangle.diagonal().abs().log())
    torch.testing.assert_close(found.growth[:, 0], torch.stack(logs), atol=1e-9, rtol=0)
    expected = torch.stack(logs)[found.first :].mean(0).sort(descending=True).values
    torch.testing.assert_close(found.values[0], expected, atol=1e-9, rtol=0)
    # The largest singular value of the product bounds the growth of every error, and is nearly reached.
    product = torch.linalg.multi_dot(list(reversed(jacobians[found.first :])))
    most = float(torch.linalg.matrix_norm(product, 2).log()) / 45
    assert 0 <= most - float(found.values[0, 0]) <= float(found.error[0, 0])


def test_all_exponents_add_up_to_the_mean_log_determinant():
    loop, inputs = loop_of(tanh_step), normal(1, 5, seed=5)
    found = ls.exponents(loop, inputs, iterations=40, count=5)
    volumes = torch.stack([torch.linalg.slogdet(one)[1] for one in dense(loop, inputs, 40)])
    torch.testing.assert_close(found.values.sum(), volumes[found.first :].mean(), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.growth[:, 0].sum(1), volumes, atol=1e-9, rtol=0)


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 4))
def test_those_of_an_autonomous_affine_loop_are_the_logs_of_the_moduli_of_its_eigenvalues(seed, n):
    matrix = normal(n, n, seed=seed) / n**0.5
    known = torch.linalg.eigvals(matrix).abs().log().sort(descending=True).values
    found = ls.exponents(loop_of(lambda z, e: z @ matrix.T + e), normal(1, n, seed=seed + 1), iterations=80, count=n)
    # The sum is exact, and each of them within its error, which is a 95% interval: twice that fails for no seed in a thousand.
    torch.testing.assert_close(found.values.sum(), known.sum(), atol=1e-6, rtol=0)
    assert bool(((found.values[0] - known).abs() <= 2 * found.error[0] + 1e-6).all())


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.2, 3.0))
def test_a_scaled_step_shifts_all_exponents_by_its_logarithm(seed, factor):
    matrix, inputs = normal(3, 3, seed=seed), normal(1, 3, seed=seed)
    one, other = (
        ls.exponents(loop_of(lambda z, e, by=by: by * z @ matrix.T), inputs, iterations=20, count=3)
        for by in (1.0, factor)
    )
    torch.testing.assert_close(other.values, one.values + math.log(factor), atol=1e-8, rtol=0)


def test_a_counter_in_the_state_gives_the_same_as_a_step_that_takes_the_iteration():
    def counting(state, e):
        return {"z": tanh_step(state["z"], e, int(state["t"][0])), "t": state["t"] + 1}

    def start(e):
        return {"z": torch.zeros_like(e), "t": torch.zeros(len(e), dtype=torch.long)}

    inputs = normal(2, 5, seed=6)
    asked = ls.exponents(loop_of(tanh_step), inputs, iterations=24, count=3)
    counted = ls.exponents(loop_of(counting, start, lambda state: state["z"]), inputs, iterations=24, count=3)
    torch.testing.assert_close(counted.values, asked.values)


def test_each_example_has_its_own_exponents():
    factors = torch.tensor([0.9, 0.5, 1.2], dtype=F64)[:, None]
    loop = loop_of(lambda z, e: factors[: len(z)] * z)
    together = ls.exponents(loop, normal(3, 2), iterations=16, count=1)
    torch.testing.assert_close(together.values, factors.log())


def test_padding_does_not_count():
    def step(z, e, iteration):
        return 0.5 * z * torch.tensor([1.0, 1.0, 50.0], dtype=F64)[:, None] + e

    loop = loop_of(step, padding=lambda e: torch.tensor([True, True, False]).expand(len(e), 3))
    found = ls.exponents(loop, normal(2, 3, 4), iterations=20, count=10)
    assert found.values.shape == (2, 8), "as many as a state has numbers of real tokens"
    torch.testing.assert_close(found.values, torch.full((2, 8), math.log(0.5), dtype=F64))


def test_those_of_a_stochastic_loop_are_under_the_noise_of_its_draw():
    def step(z, e, generator):
        return 0.7 * torch.exp(0.4 * torch.randn(z.shape, generator=generator, dtype=z.dtype)) * z + e

    found = ls.exponents(loop_of(step), normal(1, 1), iterations=200, count=1, seed=5)
    drawn = [torch.randn(1, 1, generator=noise(5, 0, t, torch.device("cpu")), dtype=F64) for t in range(50, 200)]
    known = math.log(0.7) + 0.4 * float(torch.cat(drawn).mean())
    assert float(found.values) == pytest.approx(known, abs=1e-9)
    # The error is about the mean over all draws, log 0.7.
    assert abs(known - math.log(0.7)) <= float(found.error)


def test_a_chaotic_loop_has_a_positive_exponent():
    logistic = loop_of(lambda z, e: 4 * z * (1 - z), lambda e: torch.full_like(e, 0.2345))
    found = ls.exponents(logistic, torch.zeros(1, 1, dtype=F64), iterations=400, count=1)
    assert float(found.values) == pytest.approx(math.log(2), abs=float(found.error))
    assert float(found.values - found.error) > 0.4


def test_an_orbit_that_overflows_counts_as_far_as_it_is_finite():
    growing = loop_of(lambda z, e: torch.tensor([[3.0], [0.5]])[: len(z)] * z + e)
    found = ls.exponents(growing, torch.ones(2, 2), iterations=120, count=1)
    torch.testing.assert_close(found.values.exp(), torch.tensor([[3.0], [0.5]], dtype=F64))
    assert found.counted[0] < found.counted[1] == 90
    assert bool(found.growth[-1, 0].isnan().all())


def test_a_step_that_forgets_its_state_has_the_least_exponent():
    found = ls.exponents(loop_of(lambda z, e: e + 0 * z), normal(1, 2), iterations=20, count=2)
    assert found.values[0].tolist() == pytest.approx([LEAST, LEAST])


def test_the_time_may_be_over_early():
    loop, inputs = loop_of(lambda z, e: z / 2 + e), normal(1, 2)
    asked = iter([False] * 9 + [True])
    found = exponents_along(loop, inputs, inputs, iterations=100, count=1, stop=lambda: next(asked))
    assert len(found.growth) == 10


def test_what_cannot_be_followed_is_refused():
    table = torch.ones(6, dtype=F64)

    def short(z, e, iteration):
        return table[iteration] * z / 2 + e

    with pytest.raises(
        LoopscopeError, match=r"the step fails at iteration 6, counted from 0 .*ask for at most 6 iterations"
    ):
        ls.exponents(loop_of(short), normal(1, 2), iterations=20)
    with pytest.raises(LoopscopeError, match="carries no gradient"):
        ls.exponents(loop_of(lambda z, e: z.detach() / 2 + e), normal(1, 2), iterations=20)
    with pytest.raises(LoopscopeError, match="count is 0, expected"):
        ls.exponents(loop_of(lambda z, e: z / 2 + e), normal(1, 2), count=0)
