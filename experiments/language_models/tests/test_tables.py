"""The tables, on rows that are made up."""

from __future__ import annotations

from pathlib import Path

from experiments.forecasts.tables import counted
from experiments.language_models import __main__ as command
from experiments.language_models.population import Forecasted, Row
from experiments.language_models.tables import against_outcomes, by_setting, cases, clock, late, mistakes, tables
from experiments.language_models.training import Training

HELD = [1.0] * 64
EARLY = [1.0] * 5 + [0.2] * 59
LATE = [1.0] * 40 + [0.2] * 24
NEVER = [0.5] * 64


def row(accuracy, seed=0, schedule="fixed"):
    return Row(Training("depth", "dory", "every", schedule, 0.01, seed), 0.1, 1.0, accuracy)


def said(row, outlook, horizon=64, steps=24):
    return Forecasted(row.training, horizon, outlook, 30.0 if outlook == "collapses" else None, steps, 0.1, "")


ROWS = [row(HELD, 0), row(EARLY, 1), row(LATE, 2), row(LATE, 3), row(NEVER, 4, "sampled")]
SAID = [
    said(one, outlook)
    for one, outlook in zip(ROWS, ["keeps", "collapses", "collapses", "cannot tell", "keeps"], strict=True)
]


def test_only_models_that_learned_count():
    assert [case.row.training.seed for case in cases(ROWS, SAID)] == [0, 1, 2, 3]


def test_forecasts_and_rivals_are_counted_against_outcomes():
    lines = against_outcomes(cases(ROWS, SAID), "A title").rows
    assert len(lines) == 3
    assert lines[0][0] == "64 (1 keep, 3 collapse)"
    assert lines[0][1:] == ["forecast", "3 of 4, 75% [30, 95]", "3 of 3, 100% [44, 100]", "1 of 1", "2 of 2", "38"]
    assert lines[1][2:] == ["4 of 4, 100% [51, 100]", "2 of 4, 50% [15, 85]", "1 of 3", "1 of 1", "12"]
    assert lines[2][2:] == [*lines[1][2:-1], "38"]


def test_the_forecast_loop_of_a_collapse_is_compared_with_the_true_one():
    found = cases(ROWS, SAID)
    assert clock(found) == "Collapses are forecast to within 18 loops in the median of 2, 24 at most."
    assert clock(found[:1]) == "No collapse was forecast."


def test_an_empty_count_has_no_share():
    assert counted(0, 0) == "0 of 0"


def test_late_collapses_are_counted_apart():
    rows = late(cases([*ROWS, row([1.0] * 10 + [0.2] * 54, 5)], [*SAID, said(row(HELD, 5), "keeps")])).rows
    assert rows[-2] == ["64", "2k loops", "3", "1", "1", "1"]
    assert rows[-1] == ["64", "as many loops as the forecast takes steps", "2", "1", "1", "0"]


def test_wrong_and_undecided_forecasts_are_listed():
    wrong = [*SAID[:3], said(ROWS[3], "keeps")]
    assert mistakes(cases(ROWS, wrong)).rows == [["depth-dory-every-fixed-0.01-3", "64", "keeps", "-", "20", "41"]]
    assert mistakes(cases(ROWS, SAID)).rows[0][2] == "cannot tell"


def test_models_are_counted_by_setting():
    rows = by_setting(ROWS).rows
    assert rows == [
        ["dory", "every loop", "fixed", "4", "4", "3", "3", "1"],
        ["dory", "every loop", "sampled", "1", "0", "0", "0", "0"],
    ]


def test_the_command_prints_every_table(capsys):
    assert command.main(["table"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("### ") == len(tables([], [])) == 6
    assert "running on to 2k" in printed


def test_the_page_holds_the_tables_of_the_command(capsys):
    command.main(["table"])
    page = (Path(__file__).parents[3] / "docs" / "evidence" / "language-models.md").read_text()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line for line in printed if line not in page] == []
