"""The page of a watched training: the curves that it draws, what it says, and runs that it refuses."""

import json

import numpy as np
import pytest
from small_runs import tiny

from loopscope.errors import LoopscopeError
from loopscope.files import append_line
from loopscope.forecasts.result import Outlook
from loopscope.reports.kit.charts import draw_panels
from loopscope.reports.training.figures import History, history_panels
from loopscope.reports.training.page import headline, write_training_page
from loopscope.training.run_folder import open_run
from loopscope.training.watch.record import HorizonForecast, SwapFractions, WatchRecord


def record(step: int, collapses: bool = False, **options) -> WatchRecord:
    outlook = Outlook.COLLAPSES if collapses else Outlook.KEEPS
    forecasts = (HorizonForecast(40, Outlook.KEEPS, None, 1.0), HorizonForecast(240, outlook, None, 0.2))
    swaps = SwapFractions(moved=0.75, stayed=0.0, elsewhere=0.0, shared=0.0, unknown=0.25)
    known = {"residual": 0.1 / step, "arrived": 0.5, "radius": 0.9, "radius_error": 0.01, "accuracy": 0.25}
    return WatchRecord(step, 4, **{**known, "swaps": swaps, "forecasts": forecasts, "seconds": 0.5, **options})


RECORDS = [
    record(100),
    record(200, collapses=True),
    record(300, collapses=True, flagged=True, radius=None, radius_error=None, unknown={"swaps": "no <orbit> arrived"}),
]
METRICS = [{"step": step, "loss": 1 / step, "state_radius": 0.4, "seconds": step / 10} for step in (50, 150, 300)]


def curves(axes) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_the_figure_shows_the_records_over_training_steps_beside_the_loss():
    _, (loss, residual, radius, fractions, forecasts) = draw_panels(history_panels(History(METRICS, RECORDS)), 1)
    assert np.allclose(loss.get_lines()[0].get_ydata(), [1 / 50, 1 / 150, 1 / 300])
    assert np.allclose(residual.get_lines()[0].get_ydata(), [1e-3, 5e-4, 1e-3 / 3])
    assert "the 4 iterations" in residual.get_title(loc="left")
    assert curves(radius)["weights of the state (W_state)"] == ([50, 150, 300], [0.4] * 3)
    (bars,) = radius.containers
    assert np.array_equal(bars.lines[0].get_ydata(), [0.9, 0.9, np.nan], equal_nan=True)
    assert curves(fractions)["swapped orbits that moved"] == ([100, 200, 300], [75, 75, 75])
    assert curves(fractions)["inputs right"][1] == [25, 25, 25]
    assert curves(forecasts)["collapses"] == ([200, 300], [1, 1])
    assert curves(forecasts)["keeps"] == ([100, 100, 200, 300], [0, 1, 0, 0])
    for axes in (loss, residual, radius, fractions, forecasts):
        assert axes.get_xlim() == (0, 303)
        dashed = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
        assert [line.get_xdata()[0] for line in dashed] == [300]


def test_the_headline_says_when_the_flag_rose():
    assert headline(RECORDS) == (
        "Collapse was first flagged at step 300. At step 300 the forecast is: keeps to 40 iterations, collapses to 240 iterations."
    )
    assert headline(RECORDS[:1]).startswith("No collapse was flagged.")


@pytest.fixture
def run(tmp_path):
    return open_run(tmp_path / "run <1>", tiny(), resume=False)


def test_a_page_of_a_watched_run(run):
    for row in METRICS:
        append_line(run.metrics, row)
    for one in RECORDS:
        append_line(run.watch, one.to_dict())
    page = write_training_page(run).read_text()
    assert "<h1>Training of run &lt;1&gt;</h1>" in page
    assert "no &lt;orbit&gt; arrived" in page
    assert "3 measurements took 1.5 s, 5.0% of 30 s of training." in page
    assert "0.900 ± 0.01" in page
    assert page.count("<svg") == 1


def test_a_page_without_metrics_or_numbers(run):
    append_line(run.watch, WatchRecord(5, 4, unknown={"orbits": "the states are not finite"}).to_dict())
    assert "the states are not finite" in write_training_page(run).read_text()


def test_a_run_that_was_not_watched_has_no_page(run):
    with pytest.raises(LoopscopeError, match=r"holds no records of a watch: expected watch\.jsonl"):
        write_training_page(run)


def test_a_damaged_record_is_named(run):
    append_line(run.watch, RECORDS[0].to_dict())
    run.watch.write_text(run.watch.read_text() + json.dumps({"step": "x"}) + "\n")
    with pytest.raises(LoopscopeError, match=r"watch\.jsonl, line 2 is damaged \(the record\.step is 'x'"):
        write_training_page(run)
