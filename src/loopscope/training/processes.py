"""The processes that train one model together: how they meet and how they part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch
from accelerate.state import PartialState


def on_cpu() -> bool:
    """Return whether training runs on the CPU: wherever CUDA finds no GPU.

    Accelerate has to be told. Otherwise it does not connect processes on machines without a GPU: each would train alone, into
    the same folder. Accelerators other than CUDA lack the double precision that objectives and other commands need.
    """
    return not torch.cuda.is_available()


@contextmanager
def joined_processes() -> Iterator[PartialState]:
    """Connect with the processes that were started together with this one, if any, and part from them at the end.

    A process that ends while it is still connected may be aborted although its work is done: PyTorch's process group has
    threads that may still release tensors after the Python interpreter has shut down.

    Yields:
        The state of this process: its index, and how many there are.

    Example:
        >>> with joined_processes() as state:
        ...     state.num_processes, state.is_main_process
        (1, True)
    """
    if torch.distributed.is_available():
        # Functions of this module have the current process group as a default argument. DistributedDataParallel would import
        # it after the processes have connected; these defaults would then keep the group, and its threads, alive.
        import_module("torch.distributed.nn.functional")
    state = PartialState(cpu=on_cpu())
    try:
        yield state
    finally:
        state.destroy_process_group()
