"""A deep-equilibrium cell, z = tanh(LayerNorm(W z + U x + b)). Run: loopscope examine equilibrium_cell:make_loop"""

import torch
from torch.nn.functional import layer_norm

import loopscope as ls

WIDTH = 48


def make_loop() -> tuple[ls.FunctionLoop, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inward, bias = torch.randn(8, WIDTH, generator=generator), torch.randn(WIDTH, generator=generator)
    recurrent = 0.5 * torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    outward = torch.randn(WIDTH, 3, generator=generator)
    loop = ls.FunctionLoop(
        encode=lambda inputs: inputs @ inward + bias,  # the same in every iteration, so computed once
        start=torch.zeros_like,
        step=lambda state, recalled: torch.tanh(layer_norm(state @ recurrent + recalled, (WIDTH,))),
        read=lambda state: state @ outward,
    )
    return loop, torch.randn(64, 8, generator=generator)


if __name__ == "__main__":
    print(ls.examine(*make_loop()))
