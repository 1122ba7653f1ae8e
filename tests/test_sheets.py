"""Tables as Markdown and in a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from loopscope.reports.kit.sheet import Sheet, fit_widths, in_markdown, in_terminal

SHEET = Sheet("A title", ["name", "a | b"], [["one|two", "1"], ["three", ""]], "How to read it.")


def test_a_sheet_as_markdown():
    assert in_markdown(SHEET) == (
        "### A title\n\n| name | a \\| b |\n|---|---|\n| one\\|two | 1 |\n| three |  |\n\nHow to read it.\n"
    )
    assert in_markdown(Sheet("T", ["a"], [])) == "### T\n\n| a |\n|---|\n"


def test_columns_share_the_available_width():
    assert fit_widths([3, 4], [9, 8], 40) == [9, 8]
    assert fit_widths([3, 4], [9, 8], 12) == [6, 6]
    assert fit_widths([3, 6], [20, 6], 12) == [6, 6]
    assert fit_widths([12, 4], [20, 6], 10) == [6, 4]
    assert fit_widths([5, 5], [5, 5], 1) == [1, 1]


def shown(sheet, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(in_terminal(sheet, width))
    return console.export_text()


def test_nothing_is_cut_in_a_terminal():
    words = ["extrapolates", "small-sudoku", "reachability", "normalization", "initialization"]
    text = shown(Sheet("T", words, [["a long name of many words"] + ["0.96 [0.91, 1.00]"] * 4]), 60)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 60
    for word in ("many", "words", "0.96", "[0.91,", "1.00]"):
        assert word in text
    # Five columns of twelve and more have no room: words are folded, and all of their letters are there.
    letters = sorted(filter(str.isalpha, f"T{''.join(words)}a long name of many words"))
    assert sorted(filter(str.isalpha, text)) == letters


def test_words_are_not_broken_if_they_fit():
    text = shown(Sheet("T", ["predictor", "a", "b"], [["a long name of words " * 8, "small-sudoku", "x" * 40]]), 80)
    assert "small-sudoku" in text
    assert "x" * 40 in text
