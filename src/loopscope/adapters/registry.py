"""Known model families, and `adapt`, which recognizes a model by its class."""

from __future__ import annotations

from torch import nn

from loopscope.adapters.capture import capture, check_eval_mode, check_is_module
from loopscope.adapters.families import (
    dory,
    hrm,
    hrm_pytorch,
    hrm_text,
    inkling2_loop,
    open_mythos,
    ouro,
    parcae,
    raven,
    tiny_recursive_model,
    trm,
    x_transformers,
)
from loopscope.adapters.families.family import Family
from loopscope.adapters.positions import Positions, checked_positions
from loopscope.adapters.proof import ProvenLoop
from loopscope.errors import LoopscopeError
from loopscope.trees import Tree

FAMILIES: tuple[Family, ...] = (
    dory.FAMILY,
    hrm.FAMILY,
    hrm_pytorch.FAMILY,
    hrm_text.FAMILY,
    inkling2_loop.FAMILY,
    open_mythos.FAMILY,
    ouro.FAMILY,
    parcae.FAMILY,
    raven.FAMILY,
    tiny_recursive_model.FAMILY,
    trm.FAMILY,
    x_transformers.FAMILY,
)
"""All known families. A new one needs a file with a ``FAMILY`` and a line here."""


def family_of(model: nn.Module) -> Family | None:
    """Return the family that a model belongs to by its class; None where it belongs to none."""
    return next((family for family in FAMILIES if family.has(model)), None)


def adapt(model: nn.Module, inputs: Tree | None = None, positions: Positions | None = None) -> ProvenLoop:
    """Return a model of a known family as a loop proven equivalent to it.

    Args:
        model: the model, in eval mode; it is not changed.
        inputs: a few examples to prove it on, as the loop's ``encode`` will take them; random ones if left out.
        positions: the tokens whose logits are read: "last", "all", or places among the real tokens of each example. Default:
            "last" for causal language models, otherwise "all".

    Raises:
        LoopscopeError: no family is known for its class, the family cannot be a loop, or the proof fails.

    Example:
        >>> from torch import nn
        >>> adapt(nn.Linear(2, 2))
        Traceback (most recent call last):
            ...
        loopscope.errors.LoopscopeError: Linear is of no known family (Dory, ...): name the call that is one iteration ...
    """
    check_is_module(model)
    family = family_of(model)
    if family is None:
        raise LoopscopeError(
            f"{type(model).__name__} is of no known family ({', '.join(family.name for family in FAMILIES)}): name the call that is "
            "one iteration with ls.capture(model, at, inputs); ls.find_loops(model, inputs) lists the candidates"
        )
    reason = family.refusal(model)
    if reason is not None:
        raise LoopscopeError(f"{type(model).__name__} cannot be a loop: {reason}")
    given = family.example(model) if inputs is None else inputs
    chosen = family.positions(model) if positions is None else positions
    if family.by_hand is not None:
        check_eval_mode(model)
        loop = family.by_hand(model, checked_positions(chosen))
        loop.proof = loop.prove(given)
        return loop
    return capture(
        model,
        family.at(model),
        given,
        family.run,
        every=family.every(model),
        positions=chosen,
        answers_per=family.answers_per,
    ).gated(family.gate)
