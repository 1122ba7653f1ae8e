"""The options of training. This dataclass is the only place where they are listed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from loopscope.errors import LoopscopeError, check_choice, check_fraction, check_positive
from loopscope.training.objectives import AT_FIXED_POINT, LAST_ITERATIONS, OBJECTIVES, UNROLLED
from loopscope.training.precision import Precision
from loopscope.training.samplers import SAMPLERS
from loopscope.training.schedules import SCHEDULES

DEFAULT_SAMPLER = "uniform"
TOLERANCE = 1e-3
REGULARIZATION = ("jacobian_penalty", "state_noise", "random_starts")
"""Options that perturb the orbits of training, or add to its loss."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained.

    The defaults suit two cores. The paper uses 100 epochs, batches of 500 and schedule paper.

    Args:
        steps: number of optimizer steps.
        batch_size: number of examples per step, over all processes.
        learning_rate: largest learning rate of the schedule.
        schedule: paper (warm-up, then a drop to a tenth at 60%), cosine (warm-up over 5%, then to zero) or constant.
        weight_decay: weight decay of AdamW, on matrices only.
        beta2: decay rate of AdamW's estimate of the squared gradient; 0.95 recovers from spikes sooner than 0.999.
        gradient_clip: largest norm of the gradient.
        objective: what the loss is taken on. progressive: the last iterate, with gradient through the last iterations
            only; full: the last iterate, with gradient through all max_iterations; implicit: the fixed point, with its
            exact gradient; truncated: the fixed point, with the gradient of the last iterations; phantom: the fixed
            point, with the gradient of damped iterations.
        sampler: how the number of iterations of a step is drawn under progressive: uniform (as in the paper) or poisson
            (log-normal Poisson).
        max_iterations: largest number of iterations in training.
        checkpoint_every: keep one state for every this many iterations with gradient, and recompute the activations
            between them in the backward pass. This saves memory and costs a second forward pass. By default all
            activations are kept. For progressive and full.
        tolerance: relative residual at which a state counts as the fixed point, and tolerance of the linear solve of
            implicit; 1e-3 by default. For implicit, truncated and phantom.
        gradient_iterations: iterations with gradient at the fixed point, which are part of max_iterations. For truncated
            (1 by default, the one-step gradient) and phantom (5 by default).
        jacobian_penalty: weight of a penalty on the Jacobian of the step at the last state, its mean squared entry; such as
            0.1. For progressive and full, as are the next two.
        state_noise: noise that is added to the state after every iteration in training, relative to each token's root mean
            square; such as 0.1.
        random_starts: fraction of the examples that start at a random state in training; needs recall.
        precision: bf16 (autocast with float32 master weights), float32, or auto: bf16 on machines that multiply faster in
            it, float32 elsewhere.
        compile: whether to compile the step, which takes half a minute and pays off after a few hundred steps.
        seed: seed of the initial weights, the order of examples and the numbers of iterations.
        checkpoint_interval: steps between checkpoints.
        log_interval: steps between lines of metrics.
        threads: CPU threads of the run. Results are equal bit for bit only for equal numbers of threads.
    """

    steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    weight_decay: float = 0.01
    beta2: float = 0.999
    gradient_clip: float = 1.0
    objective: str = "progressive"
    sampler: str = DEFAULT_SAMPLER
    max_iterations: int = 30
    checkpoint_every: int | None = None
    tolerance: float | None = None
    gradient_iterations: int | None = None
    jacobian_penalty: float | None = None
    state_noise: float | None = None
    random_starts: float | None = None
    precision: Precision = "auto"
    compile: bool = True
    seed: int = 0
    checkpoint_interval: int = 100
    log_interval: int = 10
    threads: int = 1

    def __post_init__(self) -> None:
        check_positive(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            gradient_clip=self.gradient_clip,
            max_iterations=self.max_iterations,
            checkpoint_interval=self.checkpoint_interval,
            log_interval=self.log_interval,
            threads=self.threads,
        )
        if not 0 <= self.beta2 < 1:
            raise LoopscopeError(f"beta2 is {self.beta2}, expected a number of at least 0 and below 1, such as 0.95")
        if not 0 <= self.weight_decay < math.inf:
            raise LoopscopeError(f"weight_decay is {self.weight_decay}, expected a finite number of at least 0")
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("precision", self.precision, get_args(Precision))
        if self.objective in AT_FIXED_POINT:
            self._fill_in_at_fixed_point()
        self._refuse_what_the_objective_leaves_out()

    @property
    def regularized(self) -> list[str]:
        """The options of regularization that are given."""
        return [name for name in REGULARIZATION if getattr(self, name) is not None]

    def _fill_in_at_fixed_point(self) -> None:
        if self.sampler != DEFAULT_SAMPLER:
            raise LoopscopeError(
                f"sampler {self.sampler} was given with objective {self.objective}, which iterates until it arrives: "
                "leave sampler out, or set objective to progressive"
            )
        if self.tolerance is None:
            object.__setattr__(self, "tolerance", TOLERANCE)
        if self.gradient_iterations is None and self.objective in LAST_ITERATIONS:
            usual = LAST_ITERATIONS[self.objective]().iterations
            object.__setattr__(self, "gradient_iterations", min(usual, self.max_iterations))

    def _refuse_what_the_objective_leaves_out(self) -> None:
        for name, objectives in (
            ("checkpoint_every", UNROLLED),
            ("tolerance", AT_FIXED_POINT),
            ("gradient_iterations", tuple(LAST_ITERATIONS)),
            *((name, UNROLLED) for name in REGULARIZATION),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            check_positive(**{name: value})
            if self.objective not in objectives:
                raise LoopscopeError(
                    f"{name} {value} was given with objective {self.objective}, which does not use it: leave it out, "
                    f"or set objective to {' or '.join(objectives)}"
                )
        if self.random_starts is not None:
            check_fraction(random_starts=self.random_starts)
        if self.checkpoint_every is not None and self.regularized:
            raise LoopscopeError(
                f"checkpoint_every {self.checkpoint_every} was given with {', '.join(self.regularized)}, which draw random "
                "numbers that are not drawn twice: leave one of them out"
            )
        if self.tolerance is not None and not self.tolerance < 1:
            raise LoopscopeError(f"tolerance is {self.tolerance}, expected a number below 1, such as {TOLERANCE}")
        if self.gradient_iterations is not None and self.gradient_iterations > self.max_iterations:
            raise LoopscopeError(
                f"gradient_iterations is {self.gradient_iterations}, expected at most max_iterations ({self.max_iterations}), "
                "because they are the last of these iterations"
            )
