"""The part of an examination that only a language model has: loops, early exit, tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from loopscope.errors import LoopscopeError
from loopscope.kinds import TimedLoop
from loopscope.loop import Loop, readout
from loopscope.stability.early_exit.comparison import MIN_EXAMPLES, ExitComparison
from loopscope.stability.early_exit.exits import ITERATIONS, LONGER, STEPWISE, exits
from loopscope.stability.language.loop_counts import loop_counts
from loopscope.stability.language.results import LanguageResult
from loopscope.stability.language.tokens import measure_tokens, token_radii
from loopscope.stability.parts.progress import Progress
from loopscope.stability.parts.sample import Sample
from loopscope.stability.targets import Targets
from loopscope.trees import batch_size, select

LOOPS, EXITS, RADII, TOKENS = "loops", "early exit", "token radii", "tokens"
"""Names of the parts, as ``unknown`` of an examination gives them."""
MOST_LOGITS = 2**27
"""Logits that early-exit rules may compare in all. Comparing them takes a few seconds of one core."""


def measure_language(
    sample: Sample, targets: Targets | None, words: Sequence[Sequence[str]] | None, progress: Progress
) -> LanguageResult | None:
    """Return what is measured of a loop whose answers are counted by token; None for others.

    Args:
        sample: the inputs and their orbits.
        targets: of these inputs, as in ``examine``.
        words: the text of each token of each of these inputs.
        progress: keeps the reason why a part is missing.
    """
    if sample.trajectory.answers_per != "token":
        return None
    before = int(getattr(sample.loop, "iterations_before", 0))
    radii = None
    if isinstance(sample.loop, TimedLoop):
        progress.skip([RADII], "the step changes, so that no token has a Jacobian of its own")
    elif sample.config.effort == "quick":
        progress.skip([RADII], "not measured at effort quick")
    else:
        radii = progress.run(RADII, lambda: token_radii(sample))
    loops = progress.run(LOOPS, lambda: loop_counts(sample.trajectory, sample.trained, before))
    length = _length(sample, before, None if targets is not None or loops is None else loops.safe)
    return LanguageResult(
        before=before,
        loops=loops,
        exits=progress.run(EXITS, lambda: _exits(sample, targets, before, length)),
        tokens=progress.run(TOKENS, lambda: measure_tokens(sample, before, words, radii)),
    )


def _length(sample: Sample, before: int, safe: int | None) -> int:
    """Return the iterations that the rules are compared over.

    Without targets a rule is good if its answer is that of the last iteration, so the last one must be a safe one.
    """
    usual = ITERATIONS if sample.trained is None else LONGER * max(1, sample.trained - before)
    return max(1, min(sample.iterations, usual, usual if safe is None else safe - before))


def _exits(sample: Sample, targets: Targets | None, before: int, iterations: int) -> ExitComparison:
    """Compare the rules on as many inputs as the size of the readout allows.

    Raises:
        LoopscopeError: the readout is too large for a few inputs.
    """
    trained = None if sample.trained is None else max(1, sample.trained - before)
    given, each = batch_size(sample.inputs), _logits_of_one(sample.loop, sample)
    inputs = min(given, MOST_LOGITS // (each * iterations))
    if inputs < min(MIN_EXAMPLES, given):
        raise LoopscopeError(
            f"{each} logits of each input after each of {iterations} iterations are too many to compare for {MIN_EXAMPLES} "
            "inputs: read fewer tokens (positions), or run ls.exits"
        )
    rows = slice(0, inputs)
    return exits(
        sample.loop,
        select(sample.inputs, rows),
        targets[rows] if isinstance(targets, torch.Tensor) else targets,
        rules=STEPWISE,
        iterations=iterations,
        trained_iterations=trained,
        seed=sample.config.seed,
    )


def _logits_of_one(loop: Loop, sample: Sample) -> int:
    one = slice(0, 1)
    with torch.no_grad():
        return readout(loop, select(sample.start, one), select(sample.recalled, one)).numel()
