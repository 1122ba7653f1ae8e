"""Loops whose fixed points are known in closed form or by Newton's method, and solvers to try on them."""

from __future__ import annotations

import torch

import loopscope as ls
from loopscope.loop import FunctionLoop

F64 = torch.float64
SOLVERS = {
    "plain": ls.PlainIteration(),
    "damped": ls.DampedIteration(0.7),
    "anderson": ls.Anderson(),
    "anderson-1": ls.Anderson(memory=1),
    "broyden": ls.Broyden(),
    "broyden-3": ls.Broyden(memory=3),
}
ACCELERATED = {name: solver for name, solver in SOLVERS.items() if name != "plain"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def from_zero(step, **others) -> FunctionLoop:
    return FunctionLoop(
        encode=lambda x: x, start=lambda e: torch.zeros_like(e["u"]), step=step, read=lambda z: z, **others
    )


def matrix_of(size, seed=0, dtype=F64):
    """A non-normal matrix of spectral radius one, complex pairs included."""
    matrix = torch.randn(size, size, generator=generator(seed), dtype=F64)
    return (matrix / torch.linalg.eigvals(matrix).abs().max()).to(dtype)


def linear(matrix, **others) -> FunctionLoop:
    """z <- J z + u, from zero."""
    return from_zero(lambda z, e: z @ matrix.T + e["u"], **others)


def affine(size=12, batch=6, dtype=F64, rates=(0.2, 0.95)):
    """z <- q W z + u, with its own q for each example: (loop, inputs, fixed points)."""
    matrix = matrix_of(size, dtype=dtype)
    inputs = {
        "q": torch.linspace(*rates, batch, dtype=dtype),
        "u": torch.randn(batch, size, generator=generator(1), dtype=F64).to(dtype),
    }
    exact = torch.linalg.solve(
        torch.eye(size, dtype=F64) - inputs["q"].double()[:, None, None] * matrix, inputs["u"].double()
    )
    return from_zero(lambda z, e: e["q"][:, None] * (z @ matrix.T) + e["u"]), inputs, exact


def tanh(size=12, batch=6, dtype=F64):
    """z <- tanh(q W z + u); the fixed points by Newton's method."""
    matrix = matrix_of(size, dtype=dtype)
    _, inputs, _ = affine(size, batch, dtype, rates=(0.2, 0.9))
    exact = torch.zeros(batch, size, dtype=F64)
    for row in range(batch):
        scaled, shift, z = inputs["q"][row].double() * matrix.double(), inputs["u"][row].double(), exact[row]
        for _ in range(50):
            value = torch.tanh(scaled @ z + shift)
            slope = (1 - value**2)[:, None] * scaled
            z = z + torch.linalg.solve(torch.eye(size, dtype=F64) - slope, value - z)
        exact[row] = z
    return from_zero(lambda z, e: torch.tanh(e["q"][:, None] * (z @ matrix.T) + e["u"])), inputs, exact


def cosine(dtype=F64):
    """z <- cos(z), whose fixed point is Dottie's number."""
    inputs = {"u": torch.linspace(-1, 2, 4, dtype=dtype)[:, None]}
    loop = FunctionLoop(encode=lambda x: x, start=lambda e: e["u"], step=lambda z, e: torch.cos(z), read=lambda z: z)
    return loop, inputs, torch.full((4, 1), 0.7390851332151607, dtype=F64)


PROBLEMS = {"affine": affine, "tanh": tanh, "cosine": cosine}
