"""What is published about the committed population: the pages, and what the package quotes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from experiments.prediction.analysis import analyse
from experiments.prediction.analysis.breakdowns import breakdowns
from experiments.prediction.analysis.outcomes import Outcome, results_of
from experiments.prediction.analysis.verdicts import ALL_ITERATIONS, verdict_counts
from experiments.prediction.evidence import evidence_of, write_evidence
from experiments.prediction.population import LEDGER, read_population, write_population
from experiments.prediction.report.tables import analysis_tables
from loopscope.evidence import EVIDENCE, evidence
from loopscope.reports.kit.sheet import in_markdown
from loopscope.stability.verdict import FITTED, PRIORS, TESTED_ON

DOCS = Path(__file__).parents[3] / "docs"
RESULTS, CHOOSING = DOCS / "evidence" / "results.md", DOCS / "guides" / "choosing.md"
POPULATION = Path(__file__).parents[1] / "results" / LEDGER


@pytest.fixture(scope="module")
def members():
    return read_population(POPULATION)


@pytest.fixture(scope="module")
def analysis(members):
    return analyse(members)


def published(heading: str) -> list[list[str]]:
    """Return the cells of the table in the results page that begins with a heading, blank cells included."""
    lines = RESULTS.read_text().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"| {heading} |")) + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


@pytest.mark.parametrize("heading", ["recall", "normalization"])
def test_the_published_breakdowns_are_those_of_the_population(heading, members):
    members = [one for one in members if one.task == "prefix-sums"]
    found = breakdowns(members, results_of(members))["prefix-sums"]
    printed = {}
    for one in found[heading] + found["fixed depth"]:
        counts = [str(one.outcomes.get(outcome.value, 0)) if one.outcomes else "" for outcome in list(Outcome)[:4]]
        means = [f"{100 * one.easy:.1f}", f"{100 * one.hard:.1f}"]
        name = one.choice if one.outcomes else f"fixed depth, {one.choice}"
        printed[f"{name} ({one.models})"] = [*counts, *means]
    rows = published(heading)
    assert len(rows) >= 4
    for name, *cells in rows:
        assert cells == printed[name]


def test_the_published_verdicts_and_answers_are_those_of_the_population(members, analysis):
    looped = [one for one in members if one.looped]
    verdicts = verdict_counts(looped, results_of(looped))[ALL_ITERATIONS]
    outcomes = [outcome.value for outcome in list(Outcome)[:4]]
    for heading, found in (("verdict", verdicts), ("answer", analysis.forecasts.answers)):
        assert {name: cells for name, *cells in published(heading)} == {
            name: [str(counts.get(outcome, 0)) for outcome in outcomes] for name, counts in found.items()
        }


@pytest.mark.parametrize(("page", "least"), [(RESULTS, 20), (CHOOSING, 20)])
def test_the_published_tables_are_copied_from_those_of_the_analysis(page, least, analysis):
    """Whole rows, headings included."""
    made_rows = set("\n".join(map(in_markdown, analysis_tables(analysis))).splitlines())
    rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert len(rows) >= least
    assert [row for row in rows if not row.startswith("|---") and row not in made_rows] == []


def test_the_page_on_choosing_gives_the_recommendations(analysis):
    page = " ".join(CHOOSING.read_text().split())
    assert all(one.sentence in page for one in analysis.recommendations)


def test_the_package_quotes_what_the_population_says(members, tmp_path):
    assert evidence() == evidence_of(members)
    write_evidence(tmp_path / "evidence.json", evidence_of(members))
    assert (tmp_path / "evidence.json").read_bytes() == EVIDENCE.read_bytes()


def test_the_evidence_is_that_of_the_analysis(analysis):
    found = analysis.thresholds
    assert evidence().tested_on == TESTED_ON == found.population
    accepted = {one.measure: one.fitted for one in found.numbers if one.accepted}
    assert list(accepted) == [one.measure for one in FITTED]
    for used in FITTED:
        fitted = accepted[used.measure]
        assert (used.holds, used.fails) == pytest.approx((fitted.holds, fitted.fails), abs=5e-4)
        assert (used.origin, used.larger_is) == (fitted.origin, PRIORS[used.measure].larger_is)
    counts, quoted = analysis.forecasts.counts[0], evidence().forecast
    assert (counts.models, counts.decided.count, counts.right.count) == (quoted.models, quoted.decided, quoted.right)


def test_a_population_is_written_as_it_was_read(members, tmp_path):
    write_population(tmp_path / LEDGER, members)
    assert read_population(tmp_path / LEDGER) == members
    first, again = (path.read_text().splitlines()[-1] for path in (POPULATION, tmp_path / LEDGER))
    assert first == again
