"""YAML as a reader expects it."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loopscope import strict_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(PLAIN)
def test_what_is_written_is_read_back(value):
    assert strict_yaml.load(strict_yaml.dump(value)) == value


@pytest.mark.parametrize("text", ["0E0", "1e5", "0x1f", "0o17", "1:30", "1_000", "yes", "null", "1.5", "010"])
def test_a_string_that_looks_like_something_else_stays_a_string(text):
    assert strict_yaml.load(strict_yaml.dump({text: [text]})) == {text: [text]}
    assert yaml.safe_load(strict_yaml.dump({text: [text]})) == {text: [text]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("012", "012"),
        ("1_000", "1_000"),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("-0", 0),
        ("0x1F", 31),
        ("-.inf", -math.inf),
        ("2e9", 2e9),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text, value):
    assert strict_yaml.load(f"a: {text}") == {"a": value}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice"),
        ("a:\n  b: 1\n  b: 1", "the key 'b' is given twice"),
        ("a: &x [*x]", "contains itself"),
        ("&x a: {b: *x}\nc: &y {d: *y}", "contains itself"),
        ("[" * 1500 + "]" * 1500, "nested more than 100 deep"),
        ("[" * 150 + "]" * 150, "nested more than 100 deep"),
    ],
)
def test_what_nobody_means_is_refused(text, complaint):
    with pytest.raises(yaml.YAMLError, match=complaint):
        strict_yaml.load(text)


def test_a_merged_mapping_may_be_overridden():
    assert strict_yaml.load("base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  x: 3")["mine"] == {"x": 3, "y": 2}
