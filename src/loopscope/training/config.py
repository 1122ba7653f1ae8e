"""The options of training: this dataclass is their only list."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from loopscope.errors import LoopscopeError, check_choice, check_positive
from loopscope.training.objectives import AT_FIXED_POINT, LAST_ITERATIONS, OBJECTIVES, UNROLLED
from loopscope.training.precision import Precision
from loopscope.training.samplers import SAMPLERS
from loopscope.training.schedules import SCHEDULES

DEFAULT_SAMPLER = "uniform"
TOLERANCE = 1e-3


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained.

    The defaults suit two cores; the paper's are 100 epochs, batch 500, schedule paper.

    Args:
        steps: optimizer steps.
        batch_size: examples per step, over all processes.
        learning_rate: the largest learning rate of the schedule.
        schedule: paper (warm-up, then a drop to a tenth at 60%), cosine (warm-up over 5%, then to zero) or constant.
        weight_decay: of AdamW; none on biases and norm gains.
        beta2: of AdamW: how slowly its estimate of the gradient's variance forgets; 0.95 recovers sooner from spikes.
        gradient_clip: largest norm of the gradient.
        objective: cross-entropy on the last iterate, the first iterations without gradient (progressive) or all of
            max_iterations with it (full); or at the fixed point, reached without a graph, with the exact gradient
            there (implicit), that of the last iterations alone (truncated) or of damped ones (phantom).
        sampler: how many iterations a step trains under progressive: uniform (the paper's) or poisson (log-normal
            Poisson).
        max_iterations: most iterations that training ever runs.
        checkpoint_every: keep one state for so many iterations with gradient, and compute the activations between
            again in the backward pass: less memory for a second forward; all are kept if left out. For progressive
            and full.
        tolerance: relative residual at which a state counts as the fixed point, and of implicit's linear solve;
            1e-3 if left out. For implicit, truncated and phantom.
        gradient_iterations: iterations with gradient from the fixed point on, among max_iterations; for truncated
            (1 if left out: the one-step gradient) and phantom (5).
        precision: bf16 (autocast, float32 master weights), float32, or auto: bf16 on machines that have instructions
            for it, where it is faster, else float32.
        compile: compile the step; takes half a minute once and pays from a few hundred steps on.
        seed: of initial weights, order of examples and counts of iterations.
        checkpoint_interval: steps between checkpoints.
        log_interval: steps between lines of metrics.
        threads: CPU threads of the run; results are the same bit for bit only for the same number.
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
            raise LoopscopeError(f"beta2 is {self.beta2}, expected a number from 0 up to but not 1, such as 0.95")
        if not 0 <= self.weight_decay < math.inf:
            raise LoopscopeError(f"weight_decay is {self.weight_decay}, expected a finite number of at least 0")
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("precision", self.precision, get_args(Precision))
        if self.objective in AT_FIXED_POINT:
            self._fill_in_at_fixed_point()
        self._refuse_what_the_objective_leaves_out()

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
        if self.tolerance is not None and not self.tolerance < 1:
            raise LoopscopeError(f"tolerance is {self.tolerance}, expected a number below 1, such as {TOLERANCE}")
        if self.gradient_iterations is not None and self.gradient_iterations > self.max_iterations:
            raise LoopscopeError(
                f"gradient_iterations is {self.gradient_iterations}, expected at most max_iterations, "
                f"{self.max_iterations}: they are the last of those"
            )
