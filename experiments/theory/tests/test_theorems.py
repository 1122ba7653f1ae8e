"""The claims of docs/concepts/theory.md, checked in numbers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.functional import jacobian as jacobian_of

from experiments.theory.maps import RECALLS, full_matrix
from experiments.theory.tests.models import transformer
from loopscope import FunctionLoop
from loopscope.jacobian import input_jacobian, step_jacobian
from loopscope.loop import iterate
from loopscope.trees import flatten, token_norms

RECALLED = [recall for recall in RECALLS if recall != "none"]
NORMALIZED = ["outer", "sandwich"]


def settle(step, state, iterations=2000):
    for _ in range(iterations):
        state = step(state)
    return state


def test_without_recall_the_end_is_constant_within_a_basin():
    # z <- tanh(2 z) has in each coordinate the attracting points +-s and the repelling 0.
    def ends(e):
        return settle(lambda z: torch.tanh(2 * z), e)

    torch.manual_seed(0)
    e = torch.randn(200, 3, dtype=torch.float64)
    small = 1e-3 * torch.randn_like(e)
    same = (e.sign() == (e + small).sign()).all(1)
    assert same.sum() > 150
    torch.testing.assert_close(ends(e + small)[same], ends(e)[same], rtol=0, atol=1e-14)
    # At most 2^3 ends, however many inputs: the input chooses a basin and no more.
    assert len(torch.unique(ends(e).round(decimals=9), dim=0)) == 8


def test_with_recall_the_implicit_derivative_is_the_finite_change():
    torch.manual_seed(1)
    n, m, h = 6, 4, 1e-6
    w, u = (torch.randn(n, k, dtype=torch.float64) * 0.3 for k in (n, m))
    loop = FunctionLoop(
        lambda x: x, lambda e: torch.zeros(len(e), n).to(e), lambda z, e: torch.tanh(z @ w.T + e @ u.T), lambda z: z
    )
    e = torch.randn(1, m, dtype=torch.float64)
    fixed = settle(lambda z: loop.step(z, e), loop.start(e))
    # z = tanh(Wz + Ue): J = D W and df/de = D U with D = diag(1 - z^2).
    d = torch.diag(1 - fixed[0] ** 2)
    known = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - d @ w, d @ u)
    jacobian = full_matrix(step_jacobian(loop, fixed, e))[0]
    implicit = torch.linalg.solve(
        torch.eye(n, dtype=torch.float64) - jacobian, full_matrix(input_jacobian(loop, fixed, e))[0]
    )
    torch.testing.assert_close(implicit, known)
    for k in range(m):
        change = torch.zeros_like(e)
        change[0, k] = h
        up, down = (settle(lambda z, side=side: loop.step(z, side), fixed) for side in (e + change, e - change))
        torch.testing.assert_close((up - down)[0] / (2 * h), known[:, k], rtol=1e-6, atol=1e-9)
    # The input moves the point in as many directions as U has: not so without recall.
    assert int(torch.linalg.matrix_rank(known)) == m


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_the_jacobian_of_rmsnorm_and_the_left_direction_it_removes(seed, size):
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(2))
    x, g = size * x, g.abs() + 0.1
    eps = 1e-6
    jacobian = jacobian_of(lambda v: torch.nn.functional.rms_norm(v, (7,), g, eps), x)
    square = x.square().mean() + eps
    formula = torch.diag(g) / square.sqrt() @ (torch.eye(7, dtype=torch.float64) - torch.outer(x, x) / (7 * square))
    torch.testing.assert_close(jacobian, formula)
    n = torch.nn.functional.rms_norm(x, (7,), g, eps) / g**2
    # What is left of it is eps / rms^2 of the plain scaling: nothing, unless the token itself is tiny.
    torch.testing.assert_close(n @ jacobian, eps / square**2 * x, rtol=1e-6, atol=1e-9 / size)
    # It is a left direction: the right one, J x, vanishes likewise, but J z of another state does not.
    torch.testing.assert_close(jacobian @ x, eps / square**1.5 * g * x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("recall", RECALLS)
@pytest.mark.parametrize("norm", NORMALIZED)
def test_outer_normalization_bounds_tokens_and_removes_a_direction_of_each(recall, norm):
    model = transformer(recall, norm)
    gain = model.blocks[0].residual.norm_out.weight
    recalled = model.encode(torch.randn(1, 3, 5, dtype=torch.float64).expand(5, -1, -1))
    sizes = torch.tensor([1e-4, 1e-2, 1.0, 1e2, 1e5], dtype=torch.float64)
    after = model.step(sizes[:, None, None] * torch.randn(5, 3, 8, dtype=torch.float64), recalled)
    assert (token_norms(after / gain) <= math.sqrt(8)).all()
    assert (token_norms(after) <= math.sqrt(8) * gain.max()).all()

    jacobian = full_matrix(step_jacobian(model, after, recalled))
    image = model.step(after, recalled)
    for token in range(3):
        left = torch.zeros_like(image)
        left[:, token] = (image / gain**2)[:, token]
        left = flatten(left)
        passed = torch.linalg.vector_norm(torch.einsum("bi,bij->bj", left, jacobian), dim=1)
        assert (
            passed <= 1e-4 * torch.linalg.matrix_norm(jacobian, ord=2) * torch.linalg.vector_norm(left, dim=1)
        ).all()
    values = torch.linalg.svdvals(jacobian)
    assert (values[:, -3:] <= 1e-4 * values[:, :1]).all()
    # Removed on the left is not annihilated on the right: Jz is not zero.
    pushed = torch.einsum("bij,bj->bi", jacobian, flatten(after))
    assert (torch.linalg.vector_norm(pushed, dim=1) > 1e-3 * torch.linalg.vector_norm(flatten(after), dim=1)).all()


@pytest.mark.parametrize("recall", ["none", "internal"])
def test_the_gates_of_a_gru_keep_the_cube(recall):
    model = transformer(recall, "gru")
    recalled = model.encode(10 * torch.randn(50, 3, 5, dtype=torch.float64))
    state = 2 * torch.rand(50, 3, 8, dtype=torch.float64) - 1
    assert model.step(state, recalled).abs().max() <= 1
    assert (model.step(100 * state, recalled).abs().amax((1, 2)) <= (100 * state).abs().amax((1, 2))).all()


def test_peri_grows_at_most_linearly_and_pre_can_have_no_fixed_point():
    model = transformer("internal", "peri")
    recalled = model.encode(torch.randn(4, 3, 5, dtype=torch.float64))
    bound = 2 * math.sqrt(8) * float(model.blocks[0].residual.norm_update.weight.max())
    state = model.start(recalled)
    for _ in range(50):
        after = model.step(state, recalled)
        assert (token_norms(after - state) <= bound).all()
        state = after
    # Sub-layers that return a constant: z + c is never z.
    model = transformer("internal", "pre")
    for linear in (model.blocks[0].attention.out, model.blocks[0].mlp[2]):
        linear.weight.zero_()
    state = torch.randn(4, 3, 8, dtype=torch.float64)
    constant = model.blocks[0].attention.out.bias + model.blocks[0].mlp[2].bias
    torch.testing.assert_close(model.step(state, recalled) - state, constant.expand(4, 3, 8))


@pytest.mark.parametrize("norm", ["pre", "peri"])
def test_external_recall_adds_something_bounded_to_w_state(norm):
    model = transformer("external", norm)
    recalled = model.encode(torch.randn(1, 3, 5, dtype=torch.float64).expand(60, -1, -1))
    direction = torch.randn(60, 3, 8, dtype=torch.float64)
    added = [
        token_norms(model.step(size * direction, recalled) - size * direction @ model.recall.state.weight.T).max()
        for size in (1.0, 1e3, 1e6)
    ]
    assert max(added) <= 1.5 * added[0]


def strengthened(model, strength):
    """Return the model with W_input and its bias scaled."""
    model = copy.deepcopy(model)
    model.recall.input.weight *= strength
    model.recall.input.bias *= strength
    return model


def jacobians(model, x, states=20):
    """Return J at random states on the sphere that outer normalization leaves them on."""
    generator = torch.Generator().manual_seed(3)
    state = torch.randn(states, 3, 8, generator=generator, dtype=torch.float64)
    state = torch.nn.functional.rms_norm(state, (8,))
    return full_matrix(step_jacobian(model, state, model.encode(x.expand(states, -1, -1))))


def jacobian_norms(model, x):
    return torch.linalg.matrix_norm(jacobians(model, x), ord=2)


@pytest.mark.parametrize("recall", RECALLED)
@pytest.mark.parametrize("norm", NORMALIZED)
def test_strong_recall_makes_a_normalized_loop_a_contraction(recall, norm):
    model = transformer(recall, norm, gain=False)
    x = torch.randn(1, 3, 5, dtype=torch.float64)
    at = {strength: jacobian_norms(strengthened(model, strength), x) for strength in (1.0, 1e3, 1e4)}
    assert at[1e3].max() < 0.1
    # ||J|| falls as one over the strength of the recall, once for each sub-layer that recalls.
    power = {"external": 1, "internal": 2}[recall]
    torch.testing.assert_close(at[1e4] * 10**power, at[1e3], rtol=0.1, atol=0)
    strong = strengthened(model, 1e3)
    recalled = strong.encode(x.expand(30, -1, -1))
    ends = iterate(strong, 5 * torch.randn(30, 3, 8, dtype=torch.float64), recalled, 60)
    torch.testing.assert_close(ends, ends[:1].expand(30, -1, -1), rtol=0, atol=1e-10)
    # And it is this problem's own point: another input has another.
    other = strong.encode(x + torch.randn_like(x))
    assert torch.linalg.vector_norm(iterate(strong, ends[:1], other, 60) - ends[:1]) > 0.1


def test_strong_recall_does_not_make_pre_a_contraction():
    model = transformer("internal", "pre", gain=False)
    x = torch.randn(1, 3, 5, dtype=torch.float64)
    assert jacobian_norms(strengthened(model, 1e3), x).min() >= 1


def test_under_strong_external_recall_the_jacobian_of_pre_is_that_of_the_recall_map():
    model = transformer("external", "pre", gain=False)
    x = torch.randn(1, 3, 5, dtype=torch.float64)
    limit = torch.kron(torch.eye(3, dtype=torch.float64), model.recall.state.weight)
    near, far = ((jacobians(strengthened(model, strength), x) - limit).abs().max() for strength in (1e3, 1e4))
    assert near < 0.01
    torch.testing.assert_close(10 * far, near, rtol=0.1, atol=0)
