"""`Watch`: measure a loop from inside any training loop, within a share of its time, and leave the training as it was."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from loopscope.adapters.registry import adapt
from loopscope.checks import check_is_loop, check_not_empty
from loopscope.contexts import device_of_loop, undisturbed
from loopscope.errors import (
    LoopscopeError,
    LoopscopeWarning,
    check_choice,
    check_count,
    check_count_or_zero,
    check_fraction,
    check_seed,
    check_tolerance,
)
from loopscope.files import append_line
from loopscope.loop import Loop, answers_per, readout
from loopscope.stability.nonautonomous.view import view_of
from loopscope.stability.orbits.answers import Answers
from loopscope.stability.targets import Targets, check_readout, check_targets, rule_of
from loopscope.training.rows import keep_rows_until
from loopscope.training.watch.measurement import Subject, expected_evaluations, measure
from loopscope.training.watch.record import WatchRecord
from loopscope.training.watch.spacing import Spent, Stopwatch
from loopscope.trees import Tree, device_of, flatten, tree_map

SHARE = 0.03
"""Share of the training time that measurements may take unless told otherwise."""
PATIENCE = 2
"""Consecutive records that must forecast collapse before a watch acts: a loop that is still learning changes its mind."""

OnCollapse = Literal["warn", "stop"] | Callable[[WatchRecord], None]
ACTIONS = ("warn", "stop")


@dataclass(frozen=True)
class StopSignal:
    """The request of a watch to stop training, which trainers respect.

    Args:
        step: training step at which it was made.
        reason: why, in one sentence.
    """

    step: int
    reason: str


class Watch:
    """Measures a loop while it trains: call ``update`` after every training step.

    Training goes on bit for bit as without a watch. Random states, train and eval modes, gradients and compiled graphs are
    left as they were; measurements run in the loop's own precision, without autocast and without TF32.

    Args:
        loop: the loop that is trained; or a model of a family that `loopscope.adapt` knows.
        inputs: a fixed batch of easy inputs, such as 16 validation examples. They are moved to the loop's device.
        targets: as `loopscope.examine` takes them. Without them, forecasts compare answers with those after ``trained_iterations``.
        every: number of steps between measurements, or "auto": as often as ``share`` allows.
        trained_iterations: largest number of iterations used in training.
        share: largest share of the time since the watch was made that measurements may take, for "auto".
        on_collapse: what to do once collapse is forecast: "warn", "stop" (``stop`` then holds a signal), or a function that
            is called with the record.
        patience: number of consecutive records that must forecast collapse before ``on_collapse`` is carried out.
        answers: as `loopscope.examine` takes them.
        tolerance: relative residual within which an orbit may count as arrived.
        seed: seed for random starts and directions.
        file: file to which each record is appended as a line of JSON.
        clock: returns seconds; only differences count.

    Raises:
        LoopscopeError: an option is out of range, or the model is not a loop and of no known family.

    Example:
        >>> import torch, loopscope as ls
        >>> cell = torch.nn.Linear(4, 4)
        >>> loop = ls.FunctionLoop(
        ...     lambda x: x, torch.zeros_like, lambda z, x: torch.tanh(cell(z) + x), lambda z: z, module=cell
        ... )
        >>> watch = ls.Watch(loop, torch.eye(4), trained_iterations=6, every=10)
        >>> for step in range(1, 21):  # a training step comes here
        ...     record = watch.update(step)
        >>> record.step, record.forecasts[-1].iterations
        (20, 360)
    """

    def __init__(
        self,
        loop: Loop | nn.Module,
        inputs: Tree,
        targets: Targets | None = None,
        every: int | str = "auto",
        *,
        trained_iterations: int,
        share: float = SHARE,
        on_collapse: OnCollapse = "warn",
        patience: int = PATIENCE,
        answers: Answers | None = None,
        tolerance: float = 1e-4,
        seed: int = 0,
        file: str | Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if every != "auto":
            if isinstance(every, str):
                raise LoopscopeError(f"every is {every!r}, expected a number of steps or 'auto'")
            check_count(every=every)
        check_count(trained_iterations=trained_iterations, patience=patience)
        check_fraction(share=share)
        check_tolerance(tolerance)
        check_seed(seed)
        if not callable(on_collapse):
            check_choice("on_collapse", on_collapse, ACTIONS)
        self._inputs_given = check_not_empty(inputs)
        check_targets(targets, self._inputs_given)
        self._every, self._share, self._patience, self._on_collapse = every, share, patience, on_collapse
        self._file = None if file is None else Path(file)
        self._subject = Subject(_as_loop(loop, inputs), inputs, targets, answers, trained_iterations, tolerance, seed)
        with undisturbed(self._subject.loop):  # loads what takes seconds to load, before the time of training begins
            pass
        self._clock = clock
        self._stopwatch = Stopwatch(clock)
        self._ready = False
        self._step, self._streak, self._flagged = 0, 0, False
        self.stop: StopSignal | None = None

    @property
    def may_stop(self) -> bool:
        """Whether the watch may ask to stop."""
        return self._on_collapse == "stop"

    @property
    def spent(self) -> Spent:
        """Time since the watch was made, that of measurements among it, and the expected cost of the next one, in seconds."""
        return self._stopwatch.read()

    def update(self, step: int) -> WatchRecord | None:
        """Measure the loop if that is due, and act on what is forecast.

        The first call checks the loop and its inputs.

        Args:
            step: number of training steps done.

        Returns:
            The record, or None where no measurement is due.

        Raises:
            LoopscopeError: the loop or its inputs cannot be measured.
        """
        check_count_or_zero(step=step)
        if not self._ready:
            self._prepare()
        self._step = step
        return self.measure(step) if self._is_due(step) else None

    def measure(self, step: int) -> WatchRecord:
        """Measure the loop now, whether that is due or not, and act on what is forecast.

        Args:
            step: number of training steps done.

        Raises:
            LoopscopeError: the loop or its inputs cannot be measured.
        """
        check_count_or_zero(step=step)
        if not self._ready:
            self._prepare()
        self._step = step
        before = self.spent.spent
        with self._stopwatch.measuring(), undisturbed(self._subject.loop):
            found = measure(self._on_device(), step)
        self._streak = self._streak + 1 if found.collapse else 0
        flagged, rose = self._streak >= self._patience, not self._flagged
        record = replace(found, seconds=self.spent.spent - before, flagged=flagged)
        self._flagged = flagged
        if self._file is not None:
            append_line(self._file, record.to_dict())
        if flagged and rose:
            self._act(record)
        return record

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on as it would have, as plain values."""
        return {**asdict(self.spent), "step": self._step, "streak": self._streak, "flagged": self._flagged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of an earlier watch. Lines of ``file`` for later steps are removed.

        A flag that had risen before does not act again unless it falls first.

        Raises:
            LoopscopeError: the state is not that of a watch.
        """
        try:
            time_before = Spent(*(state[name] for name in ("elapsed", "spent", "cost")))
            self._step, self._streak, self._flagged = (state[name] for name in ("step", "streak", "flagged"))
        except (KeyError, TypeError) as error:
            raise LoopscopeError(
                f"the state of a watch was expected, from its state_dict(), but {error} is missing: start a new watch"
            ) from error
        self._stopwatch = Stopwatch(self._clock, time_before)
        if self._file is not None:
            keep_rows_until(self._file, self._step)

    def _is_due(self, step: int) -> bool:
        if isinstance(self._every, str):
            return self.spent.allows(self._share)
        return step > 0 and step % self._every == 0

    def _on_device(self) -> Subject:
        """Return the subject with its inputs where the loop is now."""
        subject = self._subject
        device = device_of_loop(subject.loop, device_of(subject.inputs))
        targets = subject.targets.to(device) if isinstance(subject.targets, Tensor) else subject.targets
        return replace(subject, inputs=tree_map(lambda leaf: leaf.to(device), subject.inputs), targets=targets)

    def _prepare(self) -> None:
        """Check that the loop can be measured on these inputs, and time one evaluation of it."""
        with self._stopwatch.counted(), undisturbed(self._subject.loop), torch.no_grad():
            subject = self._on_device()
            view = view_of(subject.loop, subject.inputs, subject.seed)
            ready = view.ready
            check_readout(view.loop, ready.start, ready.recalled, subject.targets, subject.answers)
            self._subject = replace(self._subject, undefined=view.kind.undefined)
            rule = rule_of(subject.targets, ready.mask, answers_per(view.loop))
            if rule is not None:
                logits = readout(view.loop, ready.start, ready.recalled)
                rule(logits, torch.arange(len(logits), device=logits.device))
            began = self._clock()
            after = view.loop.step(ready.start, view.loop.encode(subject.inputs))
            float(flatten(after)[0, 0])  # a GPU has finished once a number of the result is read
            each = self._clock() - began
        self._stopwatch.expect(each * expected_evaluations(subject, self._inputs_given))
        self._ready = True

    def _act(self, record: WatchRecord) -> None:
        assert record.forewarning is not None
        if callable(self._on_collapse):
            self._on_collapse(record)
        elif self._on_collapse == "stop":
            self.stop = StopSignal(record.step, record.forewarning)
        else:
            warnings.warn(f"step {record.step}: {record.forewarning}", LoopscopeWarning, stacklevel=4)


def _as_loop(given: Loop | nn.Module, inputs: Tree) -> Loop:
    """Return a loop as it is, and a model of a known family as a loop."""
    if isinstance(given, Loop) or not isinstance(given, nn.Module):
        check_is_loop(given)
        return given
    try:
        with undisturbed(given):  # type: ignore[arg-type]
            return adapt(given, inputs)
    except LoopscopeError as error:
        raise LoopscopeError(f"the model to watch is not a loop: {error}") from error


def state_after(records: Sequence[WatchRecord], step: int, elapsed: float) -> dict[str, Any]:
    """Return the state that a watch had at a step, from the records that it had made by then.

    Args:
        records: the records, in order.
        step: the step.
        elapsed: seconds of training by then.
    """
    streak = next((place for place, one in enumerate(reversed(records)) if not one.collapse), len(records))
    return {
        "elapsed": elapsed,
        "spent": sum(one.seconds for one in records),
        "cost": records[-1].seconds if records else None,
        "step": step,
        "streak": streak,
        "flagged": bool(records) and records[-1].flagged,
    }
