"""Training of one model on one task, by one or several processes. A resumed run is the same bit for bit.

No random state is carried from step to step: the order of examples is a function of (seed, epoch), and iteration counts and
augmentation are functions of (seed, step). A run that resumes from a checkpoint therefore does the same as an uninterrupted
one, and all processes agree on the counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from jaxtyping import Int
from torch import Tensor, nn

from loopscope.errors import LoopscopeError
from loopscope.files import append_line
from loopscope.fixed_points import Implicit
from loopscope.loop import Loop
from loopscope.models import build_model
from loopscope.models.recall import matrix_radius, recall_weights
from loopscope.training.checkpoints import Progress, keep_only, latest_checkpoint, load_checkpoint, save_checkpoint
from loopscope.training.config import TrainingConfig
from loopscope.training.objectives import LAST_ITERATIONS, AtFixedPoint, Unrolled
from loopscope.training.precision import precision_here
from loopscope.training.processes import on_cpu
from loopscope.training.regularized import Regularized
from loopscope.training.rows import keep_rows_until
from loopscope.training.run_folder import RunFolder
from loopscope.training.samplers import SAMPLERS, IterationCounts
from loopscope.training.schedules import SCHEDULES
from loopscope.training.settings import RunSettings
from loopscope.training.watch.of_run import watched_until_now
from loopscope.training.watch.watch import Watch, state_after

ORDER, COUNTS, AUGMENT, REGULARIZE = range(4)
BETA1 = 0.9


@dataclass(frozen=True)
class TrainingOutcome:
    """How a call to ``train`` ended.

    Args:
        step: number of optimizer steps done.
        stopped: reason for stopping early, or None if the run is finished.
    """

    step: int
    stopped: str | None


def generator_for(seed: int, purpose: int, index: int) -> torch.Generator:
    """Return a generator that depends only on these three numbers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, purpose, index]).generate_state(1)[0]))


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, examples: int) -> Int[Tensor, "examples"]:
    return torch.randperm(examples, generator=generator_for(seed, ORDER, epoch))


def batch_rows(seed: int, step: int, batch_size: int, examples: int) -> Int[Tensor, "batch"]:
    """Return the rows of the training split for a step. Each epoch has its own random order."""
    rows, position, end = [], step * batch_size, (step + 1) * batch_size
    while position < end:
        epoch, offset = divmod(position, examples)
        part = _epoch_order(seed, epoch, examples)[offset : offset + end - position]
        rows.append(part)
        position += len(part)
    return torch.cat(rows)


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices but not on biases and norm gains (paper, training)."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(BETA1, config.beta2), fused=True)


def make_objective(model: nn.Module, config: TrainingConfig) -> Unrolled | Regularized | AtFixedPoint:
    """Return the module that training calls: the objective around the model."""
    if config.regularized:
        return Regularized(model, config.jacobian_penalty, config.state_noise, config.random_starts)
    if config.tolerance is None:
        return Unrolled(model, config.checkpoint_every)
    last = config.gradient_iterations or 1
    make = LAST_ITERATIONS.get(config.objective)
    gradient = Implicit(tolerance=config.tolerance) if make is None else make(last)
    # The last evaluation proves that the state before it has arrived.
    return AtFixedPoint(model, gradient, config.tolerance, config.max_iterations + 1 - last)


def draw_counts(config: TrainingConfig, step: int) -> IterationCounts:
    """Return the iteration counts of a step: drawn at random for progressive, else all with gradient."""
    if config.objective != "progressive":
        return IterationCounts(0, config.max_iterations)
    return SAMPLERS[config.sampler](config.max_iterations, generator_for(config.seed, COUNTS, step))


def _accelerator(settings: RunSettings) -> Accelerator:
    # Accelerate keeps one precision per process; a second run in the same process may want another.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=on_cpu(),
        mixed_precision="bf16" if precision_here(settings.training.precision) == "bf16" else "no",
        # Without recall, iterations without gradient cut the embedding off from the loss, so it has no gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=settings.model.recall == "none")],
    )


def _agree(accelerator: Accelerator, reason: str | None) -> str | None:
    """Return a reason to stop if any process has one, so that all processes stop after the same step."""
    if accelerator.num_processes == 1:
        return reason
    asked = accelerator.reduce(torch.tensor(float(reason is not None), device=accelerator.device), "sum")
    return reason or ("another process was asked to stop" if float(asked) else None)


def _mean_figures(accelerator: Accelerator, figures: dict[str, float]) -> dict[str, float]:
    """Return the figures of a pass, with those that depend on the examples averaged over the processes."""
    measured = [name for name, value in figures.items() if isinstance(value, float)]
    if accelerator.num_processes == 1 or not measured:
        return figures
    values = torch.tensor([figures[name] for name in measured], dtype=torch.float64, device=accelerator.device)
    return {**figures, **dict(zip(measured, accelerator.reduce(values, "mean").tolist(), strict=True))}


def recall_figures(model: nn.Module) -> dict[str, float]:
    """Return what the paper logs of the recall's weights: the radius of W_state, and ||W_state|| / ||W_input||.

    A model without linear recall has no such weights, and weights that are not finite have no radius: the result is empty.
    """
    weights = recall_weights(model)
    if weights is None or not all(bool(weight.isfinite().all()) for weight in weights):
        return {}
    of_state, of_input = weights
    ratio = torch.linalg.matrix_norm(of_state) / torch.linalg.matrix_norm(of_input)
    return {"state_radius": matrix_radius(of_state), "recall_ratio": float(ratio)}


