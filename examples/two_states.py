"""A TRM-like block with two states, an answer y and a scratchpad z. Run: loopscope examine two_states:make_loop"""

import torch
from torch.nn.functional import gelu, rms_norm

import loopscope as ls

TOKENS, WIDTH = 6, 24


def make_loop() -> tuple[ls.FunctionLoop, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    think, answer, mix = (torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 for _ in range(3))

    def step(state: dict[str, torch.Tensor], recalled: torch.Tensor) -> dict[str, torch.Tensor]:
        y, z = state["y"], state["z"]
        z = rms_norm(z + gelu((recalled + y + z) @ think), (WIDTH,))
        y = rms_norm(y + gelu((y + z) @ answer) + z.mean(1, keepdim=True) @ mix, (WIDTH,))
        return {"y": y, "z": z}

    loop = ls.FunctionLoop(
        encode=lambda inputs: inputs,
        start=lambda recalled: {"y": torch.zeros_like(recalled), "z": torch.zeros_like(recalled)},
        step=step,
        read=lambda state: state["y"],
    )
    return loop, torch.randn(32, TOKENS, WIDTH, generator=generator)


if __name__ == "__main__":
    print(ls.examine(*make_loop()))
