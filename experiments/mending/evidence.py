"""What the package quotes about options against collapse, from the ledger of the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from experiments.mending.cells import TEST_TIME
from experiments.mending.effects import Effect, effects
from experiments.mending.runs import HORIZON, Run
from loopscope.errors import LoopscopeError
from loopscope.evidence import MendingOption, MendingRecord
from loopscope.files import write_json

COMMAND = "python -m experiments.mending evidence"
SETTINGS = {
    "jacobian penalty": "training.jacobian_penalty {:g}",
    "random numbers of iterations": "training.sampler uniform",
    "state noise": "training.state_noise {:g}",
    "random starts": "training.random_starts {:g} (needs recall)",
    "damping": "model.damping {:g}",
    TEST_TIME: "ls.damped(loop, {:g})",
    "residual scale": "model.residual_scale {:g}",
}
"""How each option is set, given its strength."""


def mending_of(rows: Sequence[Run]) -> MendingRecord:
    """Return the counts that the package quotes.

    Args:
        rows: rows of the ledger.

    Raises:
        LoopscopeError: no cell of the comparison loses its accuracy.
    """
    found = effects(rows)
    if not found:
        raise LoopscopeError("no cell of the comparison loses its accuracy: run the comparison first")
    return MendingRecord(
        COMMAND,
        "small prefix sums",
        HORIZON,
        [_option(one) for one in found],
    )


def _option(effect: Effect) -> MendingOption:
    return MendingOption(
        effect.option,
        SETTINGS[effect.option].format(effect.strength),
        effect.mended,
        len(effect.cells),
        *effect.runs,
        round(effect.left, 3),
        round(effect.bought, 3),
        round(-effect.cost, 3),
        round(effect.time, 2),
    )


def write_mending(path: Path, record: MendingRecord) -> None:
    """Write the counts as the package reads them."""
    write_json(path, asdict(record))
