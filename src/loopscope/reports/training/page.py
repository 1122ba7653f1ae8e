"""The page of a training."""

from __future__ import annotations

from pathlib import Path

from loopscope.errors import LoopscopeError
from loopscope.files import numbered_lines, write_text
from loopscope.forecasts.result import Outlook
from loopscope.reports.kit.charts import draw_panels, svg
from loopscope.reports.kit.formats import DASH, number, percent
from loopscope.reports.kit.page import Html, chip, note, page, picture, table, text
from loopscope.reports.training.figures import History, first_flag, history_panels
from loopscope.training.run_folder import RunFolder
from loopscope.training.watch.of_run import watched_until_now
from loopscope.training.watch.record import WatchRecord

CAPTION = (
    "All panels share the axis of training steps. A residual that stays high says that the trained iterations do not arrive; a "
    "spectral radius above 1 that errors grow there. A swapped orbit has moved if it follows the recalled input, as it should. "
    "Forecasts say whether answers are kept at 10 and 60 times the trained iterations. A dashed line marks the step at which the "
    "flag rose first."
)
TONES = {Outlook.KEEPS: "holds", Outlook.CANNOT_TELL: "unknown", Outlook.COLLAPSES: "fails"}


def write_training_page(run: RunFolder) -> Path:
    """Write the page of a watched run; return its path.

    Args:
        run: folder of the run.

    Raises:
        LoopscopeError: the run was not watched, or a file is damaged.
    """
    records = watched_until_now(run)
    if not records:
        raise LoopscopeError(
            f"{run.path} holds no records of a watch: expected {run.watch.name}, which loopscope train --watch writes"
        )
    history = History([row for _, row in numbered_lines(run.metrics)], records)
    figure = svg(draw_panels(history_panels(history), columns=1)[0], "the axes over training steps")
    parts = [
        f"<h1>Training of {text(run.path.name)}</h1><p>{text(headline(records))}</p>",
        picture([figure], CAPTION),
        "<h2>Measurements</h2>",
        _table(records),
        note(_cost(history)),
        _missing(records),
    ]
    write_text(run.training_page, page(f"Training of {run.path.name}", "\n".join(parts)))
    return run.training_page


def headline(records: list[WatchRecord]) -> str:
    """Return in a sentence or two what the watch forecast."""
    last, flag = records[-1], first_flag(records)
    said = f"Collapse was first flagged at step {flag.step}. " if flag is not None else "No collapse was flagged. "
    forecasts = ", ".join(f"{one.outlook.value} to {one.iterations} iterations" for one in last.forecasts)
    return f"{said}At step {last.step} the forecast is: {forecasts or 'unknown'}."


def _table(records: list[WatchRecord]) -> str:
    horizons = sorted({one.iterations for record in records for one in record.forecasts})
    columns = (
        "step",
        "residual",
        "arrived %",
        "norm growth",
        "spectral radius",
        "moved %",
        "right %",
        *(f"to {horizon}" for horizon in horizons),
        "seconds",
    )
    return table(columns, [_row(record, horizons) for record in records])


def _row(record: WatchRecord, horizons: list[int]) -> list[object]:
    radius = number(record.radius, 3)
    if record.radius is not None and record.radius_error is not None:
        radius = f"{radius} ± {record.radius_error:.1g}"
    outlooks = {one.iterations: one.outlook for one in record.forecasts}
    return [
        f"{record.step}{' (flag)' if record.flagged else ''}",
        DASH if record.residual is None else f"{record.residual:.1e}",
        percent(record.arrived),
        number(record.norm_growth, 4),
        radius,
        percent(None if record.swaps is None else record.swaps.moved),
        percent(record.accuracy),
        *(
            chip(outlooks[horizon].value, TONES[outlooks[horizon]]) if horizon in outlooks else Html(DASH)
            for horizon in horizons
        ),
        f"{record.seconds:.1f}",
    ]


def _cost(history: History) -> str:
    spent = sum(record.seconds for record in history.records)
    trained = history.metrics[-1]["seconds"] if history.metrics else 0.0
    share = f", {100 * spent / trained:.1f}% of {trained:.0f} s of training" if trained else ""
    return (
        f"{len(history.records)} measurements took {spent:.1f} s{share}. The last one follows the last training step."
    )


def _missing(records: list[WatchRecord]) -> str:
    """Return what could not be measured, with the number of records without it and one reason."""
    reasons: dict[str, list[str]] = {}
    for record in records:
        for part, reason in record.unknown.items():
            reasons.setdefault(part, []).append(reason)
    if not reasons:
        return ""
    rows = [(part, str(len(found)), found[-1]) for part, found in reasons.items()]
    return "<h2>What could not be measured</h2>" + table(("part", "records", "reason"), rows, texts=("part", "reason"))
