"""A watch for training loops that use Accelerate."""

from __future__ import annotations

from accelerate import Accelerator

from loopscope.training.callbacks.agreement import any_process
from loopscope.training.watch.record import WatchRecord
from loopscope.training.watch.watch import Watch


class AccelerateWatch:
    """Updates a watch in the main process, logs its records with the Accelerator and tells every process when to stop.

    Records go to all trackers of the Accelerator under "watch/". The state of the watch is part of what
    ``accelerator.save_state`` saves.

    Args:
        watch: the watch of the model that is trained.
        accelerator: the Accelerator.

    Example:
        >>> import torch, loopscope as ls
        >>> cell = torch.nn.Linear(3, 3)
        >>> loop = ls.FunctionLoop(
        ...     lambda x: x, torch.zeros_like, lambda z, x: torch.tanh(cell(z) + x), lambda z: z, module=cell
        ... )
        >>> watch = ls.Watch(loop, torch.eye(3), trained_iterations=4, every=2)
        >>> watching = AccelerateWatch(watch, Accelerator(cpu=True))
        >>> for step in range(1, 3):  # a training step comes here
        ...     record = watching.update(step)
        ...     if watching.should_stop:
        ...         break
        >>> record.step
        2
    """

    def __init__(self, watch: Watch, accelerator: Accelerator) -> None:
        self.watch, self.accelerator = watch, accelerator
        self.should_stop = False
        accelerator.register_for_checkpointing(watch)

    def update(self, step: int) -> WatchRecord | None:
        """Measure if that is due; every process must call this after the same step.

        Args:
            step: number of training steps done.

        Returns:
            The record, or None where no measurement is due or another process made it.
        """
        record = self.watch.update(step) if self.accelerator.is_main_process else None
        if record is not None:
            self.accelerator.log(record.scalars("watch/"), step=step)
        if self.watch.may_stop:
            self.should_stop = any_process(self.watch.stop is not None, self.accelerator.device)
        return record
