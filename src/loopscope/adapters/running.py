"""Running a model as its owner does: with keyword arguments, without its cache, or by a given function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from loopscope.errors import LoopscopeError
from loopscope.trees import Tree, children

Run = Callable[[nn.Module, Tree, int], Tensor]
"""Runs a model on inputs and returns its logits; the number of iterations is ignored if the model takes none."""

OUTPUTS = ("logits", "prediction", "predictions", "output", "last_hidden_state")
"""Possible names of the logits among several outputs, the likeliest first."""


def takes_iterations(run: Callable[..., Any] | None) -> bool:
    """Return whether ``run`` takes a number of iterations, as its third argument."""
    return run is not None and len(inspect.signature(run).parameters) >= 3


def runner(model: nn.Module, run: Callable[..., Any] | None) -> Run:
    """Return a function that runs a model and returns its logits.

    Args:
        model: the model; it is called with the inputs if ``run`` is None.
        run: ``run(model, inputs)`` or ``run(model, inputs, iterations)``.
    """

    def logits(model: nn.Module, inputs: Tree, iterations: int) -> Tensor:
        if run is None:
            return logits_among(call(model, inputs))
        return logits_among(run(model, inputs, iterations) if takes_iterations(run) else run(model, inputs))

    return logits


def logits_among(output: Any) -> Tensor:
    """Return the logits among a model's outputs, by their usual names or else as the first tensor of two dimensions.

    Raises:
        LoopscopeError: the outputs contain no logits.
    """
    if isinstance(output, Tensor):
        return output
    parts = children(output) or {}
    named = [parts[name] for name in OUTPUTS if isinstance(parts.get(name), Tensor)]
    others = [
        part for part in parts.values() if isinstance(part, Tensor) and part.is_floating_point() and part.ndim > 1
    ]
    if not named and not others:
        raise LoopscopeError(
            f"the model returned {type(output).__name__}, expected logits: a tensor, or one among its outputs; give "
            "run=lambda model, inputs: ... that returns them"
        )
    return (named or others)[0]


@contextmanager
def told_in_one_line(what: str, remedy: str = "") -> Iterator[None]:
    """Turn an exception of foreign code into a ``LoopscopeError`` that says where it occurred.

    Raises:
        LoopscopeError: an exception was raised within; the message is one line.
    """
    try:
        yield
    except LoopscopeError:
        raise
    except Exception as error:
        message = " ".join(str(error).split("\n")[:1])
        raise LoopscopeError(f"{what}: {type(error).__name__}: {message}{'; ' if remedy else ''}{remedy}") from error


def call(model: nn.Module, inputs: Tree, **keywords: Any) -> Any:
    """Call a model without its cache: a mapping is passed by keyword, a tuple or list in order, else as one argument."""
    if "use_cache" in inspect.signature(model.forward).parameters:
        keywords["use_cache"] = False
    if isinstance(inputs, Mapping):
        return model(**{**keywords, **inputs})
    return model(*inputs, **keywords) if isinstance(inputs, (tuple, list)) else model(inputs, **keywords)
