"""The modes in which a loop is measured: eval mode, no autocast, the global random state restored, within a time limit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

from loopscope.errors import StoppedError
from loopscope.loop import Loop, modules_of

_is_late: ContextVar[Callable[[], bool] | None] = ContextVar("is_late", default=None)


@contextmanager
def interruptible(is_late: Callable[[], bool]) -> Iterator[None]:
    """Let `check_time` end the work inside as soon as ``is_late`` returns true.

    Example:
        >>> with interruptible(lambda: True):
        ...     check_time()
        Traceback (most recent call last):
        loopscope.errors.StoppedError: the time is over
    """
    token = _is_late.set(is_late)
    try:
        yield
    finally:
        _is_late.reset(token)


def check_time() -> None:
    """Raise if the surrounding work is interruptible and late. Orbits and products with the Jacobian call this.

    Raises:
        StoppedError: the time is over.
    """
    is_late = _is_late.get()
    if is_late is not None and is_late():
        raise StoppedError("the time is over")


def device_of_loop(loop: Loop, otherwise: torch.device) -> torch.device:
    """Return the device of a loop's parameters, or ``otherwise`` if it has none."""
    parameters = (parameter for module in modules_of(loop) for parameter in module.parameters())
    return next((parameter.device for parameter in parameters), otherwise)


@contextmanager
def eval_mode(loop: Loop) -> Iterator[None]:
    """Put the modules of a loop in eval mode, and restore the mode of each submodule afterwards."""
    parts = [part for module in modules_of(loop) for part in module.modules()]
    modes = [part.training for part in parts]
    for module in modules_of(loop):
        module.eval()
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


@contextmanager
def without_autocast() -> Iterator[None]:
    """Switch autocast off, on the CPU and on the accelerator if there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    with ExitStack() as stack:
        for kind in ("cpu", *([] if accelerator is None else [accelerator.type])):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore the global random state of the CPU, and of ``device`` if it is a GPU, afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        yield


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every global source of random numbers: PyTorch's on the CPU and on ``device``, NumPy's and Python's."""
    # NumPy's global state is used by its legacy functions alone.
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with random_state_kept(device):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda" and torch.cuda.is_initialized():
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Leave every global random state as it was: those of PyTorch on the CPU and on all GPUs, of NumPy and of Python."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(gpus, device_type="cuda"):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute products of float32 matrices in float32, not in TF32 or bfloat16, where the backend offers the choice."""
    backends: Any = torch.backends
    backends = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@contextmanager
def undisturbed(loop: Loop) -> Iterator[None]:
    """Measure a loop in the middle of its training, which goes on as if nothing had been measured.

    The loop is in eval mode, in its own precision and not compiled. Modes, random states and compiled graphs are as before
    afterwards.
    """
    with (
        random_states_kept(),
        eval_mode(loop),
        without_autocast(),
        exact_products(),
        torch.compiler.set_stance("force_eager"),
    ):
        yield
