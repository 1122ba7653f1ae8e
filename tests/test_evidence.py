"""What the package quotes about trained models, and that it does not depend on the experiments that found it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import loopscope
from loopscope.errors import LoopscopeError
from loopscope.evidence import Evidence, evidence, mending, read_evidence, read_mending
from loopscope.forecasts.result import Forecast, Outlook, Point, Round
from loopscope.reports.forecast import forecast_sheet
from loopscope.stability.verdict import FITTED, PRIORS, TESTED_ON, THRESHOLDS

PACKAGE = Path(loopscope.__file__).parent


def test_the_fitted_thresholds_replace_their_priors():
    assert [one.measure for one in FITTED] == [one.measure for one in evidence().thresholds]
    for one in evidence().thresholds:
        used = THRESHOLDS[one.measure]
        assert (used.holds, used.fails, used.origin) == (one.holds, one.fails, one.origin)
        assert used.larger_is == PRIORS[one.measure].larger_is
    assert THRESHOLDS.keys() == PRIORS.keys()
    assert evidence().tested_on == TESTED_ON


def test_a_forecast_quotes_how_often_forecasts_came_true():
    sheet = forecast_sheet(
        "a loop",
        Forecast(
            Outlook.KEEPS,
            "",
            None,
            480,
            [Point(15, False, 1.0, None, 1.0)],
            inputs=1,
            seconds=0.1,
            rounds=(Round(15, 32, 1.0, 1.0, 0.0, None, None, None),),
        ),
    )
    record = evidence().forecast
    assert f"decided on {record.decided} of {record.models} small models" in sheet.caption
    assert f"{record.right} of these {record.decided} came true." in sheet.caption


def test_the_data_file_names_the_command_that_writes_it():
    assert isinstance(evidence(), Evidence)
    assert evidence().command.startswith("python -m ")


def test_damaged_evidence_is_one_line(tmp_path, unchecked):
    file = tmp_path / "evidence.json"
    for content in (None, "{}", "[]", '{"command": 3}'):
        if content is not None:
            file.write_text(content)
        with pytest.raises(LoopscopeError, match=r"^[^\n]*install the package again$"):
            read_evidence(file)
        with pytest.raises(LoopscopeError, match=r"^[^\n]*install the package again$"):
            read_mending(file)


def test_no_module_of_the_package_knows_the_experiments():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "experiments" for name in names), file


def test_options_against_collapse_are_ranked_by_the_share_of_cells_that_they_mend():
    found = mending()
    assert found.command.startswith("python -m ")
    ranks = [(-one.mended / one.cells, -one.left) for one in found.options]
    assert ranks == sorted(ranks)
    assert all(one.mended <= one.cells for one in found.options)
