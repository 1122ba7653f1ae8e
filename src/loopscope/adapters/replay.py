"""Replay of a part of a model's forward, with a state put in place and the calls before the loop answered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from loopscope.adapters.calls import Handler
from loopscope.adapters.gradients import KEEPING_VALUES
from loopscope.adapters.paths import Blank, Echo, Path, leaves_by_path, tensors_by_path, with_leaves
from loopscope.adapters.tape import Ends, Place, Places, makes_tensors


class Stopped(BaseException):
    """Ends a run once everything wanted is noted; not an ``Exception``, so that models do not catch it."""


def first_arguments(module: nn.Module, run: Callable[[], Any]) -> dict[str, Any]:
    """Return the arguments of the first call of a module within a run, by name. The run ends there."""
    given: dict[str, Any] = {}

    def note(called: nn.Module, args: Any, kwargs: Any) -> None:
        given.update(inspect.signature(called.forward).bind(*args, **kwargs).arguments)
        raise Stopped

    with suppress(Stopped), module.register_forward_pre_hook(note, with_kwargs=True):
        run()
    return given


@dataclass
class Act:
    """What to do at one event.

    Attributes:
        put: arguments to replace.
        change: arguments to replace by what is made of them.
        answer: what to return instead of making the call, its blanks filled.
        answers: whether the call is not made.
        give: parts of what is returned to replace.
        note_used: paths of arguments to note.
        note_made: paths of returned values to note.
        keep: whether to keep the arguments and the returned value.
    """

    put: dict[Path, Tensor] = field(default_factory=dict)
    change: dict[Path, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    answer: Any = None
    answers: bool = False
    give: dict[Path, Tensor] = field(default_factory=dict)
    note_used: list[Path] = field(default_factory=list)
    note_made: list[Path] = field(default_factory=list)
    keep: bool = False


class Player(Handler):
    """Plays a script of acts along a run.

    Args:
        ends: the calls that end an iteration.
        script: acts by event; all other events go on as usual.
        batch: number of examples.
        wanted: number of notes after which to stop the run; None lets it end.
    """

    def __init__(self, ends: Ends, script: Mapping[Place, Act], batch: int, wanted: int | None = None) -> None:
        self.places = Places(ends)
        self.script, self.batch, self.wanted = script, batch, wanted
        self.used: dict[tuple[Place, Path], Tensor] = {}
        self.made: dict[tuple[Place, Path], Tensor] = {}
        self.kept: dict[Place, tuple[Any, Any]] = {}
        self.output: Any = None
        self.names: list[str] = []

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a call according to the script."""
        self.names.append(name)
        returned = self._act(self.places.of_call(name), function, args, kwargs)
        self.places.returned(name)
        return returned

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer an operation according to the script."""
        if name in KEEPING_VALUES:
            return function(*args, **kwargs)
        returned = self._act(self.places.of_operation(name), function, args, kwargs)
        if makes_tensors(name, returned):
            self.names.append(name)
        return returned

    def _act(self, place: Place, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        act = self.script.get(place)
        if act is None:
            return function(*args, **kwargs)
        self._note(self.used, place, act.note_used, (args, kwargs))
        args, kwargs = with_leaves((args, kwargs), act.put)
        if act.change:
            given = tensors_by_path((args, kwargs))
            args, kwargs = with_leaves((args, kwargs), {path: made(given[path]) for path, made in act.change.items()})
        returned = self._filled(act.answer, (args, kwargs)) if act.answers else function(*args, **kwargs)
        returned = with_leaves(returned, act.give)
        if act.keep:
            self.kept[place] = ((args, kwargs), returned)
        self._note(self.made, place, act.note_made, returned)
        return returned

    def _filled(self, answer: Any, arguments: Any) -> Any:
        blanks = {path: leaf for path, leaf in leaves_by_path(answer) if isinstance(leaf, (Blank, Echo))}
        given = tensors_by_path(arguments) if blanks else {}
        filled = {
            path: given[leaf.path] if isinstance(leaf, Echo) else leaf.filled(self.batch)
            for path, leaf in blanks.items()
        }
        return with_leaves(answer, filled)

    def _note(self, notes: dict[tuple[Place, Path], Tensor], place: Place, paths: list[Path], tree: Any) -> None:
        if paths:
            tensors = tensors_by_path(tree)
            notes.update({(place, path): tensors[path] for path in paths if path in tensors})
        if len(self.used) + len(self.made) + len(self.kept) == self.wanted:
            raise Stopped
