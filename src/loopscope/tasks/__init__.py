"""Tasks: data, encodings, losses and rules for being right."""

from loopscope.tasks.chess import Chess
from loopscope.tasks.prefix_sums.task import PrefixSums
from loopscope.tasks.registry import TASKS, task_class
from loopscope.tasks.sudoku.small import SmallSudoku
from loopscope.tasks.sudoku.task import Sudoku
from loopscope.tasks.task import Split, Task, answers_of

__all__ = ["TASKS", "Chess", "PrefixSums", "SmallSudoku", "Split", "Sudoku", "Task", "answers_of", "task_class"]
