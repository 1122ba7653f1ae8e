"""The modes a loop is measured in: eval mode, no autocast, the global random state kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from loopscope.loop import Loop


def device_of_loop(loop: Loop, otherwise: torch.device) -> torch.device:
    """Return the device of a loop's parameters; ``otherwise`` of a loop that is no module, or has none."""
    parameters = loop.parameters() if isinstance(loop, torch.nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), otherwise)


@contextmanager
def eval_mode(loop: Loop) -> Iterator[None]:
    """Put a loop that is a module in eval mode, and give every part of it its own mode back afterwards."""
    modules = list(loop.modules()) if isinstance(loop, torch.nn.Module) else []
    modes = [module.training for module in modules]
    if isinstance(loop, torch.nn.Module):
        loop.eval()
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@contextmanager
def without_autocast() -> Iterator[None]:
    """Switch autocast off, on the CPU and on the accelerator where there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    with ExitStack() as stack:
        for kind in ("cpu", *([] if accelerator is None else [accelerator.type])):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Leave the global random state of the CPU, and of ``device`` where that is a GPU, as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        yield
