"""A GRU cell iterated on a constant input. Run: loopscope examine gru_loop:make_loop --out gru.html"""

import torch

import loopscope as ls

WIDTH = 32


def make_loop() -> tuple[ls.FunctionLoop, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cell = torch.nn.GRUCell(8, WIDTH)
        readout = torch.nn.Linear(WIDTH, 2)
    loop = ls.FunctionLoop(
        encode=lambda inputs: inputs,
        start=lambda recalled: recalled.new_zeros(len(recalled), WIDTH),
        step=lambda state, recalled: cell(recalled, state),
        read=readout,
    )
    return loop, torch.randn(64, 8, generator=generator)


if __name__ == "__main__":
    print(ls.examine(*make_loop()))
