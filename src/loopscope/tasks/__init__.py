"""Tasks: data, encodings, losses and correctness rules. A task knows no model."""

from loopscope.errors import check_choice
from loopscope.tasks.chess import Chess
from loopscope.tasks.prefix_sums.task import PrefixSums
from loopscope.tasks.sudoku.small import SmallSudoku
from loopscope.tasks.sudoku.task import Sudoku
from loopscope.tasks.task import Split, Task, answers_of

AnyTask = PrefixSums | SmallSudoku | Sudoku | Chess

TASKS: dict[str, type[AnyTask]] = {task.name: task for task in (PrefixSums, SmallSudoku, Sudoku, Chess)}
"""The tasks by the name that commands and configs give them."""


def task_class(name: str) -> type[AnyTask]:
    """Return the task of this name.

    Raises:
        LoopscopeError: there is none; the nearest name is offered.
    """
    check_choice("task", name, TASKS)
    return TASKS[name]


__all__ = ["TASKS", "Chess", "PrefixSums", "SmallSudoku", "Split", "Sudoku", "Task", "answers_of", "task_class"]
