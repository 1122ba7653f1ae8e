"""The guide to trust shows what was measured on the shipped models."""

from pathlib import Path

import numpy as np
import pytest

from experiments.shipping.trust import chess_signals, counts, shipped_evidence, sudoku_residuals, trust_tables
from loopscope.answers.trust import AnswerSignals
from loopscope.reports.kit.sheet import in_markdown

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "trust.md"


def evidence(right, residual, unsure=0.2):
    """Return the evidence of answers that arrive and settle if their residual is at most 1e-4."""
    right, residual = np.array(right, bool), np.array(residual, float)
    settled = residual <= 1e-4
    return AnswerSignals(
        right=right,
        arrived=settled,
        residual=residual,
        contraction=residual,
        error=residual,
        unsure=np.full(len(right), unsure),
        settling=np.where(settled, 7.0, np.inf),
        settled_right=right,
        settled_unsure=np.full(len(right), unsure),
        shown_right=right,
        shown_unsure=np.full(len(right), unsure),
    )


def test_answers_are_counted_by_split():
    split = evidence([1, 0, 1], [1e-5, 1e-5, 0.5])
    assert counts({"sudoku": {"singles": split}}).rows == [["sudoku, singles", "3", "66.7", "2", "50.0", "2", "50.0"]]


def test_sudoku_answers_are_divided_by_residual():
    splits = {"singles": evidence([1, 1, 0], [1e-5, 0.5, 0.6]), "100+ guesses": evidence([0, 1], [0.2, 1e-3])}
    assert [row[1] for row in sudoku_residuals(splits).rows] == ["1 of 1", "2 of 4", "2 of 2", "1 of 2", "0 of 1"]


def test_sure_chess_answers_are_counted():
    splits = {"up to 1600": evidence([1, 0], [1e-5, 1e-5], unsure=0.05), "harder": evidence([1], [1.0])}
    first, second, every = chess_signals(splits).rows
    assert first == ["up to 1600", "2 of 2", "50.0%", "0.50", "0.50", "50.0% (1 of 2)"]
    assert second[-1] == "–% (0 of 0)"
    assert every[1:3] == ["2 of 3", "50.0%"]


@pytest.fixture(scope="module")
def tables():
    return trust_tables(shipped_evidence())


@pytest.mark.parametrize("place", range(5))
def test_the_guide_shows_the_tables_of_the_shipped_models(place, tables):
    lines = in_markdown(tables[place]).split("\n\n")[1].strip().splitlines()
    page = PAGE.read_text(encoding="utf-8").splitlines()
    start = page.index(lines[0])
    assert page[start : start + len(lines)][2:] == lines[2:]
