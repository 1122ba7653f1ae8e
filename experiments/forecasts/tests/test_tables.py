"""Tables of forecasts against outcomes."""

from __future__ import annotations

import pytest

from experiments.forecasts.__main__ import main
from experiments.forecasts.outcomes import Outcome
from experiments.forecasts.population import LEDGER, Row, Training, read_ledger
from experiments.forecasts.tables import by_family, clock, counted, mistakes, rivals, tables
from loopscope.reports.kit.sheet import in_markdown


def row(seed, outlook, keeps, *, runs=True, onset=None, damping=None, collapse=None, solves=1.0, steps=48) -> Row:
    return Row(
        training=Training("kind", seed, 0.01, "fixed"),
        damping=damping,
        role="fourth test",
        solves=solves,
        outcome=Outcome(keeps, 1.0 if keeps else 0.2, 1.0, onset),
        accuracy={},
        outlook=outlook,
        collapse=collapse,
        steps=steps,
        rounds=[{"least": 0.3, "most": 0.95}],
        reason="",
        unchecked=True,
        runs={"60": True, "96": runs},
        seconds={},
    )


ROWS = [
    row(0, "keeps", True),
    row(1, "keeps", False, onset=300, damping=0.1),
    row(2, "collapses", False, onset=200, collapse=100.0),
    row(3, "collapses", False, onset=80, runs=False, collapse=80.0, steps=96),
    row(4, "cannot tell", True),
]


def test_shares_stand_beside_wilson_intervals():
    assert counted(8, 10) == "8 of 10, 80% [49, 94]"
    assert counted(0, 0) == "0 of 0"


def test_forecasts_are_counted_by_family_and_damping():
    lines = {line[0]: line[1:] for line in by_family(ROWS, "title").rows}
    assert list(lines) == ["kind", "undamped", "damped", "all"]
    loops, keep, decided, right, keeps_right, collapses_right, cost = lines["all"]
    assert (loops, keep, keeps_right, collapses_right, cost) == ("5", "2", "1 of 2", "2 of 2", "12 (20)")
    assert decided.startswith("4 of 5, 80%")
    assert right.startswith("3 of 4, 75%")
    assert lines["damped"][3].startswith("0 of 1")


def test_rivals_are_counted_on_the_same_loops():
    lines = {line[0]: line[1:] for line in rivals(ROWS, "title").rows}
    assert lines["forecast, decided loops"][0].startswith("3 of 4")
    assert lines["forecast, decided loops"][1:3] == ["1 of 2", "1 of 2"]
    assert lines["running on to 96, decided loops"][0].startswith("2 of 4")
    assert lines["running on to 96, decided loops"][2] == "0 of 2"
    assert lines["running on to 60, all loops"][0].startswith("2 of 5")
    assert lines["leaps without a check, all loops"][3] == "6"


def test_mistakes_and_what_cannot_be_told_are_listed():
    lines = mistakes(ROWS, "title").rows
    assert [(line[1], line[3]) for line in lines] == [("4, 0.01, fixed", "cannot tell"), ("1, 0.01, fixed", "keeps")]
    assert lines[1][2:] == ["0.1", "keeps", "30 to 95", "20", "300"]


def test_the_iteration_of_a_collapse_is_compared_as_a_factor():
    assert clock(ROWS) == "The iteration of a collapse is forecast within a factor of 1.41 in the median of 2 loops."
    assert clock(ROWS[:1]) == "No collapse was forecast."


def test_loops_that_did_not_learn_do_not_count():
    (sheet, *_) = tables([*ROWS, row(5, "keeps", False, solves=0.5)])
    assert sheet.rows[-1][1] == "5"
    assert "1 of 6 loops did not learn their task and do not count." in sheet.caption


def test_the_tables_of_a_ledger_are_printed(capsys, tmp_path):
    assert main(["table"]) == 0
    assert capsys.readouterr().out == "\n".join(map(in_markdown, tables(read_ledger(LEDGER))))
    (tmp_path / "bad.jsonl").write_text("{}\n")
    assert main(["table", "--ledger", str(tmp_path / "bad.jsonl")]) == 2
    assert "line 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["walk"]])
def test_other_commands_are_refused(command, capsys):
    with pytest.raises(SystemExit):
        main(command)
    assert "usage" in capsys.readouterr().err
