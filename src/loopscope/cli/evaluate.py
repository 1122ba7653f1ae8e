"""``loopscope evaluate``: measure a run's accuracy against the number of iterations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from loopscope.cli.command import Command
from loopscope.cli.console import console, say, show
from loopscope.cli.measured_run import add_measurement_options, larger_measurement, open_measured_run
from loopscope.cli.places import keep_or_check, place_for
from loopscope.errors import LoopscopeError
from loopscope.parsing import new_parser

if TYPE_CHECKING:
    from loopscope.evaluation import AccuracyCurve, EvaluationConfig
    from loopscope.tasks import Split
    from loopscope.training.run_folder import RunFolder


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        "Measure a run's accuracy after every iteration, on each split of its task. The --data options replace the run's "
        "own data; whether the model was trained on some of the new data is not checked. A stored evaluation that covers "
        "more iterations or examples is kept. The run's report.html shows the result."
    )
    add_measurement_options(parser, "evaluation.json")
    parser.add_argument(
        "--until-settled",
        action=ActionYesNo(no_prefix="no-"),
        default=None,
        help="Run each example only until its state and prediction have settled; by default what the run's config says. "
        "A stored evaluation of every iteration is kept.",
    )
    return parser


def run(options: Namespace) -> int:
    """Evaluate a run on its own data or on other data of its task; return the exit status."""
    from loopscope.evaluation import evaluate, iterations_to_run, to_json
    from loopscope.files import write_json
    from loopscope.reports.terminal import answers_table, curves_table, iteration_progress
    from loopscope.subjects import evaluation_of, evaluation_splits

    measured = open_measured_run(options, ("iterations", "examples", "until_settled"))
    folder, settings = measured.folder, measured.settings
    if settings.model.architecture != "looped":
        _refuse_iterations(folder.path, options)
    out = place_for(folder.evaluation, options.out, measured.other_data)
    config, splits = evaluation_of(settings), evaluation_splits(settings)
    stored = {} if measured.other_data else folder.curves()
    kept = _larger_evaluation(stored, config, splits) if out == folder.evaluation else None
    keep_or_check(out, kept)
    with iteration_progress(console, "evaluate", iterations_to_run(splits, config)) as on_iteration:
        curves = evaluate(measured.model, settings.data, config, on_iteration, splits)
    show(curves_table(str(folder.path), curves, settings.training.max_iterations))
    if settings.model.architecture == "looped":
        show(answers_table(curves))
    for name, curve in curves.items():
        if curve.broken is not None:
            say(
                f"{name}: the readout of {curve.broken.examples} of {curve.examples} examples turns NaN or infinite, the first "
                f"at iteration {curve.broken.first}"
            )
        if curve.steps is not None:
            say(f"{name}: {_saving(curve, stored.get(name))}")
    if kept is None:
        write_json(out, {"settings": settings.to_dict(), "splits": to_json(curves)})
        say(f"written: {out}")
        if out == folder.evaluation:
            _write_page(folder)
    return 0


def _write_page(folder: RunFolder) -> None:
    """Write the page of a run, which shows its examination too if it has one. A damaged one leaves the page as it is."""
    from loopscope.reports.run import record_of, study_of, write_run_page

    try:
        write_run_page(folder.report, folder, record_of(folder), study_of(folder))
    except LoopscopeError as error:
        say(f"not written: {folder.report}, because {error}")
    else:
        say(f"page: {folder.report}")


def _refuse_iterations(path: Path, options: Namespace) -> None:
    """Refuse the options about iterations for a model that has a single pass.

    Raises:
        LoopscopeError: one of them was given.
    """
    for name in ("iterations", "until_settled"):
        if options[name]:
            raise LoopscopeError(
                f"--{name.replace('_', '-')} was given for {path}, whose model has a single pass and does not iterate: "
                "leave it out"
            )


def _larger_evaluation(stored: Mapping[str, Any], config: EvaluationConfig, splits: Mapping[str, Split]) -> str | None:
    """Describe a stored evaluation that covers more than the new one would, or return None.

    An evaluation of every iteration covers more than one that stops where examples have settled.
    """
    if config.until_settled and any(curve.get("steps") is None for curve in stored.values()):
        return "an evaluation of every iteration"
    extents = {name: (curve["examples"], len(curve["answer_accuracy"])) for name, curve in stored.items()}
    return larger_measurement(extents, config, splits, "an evaluation")


def _saving(curve: AccuracyCurve, stored: dict[str, Any] | None) -> str:
    """Say what stopping at settled states saved, and how accuracy compares with a stored evaluation of every iteration."""
    assert curve.steps is not None
    computed, full = curve.steps.computed, curve.steps.full
    saved = f"{100 * (1 - computed / full):.1f}% of the iterations saved: {computed:,} computed instead of {full:,}"
    if stored is None or stored.get("steps") is not None:
        return saved
    if (stored["examples"], len(stored["answer_accuracy"])) != (curve.examples, len(curve.answer_accuracy)):
        return saved
    difference = 100 * (curve.last - stored["last"])
    return f"{saved}; accuracy at the last iteration {difference:+.2f} points from running every iteration"


COMMAND = Command(make_parser, run)
