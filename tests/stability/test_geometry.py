"""Axis 3 against closed forms, full Jacobians and plain backpropagation."""

import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loopscope.contexts import interruptible
from loopscope.errors import LoopscopeError, StoppedError
from loopscope.loop import FunctionLoop, iterate
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.stability.geometry import agreement, backwards, gradient_norms, radial_mode
from loopscope.stability.spectrum.eigenvalues import spectral_radius
from loopscope.stability.spectrum.singular_values import lipschitz, resolvent_norm, singular_value


def linear(matrix: Tensor) -> FunctionLoop:
    return FunctionLoop(lambda x: x, lambda e: torch.zeros_like(e), lambda z, e: z @ matrix.T + e, lambda z: z)


def transformer(norm: str, recall: str = "internal") -> tuple[LoopedTransformer, Tensor]:
    torch.manual_seed(0)
    config = LoopedTransformerConfig(
        recall=recall, norm=norm, width=16, heads=2, inputs=5, outputs=3, grid=(3, 3), attention="full"
    )
    model = LoopedTransformer(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model, torch.randn(2, 9, 5)


@given(st.floats(0.5, 1.3), st.floats(0, math.pi))
@settings(max_examples=20)
def test_a_rotation_changes_every_gradient_by_its_radius(radius: float, angle: float) -> None:
    c, s = math.cos(angle), math.sin(angle)
    matrix = radius * torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    found = gradient_norms(linear(matrix), torch.ones(3, 2, dtype=torch.float64), 20)
    expected = radius ** torch.arange(1, 21, dtype=torch.float64)
    assert torch.allclose(found.norms, expected.expand(3, -1))
    assert torch.allclose(found.slope, torch.full((3,), math.log(radius), dtype=torch.float64))
    change = 20 * math.log(radius)
    assert (
        found.label
        == (("exploding" if change > math.log(10) else "vanishing" if change < -math.log(10) else "steady"),) * 3
    )
    assert agreement(found.slope, torch.full((3,), radius)).abs().max() < 1e-6


def test_gradients_are_those_of_backpropagation_through_the_orbit() -> None:
    model, inputs = transformer("outer")
    recalled = model.encode(inputs)
    found = gradient_norms(model, recalled, 6, cotangents=1, seed=3)
    orbit = [model.step(model.start(recalled), recalled).detach().requires_grad_()]
    for _ in range(6):
        orbit.append(model.step(orbit[-1], recalled))
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(2, 144, generator=generator, dtype=torch.float64)
    cotangent = (drawn / drawn.norm(dim=1, keepdim=True)).float().view_as(orbit[-1])
    gradients = torch.autograd.grad(orbit[-1], orbit[:-1], cotangent)
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in reversed(gradients)], dim=1)
    assert torch.allclose(found.norms.float(), norms, rtol=1e-4)


def test_a_normalized_start_at_zero_is_left_out() -> None:
    """The derivative in z_0 is singular there, and reaches no parameter: the growth is that of a start elsewhere."""
    rng = torch.Generator().manual_seed(0)
    matrix = 0.5 * torch.randn(8, 8, generator=rng) / math.sqrt(8)
    recalled = torch.randn(4, 8, generator=rng)

    def growth(start: float) -> Tensor:
        loop = FunctionLoop(
            encode=lambda x: x,
            start=lambda e: torch.full_like(e, start),
            step=lambda z, e: torch.tanh(torch.nn.functional.rms_norm(z, (8,)) @ matrix + e),
            read=lambda z: z,
        )
        found = gradient_norms(loop, recalled, 6)
        return found.slope.exp()

    assert (growth(0.0) < 1.02).all()
    assert growth(0.0).median().item() == pytest.approx(growth(0.1).median().item(), rel=0.2)


def test_slope_agrees_with_the_spectrum_at_a_fixed_point() -> None:
    rng = torch.Generator().manual_seed(0)
    a = 0.9 * torch.randn(60, 60, generator=rng, dtype=torch.float64) / math.sqrt(60)
    loop = FunctionLoop(lambda x: x, lambda e: torch.zeros_like(e), lambda z, e: torch.tanh(z @ a.T + e), lambda z: z)
    inputs = 0.1 * torch.randn(4, 60, generator=rng, dtype=torch.float64)
    fixed = iterate(loop, loop.start(inputs), inputs, 500)
    radius = spectral_radius(loop, fixed, inputs).radius
    found = gradient_norms(loop, inputs, 120, state=fixed)
    assert (found.slope_error > 0).all()
    assert (agreement(found.slope, radius).abs() < 0.01).all()
    assert set(found.label) == {"vanishing"}


