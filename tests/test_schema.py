"""What was read from a file is of a type, or the first thing that is wrong with it is named."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from loopscope.schema import misfit


@dataclass
class Inner:
    best: float


@dataclass
class Row:
    run: str
    status: Literal["finished", "failed"]
    curves: dict[str, Inner]
    error: str | None = None
    machines: list[str] = field(default_factory=list)


WHOLE = {"run": "a", "status": "failed", "curves": {"8 bits": {"best": 1}}}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, float),
        (1.5, float),
        (None, float | None),
        ({"a": [1, None]}, dict[str, list[int | None]]),
        ({"a": object()}, dict[str, Any]),
        (WHOLE, Row),
        ({**WHOLE, "error": None, "machines": ["here"]}, Row),
    ],
)
def test_what_is_of_a_type_fits(value, kind):
    assert misfit(value, kind) is None


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ([1], dict[str, float], "it is [1], expected a mapping"),
        (True, float, "it is True, expected a number"),
        (1, bool, "it is 1, expected true or false"),
        (1.5, int, "it is 1.5, expected a whole number"),
        ("x" * 60, int, f"it is '{'x' * 39}..., expected a whole number"),
        ({"train": "x"}, dict[str, float], "train is 'x', expected a number"),
        (["a", 3], list[str], "1 is 3, expected text"),
        ("x", float | None, "it is 'x', expected a number"),
        (3, Row, "it is 3, expected a mapping"),
        ({"run": "a"}, Row, "status is missing"),
        ({**WHOLE, "status": "begun"}, Row, "status is 'begun', expected finished or failed"),
        ({**WHOLE, "curves": {"8 bits": {}}}, Row, "curves.8 bits.best is missing"),
        ({**WHOLE, "curves": {"8 bits": {"best": None}}}, Row, "curves.8 bits.best is None, expected a number"),
        ({**WHOLE, "machines": None}, Row, "machines is None, expected a list"),
        ({**WHOLE, "what": 1}, Row, "what is unknown"),
    ],
)
def test_what_is_not_is_named(value, kind, said):
    assert misfit(value, kind) == said
