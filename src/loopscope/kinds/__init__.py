"""Kinds of loops: autonomous, time-dependent, stochastic, and those whose readout reads the history."""

from loopscope.kinds.frozen import HeldLoop, freeze
from loopscope.kinds.history import Remembering, with_history
from loopscope.kinds.kind import Kind, Wants, wants_of
from loopscope.kinds.timed import Timed, TimedLoop, timed

__all__ = [
    "HeldLoop",
    "Kind",
    "Remembering",
    "Timed",
    "TimedLoop",
    "Wants",
    "freeze",
    "timed",
    "wants_of",
    "with_history",
]
