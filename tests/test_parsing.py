"""Numbers of settings mean what they say, on a command line and in files; every mistake is one line."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from loopscope.errors import LoopscopeError
from loopscope.parsing import LARGEST, dotted, new_parser, one_line_errors, parse_arguments, parse_mapping


@dataclass(frozen=True)
class Options:
    """Options of every kind.

    Args:
        count: an integer.
        rate: a number.
        maybe: a number or none.
        sizes: integers.
        place: text.
        flag: yes or no.
    """

    count: int = 1
    rate: float = 0.5
    maybe: float | None = None
    sizes: tuple[int, ...] = (1,)
    place: str = ""
    flag: bool = False


def parser():
    made = new_parser()
    made.add_class_arguments(Options, "part")
    return made


def from_command_line(field, text):
    with one_line_errors():
        return getattr(parser().instantiate(parse_arguments(parser(), [f"--part.{field}", text])).part, field)


def from_file(field, value):
    with one_line_errors():
        return getattr(parser().instantiate(parse_mapping(parser(), {"part": {field: value}})).part, field)


@pytest.mark.parametrize("read", [from_command_line, from_file])
@pytest.mark.parametrize("field", ["count", "rate", "maybe", "sizes"])
def test_a_number_in_base_60_is_refused(read, field):
    with pytest.raises(LoopscopeError, match=r"part\.\w+: expected (numbers in base 10|a list in brackets)"):
        read(field, "[8,1:30]" if field == "sizes" else "1:30")


def test_a_number_in_base_60_within_a_list_of_a_file_is_refused():
    with pytest.raises(LoopscopeError, match=r"part\.sizes: expected numbers in base 10, got 1:30"):
        from_file("sizes", [8, "1:30"])


@pytest.mark.parametrize("read", [from_command_line, from_file])
def test_text_may_look_like_a_number_in_base_60(read):
    assert read("place", "1:30") == "1:30"
    assert read("place", "page:12:30") == "page:12:30"


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("count", "-5", -5),
        ("count", str(LARGEST), LARGEST),
        ("rate", "2e-3", 2e-3),
        ("rate", "1e30", 1e30),
        ("maybe", "null", None),
        ("sizes", "[8,16]", (8, 16)),
        ("flag", "true", True),
    ],
)
def test_usual_values_are_read(field, text, value):
    assert from_command_line(field, text) == value


@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_integers_that_no_library_can_hold_are_refused_in_one_line(digits):
    for field in ("count", "sizes"):
        text = "9" * digits
        with pytest.raises(LoopscopeError, match=rf"part\.{field}(:| is) .*(64 bits|at most {LARGEST})") as refused:
            from_command_line(field, f"[{text}]" if field == "sizes" else text)
        assert "\n" not in str(refused.value)
    with pytest.raises(LoopscopeError, match=rf"part\.count is 9+, expected an integer of at most {LARGEST}"):
        from_file("count", 10**20 - 1)


def test_an_integer_that_is_no_floating_point_number_is_refused():
    with pytest.raises(LoopscopeError, match=r"part\.rate: expected a number that fits in 64 bits"):
        from_command_line("rate", "1" + "0" * 400)
    with pytest.raises(LoopscopeError, match=r"part\.rate is 1000"):
        from_file("rate", 10**400)


@pytest.mark.parametrize("field", ["count", "rate", "maybe", "sizes", "flag"])
def test_an_empty_value_is_named(field):
    with pytest.raises(LoopscopeError, match=rf"part\.{field}: expected .*, got ''$"):
        from_command_line(field, "")


def test_settings_by_dotted_names():
    assert dotted({"a": {"b": {"c": 1}, "d": [2]}, "e": 3}) == {"a.b.c": 1, "a.d": [2], "e": 3}
