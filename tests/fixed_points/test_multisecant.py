"""Anderson and Broyden against the textbook methods, GMRES and closed forms."""

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from known_fixed_points import F64, SOLVERS, affine, from_zero, generator, linear, matrix_of, tanh

import loopscope as ls
from loopscope.fixed_points.anderson import AndersonMemory
from loopscope.fixed_points.multisecant import combine, dots, move_up
from loopscope.trees import select


def textbook_broyden(function, z, count):
    """Broyden's first method with a dense Jacobian of f(z) - z that begins at -I."""
    jacobian, residual, states = -torch.eye(len(z), dtype=F64), function(z) - z, [z]
    for _ in range(count):
        step = torch.linalg.solve(jacobian, -residual)
        z = z + step
        new = function(z) - z
        jacobian = jacobian + torch.outer(new - residual - jacobian @ step, step) / (step @ step)
        residual = new
        states.append(z)
    return states


def textbook_anderson(function, z, count, memory):
    """Anderson's method by a least-squares solve over the weights of the last values."""
    states, values = [z], [function(z)]
    for _ in range(count):
        kept = slice(max(0, len(states) - memory - 1), None)
        residuals = torch.stack([value - state for value, state in zip(values[kept], states[kept], strict=True)])
        differences = residuals[1:] - residuals[:-1]
        weights = torch.zeros(len(residuals), dtype=F64)
        weights[-1] = 1
        if len(differences):
            gamma = torch.linalg.lstsq(differences.T, residuals[-1]).solution
            weights[1:] -= gamma
            weights[:-1] += gamma
        states.append(weights @ torch.stack(values[kept]))
        values.append(function(states[-1]))
    return states


@pytest.mark.parametrize("memory", [1, 3, 20])
def test_the_textbook_methods(memory):
    loop, inputs, _ = tanh(batch=3)
    for count in range(1, 9):
        broyden = ls.solve(loop, inputs, solver=ls.Broyden(20), tolerance=1e-14, max_iterations=count + 1)
        anderson = ls.solve(loop, inputs, solver=ls.Anderson(memory, 1e-15), tolerance=1e-14, max_iterations=count + 1)
        for row in range(3):
            one = select(inputs, slice(row, row + 1))

            def function(z, one=one):
                return loop.step(z[None], one)[0]

            start = torch.zeros(12, dtype=F64)
            torch.testing.assert_close(broyden.state[row], textbook_broyden(function, start, count)[-1])
            expected = textbook_anderson(function, start, count, memory)[-1]
            torch.testing.assert_close(anderson.state[row], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", [ls.Anderson(memory=12, regularization=1e-14), ls.Broyden(memory=30)])
def test_affine_loops_end_in_finitely_many_evaluations(solver):
    # Even where plain iteration does not converge: Anderson is GMRES (n evaluations), Broyden takes at most 2 n.
    loop, inputs, exact = affine(size=12, batch=4, rates=(0.5, 1.0))
    found = ls.solve(loop, inputs, solver=solver, tolerance=1e-9, max_iterations=30, plain_iterations=50)
    assert found.arrived.all(), str(found)
    torch.testing.assert_close(found.state, exact, rtol=0, atol=1e-6)
    assert (found.iterations <= (16 if isinstance(solver, ls.Anderson) else 28)).all()
    assert found.same_as_plain[3] is None


def test_fewer_evaluations_where_plain_iteration_is_slow():
    loop, inputs, _ = affine(size=30, batch=8, rates=(0.98, 0.99))
    counts = {
        name: ls.solve(loop, inputs, solver=solver, tolerance=1e-8, max_iterations=5000).iterations
        for name, solver in SOLVERS.items()
    }
    assert (4 * counts["anderson"] < counts["plain"]).all()
    assert (4 * counts["broyden"] < counts["plain"]).all()


def gmres_iterates(matrix, u, count):
    """The k-th: the x among combinations of u, A u, ..., A^(k-1) u with the smallest ||u - A x||, A = I - J."""
    a = torch.eye(len(u), dtype=F64) - matrix
    krylov, iterates, residuals = [u / u.norm()], [torch.zeros_like(u)], [u.norm()]
    for _ in range(count):
        basis = torch.linalg.qr(torch.stack(krylov, dim=1))[0]
        weights = torch.linalg.lstsq(a @ basis, u[:, None], driver="gelsd").solution
        iterates.append((basis @ weights).squeeze(1))
        residuals.append((u - a @ iterates[-1]).norm())
        krylov.append(a @ basis[:, -1])
    return iterates, torch.stack(residuals)


@given(size=st.integers(1, 8), scale=st.floats(0.2, 4.0), seed=st.integers(0, 10**6))
@settings(max_examples=60)
def test_on_affine_loops_anderson_is_gmres(size, scale, seed):
    """State k + 1 is f of GMRES's k-th iterate (Walker and Ni, 2011, theorem 2.2), expanding loops included."""
    draw = torch.randn(size + 1, size, generator=generator(seed), dtype=F64)
    matrix, u = scale * draw[:size] / size**0.5, draw[size]
    iterates, residuals = gmres_iterates(matrix, u, size)
    solver = ls.Anderson(memory=size + 1, regularization=1e-15)
    for count in range(size + 1):
        # The theorem asks that GMRES has neither stagnated nor arrived before.
        assume(bool((residuals[1 : count + 1] < 0.99 * residuals[:count]).all()))
        if residuals[count - 1 if count else 0] < 1e-3 * residuals[0]:
            break
        found = ls.solve(
            linear(matrix), {"u": u[None]}, solver=solver, tolerance=1e-14, max_iterations=count + 2
        ).last_state[0]
        expected = matrix @ iterates[count] + u
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.norm() + iterates[count].norm()))


