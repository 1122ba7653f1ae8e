"""The page of a language model: three answers first, then the axes, then tokens, then early exit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import loopscope as ls
from loopscope.reports.examination.token_map import map_of_tokens
from loopscope.stability.language.results import TextResult


@pytest.fixture(scope="module")
def exam():
    loop = ls.FunctionLoop(
        encode=lambda rate: rate,
        start=torch.zeros_like,
        step=lambda state, rate: rate * state + (1 - rate),
        read=lambda state: torch.cat([torch.full_like(state, 0.7), state], dim=-1),
        answers_per="token",
    )
    inputs = torch.tensor([0.5, 0.8, 0.9]).expand(20, -1)[..., None].clone()
    return ls.examine(loop, inputs, trained_iterations=4, iterations=60, words=[["<b>", "  ", "чай"]] * 20)


def page_of(exam, folder):
    return exam.save(folder / "exam.html").read_text()


def test_answers_come_first_then_axes_then_tokens_then_early_exit(exam, tmp_path):
    page = page_of(exam, tmp_path)
    order = [
        "How many loops are enough?",
        "How far is it safe to go?",
        "Which rule should stop it?",
        'class="verdict',
        "Three axes",
        "<h2>Tokens</h2>",
        "<h2>Early exit</h2>",
        "<h2>Figures</h2>",
        "<h3>How many loops?</h3>",
    ]
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert "2 loops" in page
    assert "up to 5 loops" in page


def test_the_map_has_a_row_for_each_token_with_its_text_escaped(exam, tmp_path):
    page = page_of(exam, tmp_path)
    assert ">&lt;b&gt;</th>" in page
    assert ">&#x27;  &#x27;</th>" in page, "a token of spaces is quoted"
    assert ">чай</th>" in page
    assert "<td>60</td>" in page.replace(' class=""', ""), "60 tokens in the table of lengths"


def test_colours_are_powers_of_ten_and_marks_are_other_answers():
    found = TextResult(["x"], [[0.5, 0.05, 1e-9, None]], [-1], [[False, True, None, False]])
    page = map_of_tokens(found, [1, 2, 3, 4], 1e-4)
    row = page[page.index(">x</th>") :]
    assert row.startswith(
        '>x</th><td class="l0">•</td><td class="l1"></td><td class="l7"></td><td class="none">•</td><td class="said">never</td>'
    )


def test_long_texts_are_cut_and_said_to_be():
    found = TextResult([], [[0.5]] * 100, [3] * 100)
    page = map_of_tokens(found, [1], 1e-4)
    assert page.count('class="l0"') == 64 + 1, "64 tokens, and the key"
    assert "The first 64 of 100 tokens." in page


@pytest.mark.usefixtures("undrawn")
def test_what_was_not_measured_is_said(exam, tmp_path):
    lacking = replace(
        exam,
        language=replace(exam.language, exits=None, tokens=None),
        unknown={"early exit": "no time", "tokens": "no room"},
    )
    page = page_of(lacking, tmp_path)
    assert "Not measured: no time." in page
    assert "Not measured: no room." in page
    assert "not known" in page
    older = replace(exam, language=None)
    assert "this examination was stored before" in page_of(older, tmp_path).lower()


@pytest.mark.usefixtures("undrawn")
def test_the_page_of_another_loop_asks_nothing(tmp_path):
    loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
    page = page_of(ls.examine(loop, torch.eye(4), effort="quick", iterations=60), tmp_path)
    assert "How many loops" not in page
    assert "<h2>Tokens</h2>" not in page
