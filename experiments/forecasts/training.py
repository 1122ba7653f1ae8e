"""Training a loop in seconds, and damping it afterwards."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from experiments.forecasts.families import Family, Strings
from experiments.forecasts.tasks import TASKS
from loopscope import FunctionLoop
from loopscope.loop import Tree, iterate
from loopscope.trees import tree_map

BATCH = 64
WARM_UP = 20
"""Number of updates until the learning rate is reached. It then falls linearly to a tenth."""

Schedule = Literal["fixed", "sampled"]
"""Whether every update uses the same number of iterations, or one drawn between half and one and a half times that."""


def trained(family: Family, seed: int, rate: float, schedule: Schedule) -> Strings:
    """Return a trained loop of a family.

    Args:
        family: the family.
        seed: seed of weights and problems.
        rate: learning rate of Adam.
        schedule: how the number of iterations of each update is chosen.
    """
    task, loop = TASKS[family.task], family.untrained(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(loop.parameters(), rate)
    for update in range(family.updates):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (update + 1) / WARM_UP) * (1 - 0.9 * update / family.updates)
        problems = task.draw(BATCH, generator)
        iterations = family.iterations
        if schedule == "sampled":
            least, most = iterations // 2, iterations + iterations // 2
            iterations = int(torch.randint(least, most + 1, (), generator=generator))
        recalled = loop.encode(problems.inputs)
        state = iterate(loop, loop.start(recalled), recalled, iterations)
        loss = nn.functional.cross_entropy(loop.read(state).flatten(0, 1), problems.answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(loop.parameters(), 1.0)
        optimizer.step()
    return loop.eval().requires_grad_(False)


def damped(loop: Strings, share: float, iterations: int) -> FunctionLoop:
    """Return z <- z + share (f(z) - z), started at the state of the undamped loop after some iterations.

    The damped loop has the same fixed points and moves towards or away from them more slowly, so it fails later.
    """

    def start(recalled: Tree) -> Tree:
        return iterate(loop, loop.start(recalled), recalled, iterations)

    def step(state: Tree, recalled: Tree) -> Tree:
        return tree_map(lambda old, new: old + share * (new - old), state, loop.step(state, recalled))

    return FunctionLoop(loop.encode, start, step, loop.read)
