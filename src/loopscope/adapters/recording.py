"""Recorded runs of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loopscope.adapters.calls import Watch, callee
from loopscope.adapters.running import Run
from loopscope.adapters.tape import Ends, Recorder, Tape
from loopscope.contexts import random_state_kept
from loopscope.trees import Tree, batch_size, device_of, join, select

ITERATIONS = 4
"""Iterations of a recorded run, if ``run`` takes a number of iterations."""


@dataclass(frozen=True)
class Recording:
    """One recorded run.

    Attributes:
        tape: events of the run.
        logits: output of the run.
        batch: number of examples.
    """

    tape: Tape
    logits: Tensor
    batch: int


@dataclass(frozen=True)
class Recordings:
    """Runs that show what grows with the batch and what is random.

    Attributes:
        main: run on all inputs.
        other_batch: run on one example fewer, or twice on a single example.
        other_seed: run on all inputs with another seed.
    """

    main: Recording
    other_batch: Recording
    other_seed: Recording


@contextmanager
def seeded(inputs: Tree, seed: int) -> Iterator[None]:
    """Seed the random numbers within this context, and restore PyTorch's generators afterwards."""
    with random_state_kept(device_of(inputs)):
        torch.manual_seed(seed)
        yield


def record(model: nn.Module, run: Run, inputs: Tree, ends: Ends, watched: tuple[str, ...], seed: int = 0) -> Recording:
    """Run a model once and record what its open frames do.

    Args:
        model: the model.
        run: function that runs the model.
        inputs: inputs of the model.
        ends: the calls that end an iteration.
        watched: names of the submodules and methods whose calls are single events.
        seed: seed of the run's random numbers.
    """
    recorder = Recorder(ends)
    callees = {name: callee(model, name) for name in watched}
    watch = Watch(callees, recorder, whole=False, look_inside=True)
    with seeded(inputs, seed), torch.no_grad(), watch.running():
        logits = run(model, inputs, ITERATIONS)
    return Recording(recorder.tape, logits, batch_size(inputs))


def record_all(model: nn.Module, run: Run, inputs: Tree, ends: Ends, watched: tuple[str, ...]) -> Recordings:
    """Record the three runs that a plan needs."""
    batch = batch_size(inputs)
    others = select(inputs, slice(0, batch - 1)) if batch > 1 else join([inputs, inputs])
    return Recordings(
        main=record(model, run, inputs, ends, watched),
        other_batch=record(model, run, others, ends, watched),
        other_seed=record(model, run, inputs, ends, watched, seed=1),
    )
