"""Chess puzzles: the task, how its positions and answers are encoded, and where its puzzles come from."""

from loopscope.tasks.chess.encoding import Answers
from loopscope.tasks.chess.task import Chess

__all__ = ["Answers", "Chess"]