@pytest.mark.parametrize("solver", [ls.Anderson(), ls.Broyden()])
@pytest.mark.parametrize("slope", [1.3, 21.0, -5.0])
@pytest.mark.parametrize("size", [1, 8])
def test_one_slope_is_solved_in_three_evaluations(solver, slope, size):
    """z <- q z + u: the first difference is all there is to learn, however fast plain iteration runs away."""
    inputs = {"u": torch.linspace(1, 2, 2 * size, dtype=F64).view(2, size)}
    found = ls.solve(from_zero(lambda z, e: slope * z + e["u"]), inputs, solver=solver)
    assert found.iterations.tolist() == [3, 3]
    torch.testing.assert_close(found.state, inputs["u"] / (1 - slope), rtol=1e-5, atol=0)


@given(
    size=st.integers(1, 8),
    radius=st.floats(1.05, 10.0),
    seed=st.integers(0, 10**6),
    solver=st.sampled_from([ls.Anderson(memory=9, regularization=1e-14), ls.Broyden(memory=20)]),
)
@settings(max_examples=60)
def test_expanding_affine_loops_end_in_finitely_many_evaluations(size, radius, seed, solver):
    matrix = torch.randn(size, size, generator=generator(seed), dtype=F64)
    matrix = radius * matrix / torch.linalg.matrix_norm(matrix, 2)
    system = torch.eye(size, dtype=F64) - matrix
    assume(float(torch.linalg.cond(system)) < 30)
    inputs = {"u": torch.randn(2, size, generator=generator(seed + 1), dtype=F64)}
    found = ls.solve(linear(matrix), inputs, solver=solver, tolerance=1e-7, max_iterations=40)
    assert found.arrived.all(), str(found)
    # In exact arithmetic n + 2 and 2 n + 1.
    assert int(found.iterations.max()) <= (size + 6 if isinstance(solver, ls.Anderson) else 2 * size + 5)
    torch.testing.assert_close(found.state, torch.linalg.solve(system, inputs["u"].mT).mT, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", [ls.Anderson(), ls.Anderson(memory=8), ls.Broyden()])
def test_two_expanding_directions_among_many(solver):
    """More directions than are remembered: what contracts is left to plain steps."""
    rates = torch.cat([torch.tensor([1.3, -1.7], dtype=F64), torch.linspace(-0.8, 0.8, 28, dtype=F64)])
    inputs = {"u": torch.randn(4, 30, generator=generator(5), dtype=F64)}
    found = ls.solve(from_zero(lambda z, e: rates * z + e["u"]), inputs, solver=solver, tolerance=1e-8)
    assert found.arrived.all(), str(found)
    torch.testing.assert_close(found.state, inputs["u"] / (1 - rates), rtol=0, atol=1e-5)


def test_an_example_whose_residual_grows_starts_over_from_its_best_state():
    memory = AndersonMemory(torch.zeros(2, 3, dtype=F64), 2, 1e-8)
    points = torch.randn(4, 2, 3, generator=generator(), dtype=F64)
    # The first example's residual grows at the fourth evaluation, the second one's does not.
    values = points + torch.tensor([[1.0, 1.0], [0.5, 0.8], [0.2, 0.6], [0.3, 0.4]], dtype=F64)[..., None]
    assert memory.correction(points[0], values[0]) is None
    for point, value in zip(points[1:3], values[1:3], strict=True):
        memory.correction(point, value)
        assert not memory.restarted.any()
    next_points = values[3] + memory.correction(points[3], values[3])
    torch.testing.assert_close(next_points[0], values[2, 0])
    assert memory.used.sum(1).tolist() == [0, 2]
    # From there it begins anew, with a plain step; the way back taught nothing.
    after = next_points + 0.2
    assert not memory.correction(next_points, after)[0].any()


def test_growth_in_the_first_cycle_is_tolerated_until_the_memory_is_full():
    memory = AndersonMemory(torch.zeros(1, 3, dtype=F64), 4, 1e-8)
    points = torch.randn(4, 1, 3, generator=generator(), dtype=F64)
    for point, size in zip(points, (1.0, 5.0, 20.0, 80.0), strict=True):
        memory.correction(point, point + size)
        assert not memory.restarted.any()
    assert memory.used.sum() == 3


@given(
    exponent=st.integers(-90, 90),
    name=st.sampled_from(sorted(SOLVERS)),
    start=st.sampled_from([0.0, 1.0]),
)
# Here the squares of a change overflow, and those of the states do not.
@example(exponent=62, name="anderson", start=1.0)
@settings(max_examples=40)
def test_the_unit_of_the_state_does_not_matter(exponent, name, start):
    """In a unit 2^k times as large, float32 takes the same iterations to the same numbers, to the last bit."""
    matrix = matrix_of(6, dtype=torch.float32)
    u, first = torch.randn(2, 3, 6, generator=generator())

    def solved(unit):
        loop = linear(0.8 * matrix)
        return ls.solve(
            loop, {"u": u * unit}, start=start * first * unit, solver=SOLVERS[name], tolerance=1e-5, max_iterations=80
        )

    one, other = solved(1.0), solved(2.0**exponent)
    assert torch.equal(other.iterations, one.iterations)
    assert torch.equal(other.residual, one.residual)
    assert torch.equal(other.state, one.state * 2.0**exponent)


def test_long_and_short_vectors_are_multiplied_alike():
    for size in (7, 3000):
        basis = torch.randn(3, 4, size, generator=generator(), dtype=F64)
        vectors, weights = basis[:, 0] + 1, basis[:, :, 0]
        torch.testing.assert_close(dots(basis, vectors), torch.einsum("bmn,bn->bm", basis, vectors))
        torch.testing.assert_close(combine(weights, basis), torch.einsum("bm,bmn->bn", weights, basis))
        kept = torch.tensor([0, 2])
        expected = basis[kept].clone()
        assert torch.equal(move_up(basis, kept), expected)


@pytest.mark.parametrize("solver", [ls.Anderson, ls.Broyden])
def test_a_memory_that_nothing_could_hold_is_refused(solver):
    with pytest.raises(ls.LoopscopeError, match=r"memory is 1,000,000,000, expected at most 1,000 differences"):
        solver(memory=10**9)
