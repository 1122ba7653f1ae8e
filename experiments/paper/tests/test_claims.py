"""The counts behind the paper's claims: on made-up models, and on the page that quotes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.paper.__main__ import main
from experiments.paper.claims import claims, radius_areas
from experiments.paper.runs import read_runs
from experiments.paper.tables import tables
from experiments.prediction.population import LEDGER, read_population, write_population
from experiments.prediction.signals import POWER_ITERATION, STATE_RADIUS
from experiments.prediction.tests.populations import DEGRADED, RETAINED, baseline, made
from loopscope.reports.kit.sheet import in_markdown

PAGE = Path(__file__).parents[3] / "docs" / "evidence" / "paper.md"
POPULATION = Path(__file__).parents[2] / "prediction" / "results" / LEDGER
HOLDS = {
    "numbers": {
        "fraction arrived": 1.0,
        "fraction moved": 1.0,
        "fraction shared": 0.0,
        "radius": 0.5,
        "relative Lipschitz constant": 0.1,
        "gradient growth per iteration": 0.5,
    }
}
SLOW = {"numbers": {**HOLDS["numbers"], "radius": 1.5, "fraction moved": 0.0}}


UNMOVED = {"numbers": {**HOLDS["numbers"], "fraction moved": 0.0}}


def cells(members, name):
    (row,) = [row for row in claims(members).rows if row[0].startswith(name)]
    return row[1:]


def examined(member, examination):
    return replace(member, examination=examination)


def test_recall_and_outer_normalization_are_counted_by_task():
    members = [
        examined(made("a", RETAINED, 0.9), HOLDS),
        examined(made("b", DEGRADED, 0.1, rate=2e-3), SLOW),
        examined(made("c", RETAINED, 0.6, recall="external"), UNMOVED),
        examined(made("d", RETAINED, 0.9, recall="none"), SLOW),
        made("e", RETAINED, 0.2, recall="none", norm="pre"),
        baseline(RETAINED, 0.3),
        made("f", RETAINED, 0.9, task="chess"),
    ]
    assert cells(members, "without recall: models that extrapolate") == [
        "1 of 2 extrapolate, with recall 2 of 3",
        "– extrapolate, with recall –",
        "– extrapolate, with recall 1 of 1",
    ]
    assert cells(members, "without recall: models in which another")[0] == "0 of 1, with recall 1 of 3"
    assert cells(members, "without recall: models in which all") == ["0 of 1", "–", "–"]
    assert (
        cells(members, "recall with outer normalization: reachability holds")[0] == "internal 2 of 2, external 1 of 1"
    )
    assert cells(members, "recall with outer normalization: reachability and")[0] == "internal 1 of 2, external 1 of 1"
    assert cells(members, "recall with outer normalization: all")[0] == "internal 1 of 2, external 0 of 1"
    assert (
        cells(members, "internal and external recall with outer")[0]
        == "internal 90.0% (1 of 1), external 60.0% (1 of 1)"
    )
    assert cells(members, "internal and external recall with outer")[2] == "–"
    assert cells(members, "looped and")[0] == "internal 50.0%, external 60.0%, fixed depth 30.0%"


def test_recalls_are_compared_between_models_whose_other_settings_are_equal():
    members = [
        made("a", RETAINED, 0.9),
        made("b", RETAINED, 0.7, seed=1),
        made("c", RETAINED, 0.1, iterations=4),
        made("d", RETAINED, 0.6, recall="external"),
        made("e", DEGRADED, 0.4, recall="external", seed=1),
        made("f", RETAINED, 0.2, recall="external", rate=2e-3),
        made("g", RETAINED, 0.2, recall="external", norm="gru"),
        made("h", RETAINED, 0.2, norm="gru", seed=1),
    ]
    found = "internal 80.0% (2 of 2), external 50.0% (1 of 2)"
    assert cells(members, "internal and external recall with outer, other settings equal")[0] == found
    assert cells(members, "internal and external recall with gru, other settings equal")[0] == "–"


def test_seeds_far_apart_are_counted_within_their_configuration():
    members = [
        made("a", RETAINED, 0.9, seed=0),
        made("b", DEGRADED, 0.3, seed=1),
        made("c", RETAINED, 0.9, seed=0, rate=2e-3),
        made("d", RETAINED, 0.5, seed=1, rate=2e-3),
        made("e", DEGRADED, 0.0, rate=3e-3),
    ]
    assert cells(members, "seeds")[0] == "1 of 2"
    members += [made(str(seed), RETAINED, 0.9 - 0.8 * seed, recall="none", seed=seed) for seed in (0, 1)]
    assert cells(members, "seeds") == ["1 of 2, without recall 1 of 1", "–", "–"]


def test_fixed_points_shared_and_chosen_by_the_start_are_counted_without_recall_alone():
    shared, chosen = ({"numbers": {**SLOW["numbers"], "fraction shared": part}} for part in (1.0, 0.75))
    members = [
        examined(made("a", RETAINED, 0.9, recall="none"), shared),
        examined(made("b", RETAINED, 0.9, recall="none"), chosen),
        examined(made("c", DEGRADED, 0.1, recall="none"), chosen),
        made("d", RETAINED, 0.9, recall="none"),
        examined(made("e", RETAINED, 0.9), shared),
        examined(made("f", RETAINED, 0.9), chosen),
    ]
    assert cells(members, "without recall: models in which all")[0] == "1 of 3"
    assert cells(members, "without recall: models in which the start chooses") == ["2 of 3 (1)", "–", "–"]
    shared_alone = cells(members[:1], "without recall: models in which the start chooses")
    assert shared_alone[0] == "0 of 1 (0)"


def test_the_pilots_rate_alone_is_compared_with_the_pilot():
    members = [
        made("a", RETAINED, 0.9),
        made("b", RETAINED, 0.4, recall="external"),
        made("c", RETAINED, 0.1, rate=2e-3),
        made("d", RETAINED, 0.1, recall="none"),
        made("e", RETAINED, 0.3, norm="gru"),
        baseline(RETAINED, 0.2),
    ]
    assert cells(members, "with recall, learning rate 1e-3") == ["outer 65.0% (2), gru 30.0% (1)", "–", "–"]


def test_both_radii_are_compared_on_the_same_models():
    members = [
        made(f"{kept}{place}", RETAINED if kept else DEGRADED, 0.5, rate=1e-3 * (1 + place), **{
            STATE_RADIUS: 1.0 + place / 10, POWER_ITERATION: 0.5 if kept else 1.5,
        })
        for kept in (True, False)
        for place in range(6)
    ]  # fmt: skip
    members.append(made("no radius", RETAINED, 0.5, **{STATE_RADIUS: 9.0}))
    sheet = radius_areas(members)
    assert "12 models" in sheet.caption
    assert sheet.rows[0][1].startswith("0.50")
    assert sheet.rows[1][1].startswith("1.00")
    assert sheet.rows[2][1].startswith("0.50")
    assert [row[2] for row in sheet.rows] == [row[1] for row in sheet.rows]
    assert {cell for row in sheet.rows for cell in row[3:]} == {"too few: 0 retain, 0 do not"}


@pytest.mark.parametrize("make", [claims, radius_areas])
def test_the_page_quotes_the_counts_of_the_population(make):
    page = PAGE.read_text().splitlines()
    rows = [line for line in in_markdown(make(read_population(POPULATION))).splitlines() if line.startswith("|")]
    assert [row for row in rows if row not in page] == []


def test_the_page_quotes_the_tables_of_the_ledger():
    """Whole rows, headings included."""
    printed = set("\n".join(map(in_markdown, tables(read_runs()))).splitlines())
    section = PAGE.read_text().partition("\n### Sudoku\n")[2]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) >= 12
    assert [row for row in rows if row not in printed] == []


def test_the_command_prints_the_counts(tmp_path, capsys):
    write_population(tmp_path / LEDGER, [made("a", RETAINED, 0.9), baseline(RETAINED, 0.3)])
    assert main(["claims", "--population", str(tmp_path / LEDGER)]) == 0
    assert "fixed depth 30.0%" in capsys.readouterr().out
