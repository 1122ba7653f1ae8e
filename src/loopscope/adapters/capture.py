"""Any module as a loop, by the name of the call that is one iteration or ends one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import nn

from loopscope.adapters.calls import find, modules_of
from loopscope.adapters.candidates import Survey, listing, survey
from loopscope.adapters.captured import CapturedLoop, DirectLoop, RerunLoop
from loopscope.adapters.comparison import check_reproduces
from loopscope.adapters.flow import Flow
from loopscope.adapters.plan import make_plan
from loopscope.adapters.positions import Positions, checked_positions
from loopscope.adapters.proof import Proof, required
from loopscope.adapters.recording import Recordings, record_all
from loopscope.adapters.running import Run, runner, takes_iterations, told_in_one_line
from loopscope.adapters.tape import Ends
from loopscope.checks import check_not_empty
from loopscope.errors import LoopscopeError, check_choice, check_count
from loopscope.loop import AnswersPer
from loopscope.trees import Tree, batch_size, select

RECORDED = 4
"""Examples that are recorded at most: the logits of a language model are many."""
FEWEST = 3
"""The first iteration may differ, and it takes two more to see that one hands over to the next."""


def capture(
    model: nn.Module,
    at: str,
    inputs: Tree,
    run: Callable[..., Any] | None = None,
    every: int = 1,
    offset: int = 0,
    positions: Positions = "all",
    answers_per: AnswersPer = "example",
) -> CapturedLoop:
    """Return any module as a loop, by the name of the call that is one iteration or that ends one.

    The model's own forward is run and recorded; what one iteration hands to the next is the state. The loop is then
    proven to be the model, or refused. The model itself stays as it is.

    Args:
        model: the module, in eval mode.
        at: the submodule ("layers.2") or method ("core_block_forward") whose call is one iteration or the last part of
            one. `loopscope.find_loops` lists what is called repeatedly.
        inputs: a few examples, batch first: a mapping of keywords, a tuple of arguments, or one tensor. At most four of them
            are recorded; ``loop.prove(inputs)`` proves the loop on all of them.
        run: ``run(model, inputs)`` or ``run(model, inputs, iterations)`` that returns the logits, where that is not
            ``model(inputs)``. With a number of iterations the proof covers 1, 2, 3 and 5 of them.
        every: calls of ``at`` per iteration.
        offset: calls of ``at`` before the first iteration.
        positions: the tokens whose logits are read: "last", "all", or places among the real tokens of each example. Of a causal
            language model, the last token says what comes next.
        answers_per: "token" if each token that is read has its own answer, as in a language model; "example" if the tokens of
            an example form one answer together.

    Raises:
        LoopscopeError: there is no such call, what it repeats is no loop, or the loop is not proven to be the model's.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Looped(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.core, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        ...
        ...     def forward(self, x):
        ...         e = self.embed(x)
        ...         h = torch.zeros_like(e)
        ...         for _ in range(4):
        ...             h = torch.tanh(self.core(h + e))
        ...         return self.head(h)
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> model, inputs = Looped().eval(), torch.randn(5, 3)
        >>> loop = capture(model, "core", inputs)
        >>> recalled = loop.encode(inputs)
        >>> state = loop.start(recalled)
        >>> for _ in range(4 - loop.iterations_before):
        ...     state = loop.step(state, recalled)
        >>> torch.equal(loop.read(state, recalled), model(inputs))
        True
    """
    check_count(every=every)
    positions = checked_positions(positions)
    check_choice("answers_per", answers_per, get_args(AnswersPer))
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise LoopscopeError(f"offset is {offset!r}, expected a whole number, 0 or more")
    check_is_module(model)
    check_eval_mode(model)
    own = runner(model, run)
    check_not_empty(inputs)
    inputs = _few(inputs)
    counted = survey(model, own, inputs)
    ends = _ends(model, at, every, offset, counted)
    _check_count(model, own, inputs, ends, counted)
    opened = counted.counts[ends.name].opened | {"forward"}
    watched = dict.fromkeys(name for name in (*modules_of(model), ends.name) if name not in opened or name == ends.name)
    recordings = record_all(model, own, inputs, ends, tuple(watched))
    _check_logits(recordings, by_token=positions != "all" or answers_per == "token")
    reasons: list[str] = []
    for loop, flow in _attempts(model, own, recordings, ends, told=takes_iterations(run), reasons=reasons):
        try:
            with told_in_one_line("a part of the forward does not run on its own"):
                check_reproduces(loop, flow, recordings.main, inputs)
        except LoopscopeError as error:
            reasons.append(str(error))
        else:
            return _read_at(loop, loop.prove(inputs), positions, answers_per, inputs)
    raise LoopscopeError(f"{at}: {reasons[-1]}")


def check_is_module(model: Any) -> None:
    """Refuse what is not a module.

    Raises:
        LoopscopeError: naming its type.
    """
    if not isinstance(model, nn.Module):
        raise LoopscopeError(f"the model is of type {type(model).__name__}, expected a torch.nn.Module")


def check_eval_mode(model: nn.Module) -> None:
    """Refuse a model in training mode.

    Raises:
        LoopscopeError: it is.
    """
    if model.training:
        raise LoopscopeError(
            "the model is in training mode, where dropout makes every iteration random: call model.eval()"
        )


def _few(inputs: Tree) -> Tree:
    """Return at most four examples, from the first to the last."""
    batch = batch_size(inputs)
    return inputs if batch <= RECORDED else select(inputs, torch.linspace(0, batch - 1, RECORDED).long())


def _read_at(
    loop: CapturedLoop, proof: Proof, positions: Positions, answers_per: AnswersPer, inputs: Tree
) -> CapturedLoop:
    """Return the loop read at some positions: before the logits are made, where that gives the same, else after."""
    if positions == "all":
        return type(loop)(loop.model, loop.plan, loop.run, positions, answers_per, proof)
    for head in dict.fromkeys((loop.plan.head, None)):
        found = type(loop)(loop.model, replace(loop.plan, head=head), loop.run, positions, answers_per)
        try:
            with told_in_one_line("logits cannot be read at these positions"):
                check = found.position_check(inputs)
        except LoopscopeError:
            if head is None:
                raise
        else:
            if check.holds or head is None:
                break
    found.proof = Proof((*proof.checks, required(check)))
    return found


def _ends(model: nn.Module, at: str, every: int, offset: int, counted: Survey) -> Ends:
    found = find(model, at)
    if found is None:
        raise LoopscopeError(f"the model has no submodule or method {at!r}; {listing(counted.candidates())}")
    ends = Ends(found.name, every, offset, tuple(inspect.signature(found.function).parameters))
    calls = counted.counts[found.name].calls if found.name in counted.counts else 0
    if ends.iterations(calls) < FEWEST or (calls - offset) % every:
        wanted = f"{every} for each of at least {FEWEST} iterations" if every > 1 else f"at least {FEWEST}"
        more = ": let the model run more iterations, or give run=lambda model, inputs, iterations: ... that can be told how many"
        raise LoopscopeError(
            f"{at} is called {calls} times, expected {wanted}{f' after the first {offset}' if offset else ''}"
            f"{more if calls > 1 else ''}; "
            f"{listing(counted.candidates())}"
        )
    return ends


def _check_count(model: nn.Module, run: Run, inputs: Tree, ends: Ends, counted: Survey) -> None:
    """Refuse a model whose number of iterations differs for a single example."""
    batch, calls = batch_size(inputs), counted.counts[ends.name].calls
    for row in {0, batch - 1} if batch > 1 else ():
        alone = survey(model, run, select(inputs, slice(row, row + 1))).counts.get(ends.name)
        if alone is None or alone.calls != calls:
            raise LoopscopeError(
                f"{ends.name} is called {calls} times for {batch} inputs and {alone.calls if alone else 0} times for one of them: "
                "the number of iterations depends on the data; give run=lambda model, inputs: ... that runs a fixed number"
            )


def _check_logits(recordings: Recordings, *, by_token: bool) -> None:
    logits, batch = recordings.main.logits, recordings.main.batch
    if logits.ndim < 2 or len(logits) != batch or not logits.is_floating_point():
        raise LoopscopeError(
            f"the run returned a tensor of shape {tuple(logits.shape)} ({logits.dtype}), expected logits of shape "
            f"({batch}, ..., outputs); give inputs without labels, or run=lambda model, inputs: ... that returns logits"
        )
    if by_token and logits.ndim < 3:
        raise LoopscopeError(
            f"the run returned logits of shape {tuple(logits.shape)}, expected ({batch}, tokens, outputs) where positions are chosen "
            "or answers counted by token: leave positions and answers_per out"
        )


def _attempts(
    model: nn.Module, run: Run, recordings: Recordings, ends: Ends, *, told: bool, reasons: list[str]
) -> Iterator[tuple[CapturedLoop, Flow]]:
    """Yield the loops that the call may be, the cheapest first; what keeps one from being made goes to ``reasons``."""
    ways = [(narrow, outputs) for outputs in (False, True) for narrow in (True, False) if ends.every == 1 or not narrow]
    for narrow, with_outputs in ways:
        flow = Flow(recordings.main.tape, recordings.main.logits, narrow=narrow, with_outputs=with_outputs)
        if with_outputs and (flow.read_from_earlier or not flow.handed_to_readout):
            continue
        try:
            flow.check()
            if narrow and not flow.is_closed():
                continue
            for aligned in (True, False) if flow.first_is_like_the_others else (False,):
                plan = make_plan(flow, recordings, ends, aligned=aligned, told=told)
                yield (DirectLoop if narrow else RerunLoop)(model, plan, run), flow
        except LoopscopeError as error:
            if not narrow:  # what the call alone lacks, its surroundings may have
                reasons.append(str(error))
