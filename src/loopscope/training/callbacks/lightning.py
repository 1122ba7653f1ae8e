"""A watch for the Trainer of Lightning, installed as ``lightning`` or as ``pytorch-lightning``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from loopscope.extras import check_installed, is_installed
from loopscope.training.callbacks.agreement import any_process
from loopscope.training.watch.watch import Watch


def _lightning() -> Any:
    """Return the module of Lightning that is in use, or else one that is installed."""
    names = ("lightning.pytorch", "pytorch_lightning")
    used = [name for name in names if name in sys.modules]
    installed = [name for name in names if is_installed(name.split(".")[0])]
    if not used and not installed:
        check_installed("pytorch_lightning", "a watch for Lightning's Trainer")
    return import_module([*used, *installed][0])


class LightningWatch(_lightning().Callback):  # type: ignore[misc]
    """Updates a watch after every optimizer step, logs its records and stops the training where the watch asks for it.

    Records go to all loggers of the Trainer and to its callback metrics, under "watch/". The state of the watch is part of the
    Trainer's checkpoints. Among several processes, the main one measures.

    Args:
        watch: the watch of the model that is trained.

    Example:
        >>> import torch, loopscope as ls
        >>> cell = torch.nn.Linear(3, 3)
        >>> loop = ls.FunctionLoop(
        ...     lambda x: x, torch.zeros_like, lambda z, x: torch.tanh(cell(z) + x), lambda z: z, module=cell
        ... )
        >>> watch = ls.Watch(loop, torch.eye(3), trained_iterations=4)
        >>> callback = LightningWatch(watch)  # then: Trainer(callbacks=[callback])
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._step = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure if the optimizer has made a step and a measurement is due."""
        step = trainer.global_step
        if step == self._step:  # gradients of this batch were accumulated
            return
        self._step = step
        if trainer.is_global_zero:
            record = self.watch.update(step)
            if record is not None:
                scalars = record.scalars("watch/")
                # Lightning hands to loggers only what is logged at every nth step, by default the 50th.
                for logger in trainer.loggers:
                    logger.log_metrics(scalars, step=step)
                pl_module.log_dict(scalars, logger=False, rank_zero_only=True)
        if self.watch.may_stop and any_process(self.watch.stop is not None, pl_module.device):
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the watch."""
        return self.watch.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the state of the watch."""
        self.watch.load_state_dict(state_dict)