def test_vanished_gradient_is_vanishing() -> None:
    found = gradient_norms(linear(torch.zeros(3, 3)), torch.ones(2, 3), 5)
    assert (found.norms == 0).all()
    assert found.label == ("vanishing", "vanishing")
    assert (found.slope == -math.inf).all()


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_gradients_beyond_what_float32_holds_keep_their_slope(factor: float) -> None:
    loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: factor * z, lambda z: z)
    found = gradient_norms(loop, torch.ones(2, 4), 60)
    assert found.slope.tolist() == pytest.approx([math.log(factor)] * 2, rel=1e-6)
    assert found.norms[0, -1].log10().item() == pytest.approx(60 * math.log10(factor), rel=1e-6)


def test_diverged_orbit_is_unknown() -> None:
    loop = FunctionLoop(lambda x: x, lambda e: e, lambda z, e: z**3, lambda z: z)
    found = gradient_norms(loop, torch.full((1, 2), 1e3), 12)
    assert found.label == ("unknown",)


@pytest.mark.parametrize("norm", ["outer", "sandwich"])
def test_outer_normalization_removes_the_radial_direction(norm: str) -> None:
    model, inputs = transformer(norm)
    with torch.no_grad():
        recalled = model.encode(inputs)
        state = iterate(model, model.start(recalled), recalled, 3)
    gain = dict(model.named_parameters())["blocks.0.residual.norm_out.weight"].detach()
    with_gain = radial_mode(model, state, recalled, gain)
    without = radial_mode(model, state, recalled)
    assert with_gain.gain.shape == (2, 9)
    assert (with_gain.gain < 1e-4).all()
    assert (without.gain > 1e-2).any()
    assert with_gain.known_gain
    assert not without.known_gain


def test_without_outer_normalization_the_radial_mode_passes() -> None:
    model, inputs = transformer("pre")
    with torch.no_grad():
        recalled = model.encode(inputs)
        state = iterate(model, model.start(recalled), recalled, 20)
    found = radial_mode(model, state, recalled)
    assert (found.gain > 0.5).all()
    ratio = model.step(state, recalled).flatten(1).norm(dim=1) / state.flatten(1).norm(dim=1)
    assert torch.allclose(found.growth, ratio.log())


def test_singular_values_of_a_looped_transformer_are_those_of_its_full_jacobians() -> None:
    model, inputs = transformer("outer")
    with torch.no_grad():
        recalled = model.encode(inputs)
        state = iterate(model, model.start(recalled), recalled, 30)
    before = torch.random.get_rng_state()
    expansion = singular_value(model, state, recalled)
    resolvent, response = resolvent_norm(model, state, recalled), lipschitz(model, state, recalled, inputs)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    flat = state.flatten(1)

    def step(point: Tensor, row: int) -> Tensor:
        chosen = {name: value[row : row + 1] for name, value in recalled.items()}
        return model.step(point.view(1, 9, 16), chosen).flatten()

    def through(x: Tensor, row: int) -> Tensor:
        return model.step(state[row : row + 1], model.encode(x.view(1, 9, 5))).flatten()

    for row in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda z, r=row: step(z, r), flat[row]).double().numpy()
        inward = torch.autograd.functional.jacobian(lambda x, r=row: through(x, r), inputs[row].flatten())
        inverse = np.linalg.inv(np.eye(144) - jacobian)
        for one, matrix in (
            (expansion, jacobian),
            (resolvent, inverse),
            (response, inverse @ inward.double().numpy()),
        ):
            assert bool(one.converged[row])
            assert float(one.value[row]) == pytest.approx(np.linalg.norm(matrix, 2), rel=0.01)
    assert response.path == "inputs, through encode"


@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 5, 10, 99, 100, 101])
def test_an_orbit_is_walked_backwards_with_few_of_its_states_held(iterations: int) -> None:
    held: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def step(z: Tensor, e: Tensor) -> Tensor:
        nonlocal most
        after = z + e
        held.add(after)
        most = max(most, len(held))
        return after

    loop = FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z)
    seen = [float(state) for state in backwards(loop, torch.ones(1, 1), torch.zeros(1, 1), iterations)]
    assert seen == list(range(iterations, 0, -1))
    assert most <= 2 * math.sqrt(iterations) + 3


def test_gradients_end_when_their_time_is_over() -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 70

    with interruptible(stop), pytest.raises(StoppedError):
        gradient_norms(linear(torch.eye(2)), torch.ones(1, 2), 100)
    assert asked == 71


def test_bad_options_are_refused() -> None:
    with pytest.raises(LoopscopeError, match="iterations"):
        gradient_norms(linear(torch.eye(2)), torch.ones(1, 2), 0)
    with pytest.raises(LoopscopeError, match="zero"):
        radial_mode(linear(torch.eye(2)), torch.ones(1, 2), torch.ones(1, 2), torch.tensor([1.0, 0.0]))
