"""The options of training: this dataclass is their only list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from loopscope.errors import LoopscopeError, check_choice, check_positive
from loopscope.training.objectives import OBJECTIVES
from loopscope.training.samplers import SAMPLERS
from loopscope.training.schedules import SCHEDULES

Precision = Literal["bf16", "float32"]


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
        objective: progressive (cross-entropy on the last iterate, part of the iterations without gradient) or full
            (max_iterations, all with gradient).
        sampler: how many iterations a step trains: uniform (the paper's) or poisson (log-normal Poisson).
        max_iterations: most iterations that training ever runs.
        precision: bf16 (autocast, float32 master weights) or float32.
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
    sampler: str = "uniform"
    max_iterations: int = 30
    precision: Precision = "bf16"
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
        if self.weight_decay < 0:
            raise LoopscopeError(f"weight_decay is {self.weight_decay}, expected a number of at least 0")
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("precision", self.precision, get_args(Precision))
