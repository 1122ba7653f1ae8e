"""An orbit in its two principal directions, against a decomposition of its points."""

import numpy as np
import pytest
import torch

from loopscope.loop import FunctionLoop
from loopscope.stability.orbits.portrait import portrait
from loopscope.stability.starts import random_like


def orbit(loop, recalled, start, iterations):
    states = [start]
    for _ in range(iterations):
        states.append(loop.step(states[-1], recalled))
    return torch.cat(states).numpy()


@pytest.mark.parametrize("width", [1, 2, 50])
def test_the_plane_is_that_of_the_largest_singular_values(width):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5 / 2
    inputs = torch.randn(2, width, generator=generator, dtype=torch.float64)
    loop = FunctionLoop(
        encode=lambda x: x, start=lambda e: e / 2, step=lambda z, e: torch.tanh(z @ matrix) + e, read=lambda z: z
    )
    length = 12
    found = portrait(loop, inputs, inputs / 2, 1, iterations=length, tolerance=1e-4, seed=3)
    first = inputs[1:] / 2
    other = random_like(first, torch.Generator().manual_seed(3))
    path = orbit(loop, inputs[1:], first, length)
    points = np.concatenate([path, orbit(loop, inputs[1:], other, length)]) - path[-1]
    _, singular, directions = np.linalg.svd(points, full_matrices=False)
    expected = np.pad(points @ directions[:2].T, ((0, 0), (0, max(0, 2 - width))))
    got = np.array(found.path + found.foreign)
    # A direction may point either way.
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=1e-9)
    share = np.pad(singular**2 / (singular**2).sum(), (0, 1))[:2]
    np.testing.assert_allclose(found.explained, share, atol=1e-12)
