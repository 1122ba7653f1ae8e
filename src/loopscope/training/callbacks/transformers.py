"""A watch for the Trainer of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopscope.errors import LoopscopeWarning
from loopscope.extras import check_installed
from loopscope.files import read_json_as, write_json
from loopscope.training.callbacks.agreement import any_process
from loopscope.training.watch.watch import Watch

check_installed("transformers", "a watch for its Trainer")

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: E402

STATE = "watch.json"
"""Name of the file in a checkpoint that holds the state of the watch."""


class TransformersWatch(TrainerCallback):
    """Updates a watch after every training step, logs its records and stops the training where the watch asks for it.

    Records go to all trackers of the Trainer under "watch/". The state of the watch is saved with each checkpoint and read
    back where training resumes. A stop saves a checkpoint, unless the Trainer saves none. Among several processes, the main
    one measures.

    Args:
        watch: the watch of the model that is trained.
        log: the Trainer's own ``log``; None to log nothing.

    Example:
        >>> import torch, loopscope as ls
        >>> cell = torch.nn.Linear(3, 3)
        >>> loop = ls.FunctionLoop(
        ...     lambda x: x, torch.zeros_like, lambda z, x: torch.tanh(cell(z) + x), lambda z: z, module=cell
        ... )
        >>> watch = ls.Watch(loop, torch.eye(3), trained_iterations=4)
        >>> callback = TransformersWatch(watch)  # then: trainer.add_callback(TransformersWatch(watch, trainer.log))
    """

    def __init__(self, watch: Watch, log: Callable[[dict[str, float]], Any] | None = None) -> None:
        self.watch, self.log = watch, log

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the state of the watch back if training resumes."""
        if not state.global_step or not state.is_world_process_zero:
            return
        path = self._state_file(args, state)
        if path.is_file():
            self.watch.load_state_dict(read_json_as(path, dict[str, Any], "remove it to start a new watch"))
        else:
            warnings.warn(
                f"training resumes at step {state.global_step}, but {path} does not exist: the watch starts anew",
                LoopscopeWarning,
                stacklevel=2,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Measure if that is due."""
        if state.is_world_process_zero:
            record = self.watch.update(state.global_step)
            if record is not None and self.log is not None:
                # Logging clears the request to log the loss of this step.
                asked = control.should_log
                self.log(record.scalars("watch/"))
                control.should_log = asked
        if self.watch.may_stop and any_process(self.watch.stop is not None, args.device):
            control.should_training_stop = True
            control.should_save = control.should_save or args.save_strategy != "no"
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the state of the watch with the checkpoint."""
        path = self._state_file(args, state)
        if state.is_world_process_zero and path.parent.is_dir():
            write_json(path, self.watch.state_dict())

    def _state_file(self, args: TrainingArguments, state: TrainerState) -> Path:
        assert args.output_dir is not None
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE
