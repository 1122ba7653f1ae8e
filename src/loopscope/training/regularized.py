"""The objective with what may keep a loop from collapsing: noise, random starts and a penalty on the Jacobian."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loopscope.training.jacobian_penalty import jacobian_penalty, random_signs
from loopscope.training.random_starts import with_random_starts
from loopscope.training.samplers import IterationCounts
from loopscope.training.state_noise import with_noise
from loopscope.trees import Tree


class Regularized(nn.Module):
    """The logits of the last iterate, like ``Unrolled``, on orbits that are perturbed, with a penalty beside them.

    Args:
        model: a looped model.
        penalty: weight of the penalty on the Jacobian; None for none.
        noise: size of the noise after each iteration; None for none.
        starts: fraction of the examples that start at random; None for none.

    Attributes:
        figures: values of the last pass, for the metrics.
        extra_loss: what the last pass adds to the loss; None without a penalty.
    """

    def __init__(self, model: nn.Module, penalty: float | None, noise: float | None, starts: float | None) -> None:
        super().__init__()
        self.model, self.penalty, self.noise, self.starts = model, penalty, noise, starts
        self.figures: dict[str, float] = {}
        self.extra_loss: Tensor | None = None

    def forward(self, inputs: Tensor, counts: IterationCounts, generator: torch.Generator) -> Tensor:
        """Return the logits after the given numbers of iterations.

        Args:
            inputs: features of the input tokens.
            counts: iterations without and with gradient.
            generator: of all random numbers of this pass.
        """
        model = self.model
        recalled = model.encode(inputs)  # type: ignore[operator]
        state = model.start(recalled)  # type: ignore[operator]
        if self.starts is not None:
            state = with_random_starts(state, self.starts, generator)
        if counts.free:
            with torch.no_grad():
                state = self._iterate(state, recalled, counts.free, generator)
            # Under autocast, older PyTorch would reuse the weights that were cast here and pass no gradient.
            torch.clear_autocast_cache()
        state = self._iterate(state, recalled, counts.gradient, generator)
        self.figures = {"free_iterations": counts.free, "gradient_iterations": counts.gradient}
        self.extra_loss = None
        if self.penalty is not None:
            found = jacobian_penalty(model, state, recalled, random_signs(state, generator))  # type: ignore[arg-type]
            self.extra_loss = self.penalty * found
            self.figures["jacobian_penalty"] = float(found.detach())
        logits: Tensor = model.read(state)  # type: ignore[operator]
        return logits

    def _iterate(self, state: Tensor, recalled: Tree, iterations: int, generator: torch.Generator) -> Tensor:
        for _ in range(iterations):
            state = self.model.step(state, recalled)  # type: ignore[operator]
            if self.noise is not None:
                state = with_noise(state, self.noise, generator)
        return state
