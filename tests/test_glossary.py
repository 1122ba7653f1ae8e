"""The glossary: one table for pages and documentation."""

from pathlib import Path
from typing import get_args

from loopscope.glossary import MEANINGS, NORMS, RECALLS, as_markdown
from loopscope.models.config import NormName, RecallName
from loopscope.stability import Verdict
from loopscope.tasks import TASKS
from loopscope.tasks.registry import about_task

PAGE = Path(__file__).parents[1] / "docs" / "concepts" / "glossary.md"


def test_the_glossary_of_the_documentation_is_the_same_table():
    assert PAGE.read_text().endswith(f"\n\n{as_markdown()}")


def test_every_verdict_recall_and_normalization_has_a_meaning():
    assert {verdict.value for verdict in Verdict} <= MEANINGS.keys()
    assert set(RECALLS) == set(get_args(RecallName))
    assert set(NORMS) == set(get_args(NormName))
    assert {*RECALLS.values(), *NORMS.values(), "fixed depth"} <= MEANINGS.keys()


def test_words_are_in_alphabetical_order():
    assert list(MEANINGS) == sorted(MEANINGS, key=str.lower)


def test_every_task_says_what_it_is_about():
    for name in TASKS:
        assert about_task(name).startswith("A problem is ")
