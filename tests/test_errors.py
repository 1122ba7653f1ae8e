"""The checks of numbers: what they accept, and the one line in which they refuse."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopscope.errors import (
    LoopscopeError,
    check_count,
    check_count_or_zero,
    check_fraction,
    check_positive,
    check_seed,
    check_tolerance,
)

pytestmark = pytest.mark.usefixtures("unchecked")
NO_NUMBERS = [None, "x", "1e-4", b"1", True, False, [1], {}, math.nan, 1j, torch.ones(2)]
NOT_WHOLE = [*NO_NUMBERS, 1.5, 2.0, math.inf, np.float32(1), torch.tensor(1.0)]
CHECKS = {
    check_positive: ({"steps": 0}, {"steps": -1.0}, {"steps": math.inf}, {"steps": 10**400}),
    check_fraction: ({"damping": 0}, {"damping": 1.01}, {"damping": -0.5}),
    check_count: ({"iterations": 0}, {"iterations": -3}),
    check_count_or_zero: ({"iterations": -1},),
    check_seed: ({"seed": 2**64}, {"seed": -(2**63) - 1}, {"seed": 10**5000}),
    check_tolerance: ({"tolerance": 0}, {"tolerance": 1}, {"tolerance": 1000}, {"tolerance": -1e-4}),
}
NAMES = {check: next(iter(refused[0])) for check, refused in CHECKS.items()}


def call(check, value):
    """A check that takes a value under its option's name."""
    return check(**{NAMES[check]: value})


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_out_of_bounds_is_refused_in_one_short_line(check):
    for options in CHECKS[check]:
        with pytest.raises(LoopscopeError, match=f"^{NAMES[check]} is .*, expected ") as caught:
            check(**options)
        assert len(str(caught.value)) < 200
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_not_a_number_is_refused(check):
    whole = check in (check_count, check_count_or_zero, check_seed)
    for value in NOT_WHOLE if whole else NO_NUMBERS:
        with pytest.raises(LoopscopeError, match=f"^{NAMES[check]} is .*, expected "):
            call(check, value)


@given(st.integers(1, 10**6))
def test_counts_of_any_kind_are_accepted(count):
    for value in (count, np.int64(count), torch.tensor(count)):
        for check in (check_count, check_count_or_zero, check_seed, check_positive):
            call(check, value)
    for edge in (0, -(2**63), 2**64 - 1):
        check_seed(edge)
    check_count_or_zero(iterations=0)


@given(st.floats(0, 1, exclude_min=True, exclude_max=True, width=32))
def test_fractions_of_any_kind_are_accepted(fraction):
    for value in (fraction, np.float32(fraction), torch.tensor(fraction)):
        for check in (check_tolerance, check_fraction, check_positive):
            call(check, value)
    check_fraction(damping=1)


def test_the_first_of_several_bad_values_is_named():
    with pytest.raises(LoopscopeError, match=r"^second is 0, expected a number above 0$"):
        check_positive(first=1, second=0, third=-1)
    with pytest.raises(LoopscopeError, match=r"^steps is inf, expected a finite number above 0$"):
        check_positive(steps=math.inf)
