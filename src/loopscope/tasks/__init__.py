"""Tasks: data, encodings, losses and correctness rules. A task knows no model."""

from loopscope.errors import check_choice
from loopscope.tasks.prefix_sums import PrefixSums
from loopscope.tasks.task import Split, Task

TASKS: dict[str, type[PrefixSums]] = {task.name: task for task in (PrefixSums,)}
"""The tasks by the name that commands and configs give them."""


def task_class(name: str) -> type[PrefixSums]:
    """Return the task of this name.

    Raises:
        LoopscopeError: there is none; the nearest name is offered.
    """
    check_choice("task", name, TASKS)
    return TASKS[name]


__all__ = ["TASKS", "PrefixSums", "Split", "Task", "task_class"]
