"""The cells of the experiment, and the options whose effect on them is counted. All runs learn small prefix sums in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from loopscope.training.settings import RunSettings, settings_from

BITS = 9
TRAINED = 6
"""Iterations in training. After six, a bit has seen twelve bits on either side."""
STEPS = 500
RECALLS = ("internal", "external", "none")
NORMS = ("pre", "peri", "outer", "sandwich", "gru")
RATES = (0.003, 0.006)


@dataclass(frozen=True)
class Cell:
    """One choice of recall, normalization and learning rate.

    Args:
        recall: name of the recall.
        norm: name of the normalization.
        rate: largest learning rate.
    """

    recall: str
    norm: str
    rate: float

    def __str__(self) -> str:
        return f"{self.recall} recall, {self.norm}, {self.rate:g}"


@dataclass(frozen=True)
class Option:
    """One way to keep a loop from collapsing, at one strength.

    Args:
        name: the option.
        strength: its value; None if it has none.
        model: what it sets in the section model.
        training: what it sets in the section training.
    """

    name: str
    strength: float | None = None
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_recall(self) -> bool:
        """Whether it is defined for loops with recall only."""
        return "random_starts" in self.training


BASELINE = "baseline"
TEST_TIME = "damping at test time"
"""Damping of the baseline's model, which needs no training."""


def _option(name: str, strength: float) -> Option:
    section, setting = {
        "jacobian penalty": ("training", "jacobian_penalty"),
        "state noise": ("training", "state_noise"),
        "random starts": ("training", "random_starts"),
        "damping": ("model", "damping"),
        "residual scale": ("model", "residual_scale"),
    }[name]
    return Option(name, strength, **{section: {setting: strength}})


PLAIN = Option(BASELINE)
"""A fixed number of iterations with gradient through all of them, and nothing against collapse."""
RANDOM_COUNTS = Option("random numbers of iterations", training={"objective": "progressive", "sampler": "uniform"})

PILOT: dict[str, tuple[float, ...]] = {
    "jacobian penalty": (1.0, 10.0),
    "state noise": (0.1, 0.3),
    "random starts": (0.5,),
    "damping": (0.5, 0.25),
    "residual scale": (0.5, 0.25),
}
"""Strengths that the pilot tries, mildest first. Random starts have the strength of the guide."""
TEST_TIME_PILOT = (0.5, 0.25)


def pilot_options() -> list[Option]:
    """Return every option at every strength that the pilot tries."""
    return [_option(name, strength) for name, strengths in PILOT.items() for strength in strengths]


def options_at(strengths: dict[str, float]) -> list[Option]:
    """Return the options that need training, each at one strength, with random numbers of iterations among them."""
    return [RANDOM_COUNTS, *(_option(name, strengths[name]) for name in PILOT)]


def cells() -> Iterator[Cell]:
    """Yield the cells that are screened."""
    for recall in RECALLS:
        for norm in NORMS:
            for rate in RATES:
                yield Cell(recall, norm, rate)


def settings_of(cell: Cell, option: Option, seed: int, steps: int = STEPS) -> RunSettings:
    """Return all settings of a run.

    Args:
        cell: its cell.
        option: what is done against collapse.
        seed: seed of its training.
        steps: number of training steps.

    Example:
        >>> settings_of(Cell("internal", "pre", 0.003), PLAIN, seed=1).training.objective
        'full'
    """
    return settings_from(
        {
            "task": "prefix-sums",
            "data": {"train_bits": BITS, "test_bits": [BITS], "strings": 500},
            "model": {"width": 32, "heads": 2, "recall": cell.recall, "norm": cell.norm, **option.model},
            "training": {
                "objective": "full",
                "steps": steps,
                "batch_size": 32,
                "learning_rate": cell.rate,
                "beta2": 0.95,
                "max_iterations": TRAINED,
                "compile": False,
                "precision": "float32",
                "checkpoint_interval": steps,
                "log_interval": steps,
                "seed": seed,
                **option.training,
            },
        }
    )
