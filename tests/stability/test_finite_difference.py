"""Products with the Jacobian against finite differences: a step that hides a part of itself is found, others are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from loopscope.loop import FunctionLoop
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.stability.spectrum.finite_difference import check_differences

SIZE = 12
MATRIX = 0.98 * torch.linalg.qr(torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)))[0]
STATES = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(1))


def loop_of(step: Callable[[Tensor, Tensor], Tensor]) -> FunctionLoop:
    return FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z)


def turned(z: Tensor) -> Tensor:
    return z @ MATRIX.to(z).T


def half_hidden(z: Tensor, e: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = turned(z) / 2
    return turned(z) / 2 + hidden + e


class Doubled(torch.autograd.Function):
    """x, with a gradient twice as large and no other derivative."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return 2 * gradient


def one_number_hidden(z: Tensor, e: Tensor) -> Tensor:
    after = turned(z)
    return torch.cat([after[:, :-1], after[:, -1:].detach()], dim=1) + e


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_of_a_step_under_no_grad_is_half_of_the_difference(dtype: torch.dtype, scale: float) -> None:
    states = scale * STATES.to(dtype)
    found = check_differences(loop_of(half_hidden), states, states)
    assert found.hidden.all()
    assert found.disagreement.tolist() == pytest.approx([0.5] * 4, rel=0.01)
    assert (found.resolution < 0.01).all()


@pytest.mark.parametrize(
    "step",
    [
        one_number_hidden,
        lambda z, e: Doubled.apply(turned(z)) + e,
        lambda z, e: turned(z).detach() + 0 * z + e,
        lambda z, e: (turned(z).bfloat16() + turned(z).detach().bfloat16()).float() / 2 + e,
    ],
    ids=["one number", "wrong gradient", "no gradient", "half, in bfloat16"],
)
def test_every_way_to_hide_from_autograd_is_found(step: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert check_differences(loop_of(step), STATES, STATES).hidden.all()


@pytest.mark.parametrize(
    "step",
    [
        lambda z, e: turned(z) + e,
        lambda z, e: torch.tanh(3 * turned(z) + e),
        lambda z, e: torch.relu(turned(z)) + e,
        lambda z, e: torch.nn.functional.rms_norm(turned(z).square() + e, (SIZE,)),
        lambda z, e: turned(z.bfloat16()).float() + e,
        lambda z, e: 0.5 * (z + torch.floor(z)) + e,
        lambda z, e: e,
        lambda z, e: z / 0,
    ],
    ids=["affine", "tanh", "relu", "normalized", "bfloat16", "jumps", "constant", "infinite"],
)
@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_what_autograd_sees_whole_is_not_called_hidden(step: Callable[[Tensor, Tensor], Tensor], scale: float) -> None:
    assert not check_differences(loop_of(step), scale * STATES, STATES).hidden.any()


def test_only_the_examples_that_hide_something_are_named() -> None:
    hides = torch.tensor([True, False, True, False])[:, None]
    loop = loop_of(lambda z, e: torch.where(e > 0, turned(z), turned(z).detach() / 2 + turned(z) / 2))
    found = check_differences(loop, STATES, torch.where(hides, -1.0, 1.0).expand(4, SIZE))
    assert found.hidden.tolist() == [True, False, True, False]


@pytest.mark.parametrize("norm", ["pre", "outer"])
def test_a_looped_transformer_agrees_with_its_differences(norm: str) -> None:
    torch.manual_seed(0)
    config = LoopedTransformerConfig(
        recall="internal", norm=norm, width=16, heads=2, inputs=5, outputs=3, grid=(3, 3), attention="full"
    )
    model = LoopedTransformer(config).eval()
    with torch.no_grad():
        recalled = model.encode(torch.randn(3, 9, 5))
        state = model.step(model.start(recalled), recalled)
    before = torch.random.get_rng_state()
    found = check_differences(model, state, recalled)
    assert not found.hidden.any()
    assert (found.disagreement < 5e-3).all()
    assert torch.equal(before, torch.random.get_rng_state())