def _asked_by(watch: Watch, done: int, steps: int) -> str | None:
    """Let a watch measure, and return its reason to stop, if it has one and steps are left."""
    if done == steps:
        watch.measure(done)
        return None
    watch.update(done)
    return f"the watch ({watch.stop.reason})" if watch.stop is not None else None


def _diverged(run: RunFolder, step: int, evidence: str) -> LoopscopeError:
    kept = latest_checkpoint(run.state)
    left = f"the checkpoint {kept.name} is kept" if kept else "no checkpoint has been written"
    return LoopscopeError(f"training diverged at step {step}: {evidence}; {left}; lower training.learning_rate")


def _check_weights(model: nn.Module, step: int, run: RunFolder) -> None:
    """Refuse to save weights that are not finite.

    Raises:
        LoopscopeError: a parameter is not finite; the message names the first one.
    """
    wrong = [name for name, value in model.named_parameters() if not bool(value.isfinite().all())]
    if wrong:
        raise _diverged(run, step, f"{len(wrong)} parameters are not finite, including {wrong[0]}")


def train(
    settings: RunSettings,
    run: RunFolder,
    on_step: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], str | None] | None = None,
    make_watch: Callable[[Loop], Watch] | None = None,
) -> TrainingOutcome:
    """Train a run to its end, from its newest checkpoint if there is one.

    Args:
        settings: settings of the run.
        run: folder of the run, made by ``open_run``.
        on_step: called with (steps done, loss) after each step.
        should_stop: called after each step. If it returns a reason, the run saves a checkpoint and stops.
        make_watch: maps the model to a watch of it, in the main process only. If the watch asks for it, the run saves a
            checkpoint and stops. The watch measures once more after the last step.

    Returns:
        The number of steps done, and the reason if the run stopped early.

    Raises:
        LoopscopeError: the loss, the gradient or a weight is not finite (the last good checkpoint is kept), a checkpoint
            cannot be written or read, or the batch cannot be split over the processes.
    """
    config, task = settings.training, settings.data
    torch.set_num_threads(config.threads)
    accelerator = _accelerator(settings)
    world = accelerator.num_processes
    if config.batch_size % world:
        raise LoopscopeError(
            f"batch_size {config.batch_size} cannot be split over {world} processes: choose a multiple"
        )
    share = config.batch_size // world
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(settings.model)
    if config.compile:
        model.compile_step()
    optimizer = make_optimizer(model, config)
    progress = Progress(0, 0.0)
    if (checkpoint := latest_checkpoint(run.state)) is not None:
        progress = load_checkpoint(checkpoint, model, optimizer)
        if accelerator.is_main_process:
            keep_only(checkpoint)
    if accelerator.is_main_process:
        for logged in (run.metrics, run.watch):
            keep_rows_until(logged, progress.step)
    objective = make_objective(model, config)
    wrapped, optimizer = accelerator.prepare(objective, optimizer)
    watch = make_watch(model) if make_watch is not None and accelerator.is_main_process else None
    if watch is not None:
        watch.load_state_dict(state_after(watched_until_now(run), progress.step, progress.seconds))

    split, schedule = task.training_split(), SCHEDULES[config.schedule]
    began = time.monotonic() - progress.seconds
    wrapped.train()

    def save(step: int) -> None:
        _check_weights(model, step, run)
        if accelerator.is_main_process:
            save_checkpoint(run.state, model, optimizer.optimizer, Progress(step, time.monotonic() - began))
        accelerator.wait_for_everyone()

    for step in range(progress.step, config.steps):
        rows = batch_rows(config.seed, step, config.batch_size, len(split))
        problems, answers = task.augment(
            split.problems[rows], split.answers[rows], generator_for(config.seed, AUGMENT, step)
        )
        problems, answers = problems[mine].to(accelerator.device), answers[mine].to(accelerator.device)
        learning_rate = config.learning_rate * schedule(step, config.steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate

        drawn: list[Any] = [draw_counts(config, step)]
        if config.regularized:
            drawn.append(generator_for(config.seed, REGULARIZE, step * world + accelerator.process_index))
        loss = task.loss(wrapped(task.inputs(problems), *drawn), answers)
        extra_loss = objective.extra_loss if isinstance(objective, Regularized) else None
        accelerator.backward(loss if extra_loss is None else loss + extra_loss)
        gradient_norm = float(accelerator.clip_grad_norm_(model.parameters(), config.gradient_clip))
        mean_loss = float(accelerator.reduce(loss.detach(), "mean"))
        figures = _mean_figures(accelerator, objective.figures)
        if not (math.isfinite(mean_loss) and math.isfinite(gradient_norm)):
            raise _diverged(run, step + 1, f"loss {mean_loss}, gradient norm {gradient_norm}")
        optimizer.step()
        optimizer.zero_grad()

        done = step + 1
        if accelerator.is_main_process and (done % config.log_interval == 0 or done == config.steps):
            row = {
                "step": done,
                "loss": mean_loss,
                "gradient_norm": gradient_norm,
                "learning_rate": learning_rate,
                **figures,
                **recall_figures(model),
                "seconds": round(time.monotonic() - began, 3),
            }
            append_line(run.metrics, row)
        if on_step is not None:
            on_step(done, mean_loss)
        reason = should_stop() if should_stop is not None and done < config.steps else None
        if watch is not None:
            reason = reason or _asked_by(watch, done, config.steps)
        reason = _agree(accelerator, reason)
        if reason or done % config.checkpoint_interval == 0 or done == config.steps:
            save(done)
        if reason:
            return TrainingOutcome(done, reason)

    if accelerator.is_main_process:
        model.save_pretrained(run.model)
    accelerator.wait_for_everyone()
    return TrainingOutcome(config.steps, None)
