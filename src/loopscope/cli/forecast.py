"""``loopscope forecast``: predict whether a run, or any loop, will keep its answers."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from loopscope.cli.command import Command
from loopscope.cli.console import show, tell
from loopscope.cli.subject import add_subject, subject_of
from loopscope.errors import check_positive
from loopscope.parsing import new_parser


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        "Predict whether a looped model keeps its answers up to --horizon iterations or collapses earlier, or report that it "
        "cannot tell. Each orbit is extrapolated from what its last changes have in common, and true steps check where that leads; "
        "loopscope evaluate runs every iteration. Given package.module:function, the command runs that code from the current "
        "folder."
    )
    add_subject(parser)
    parser.add_argument("--examples", type=int, default=64, help="Largest number of easy inputs to use.")
    parser.add_argument("--horizon", type=int, default=480, help="The iteration to forecast.")
    parser.add_argument(
        "--budget",
        type=float,
        help="Largest number of true steps, as a fraction of the steps needed to reach the horizon. By default a fifth, or six times "
        "the iterations in training if that is more.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of a random first state.")
    return parser


def run(options: Namespace) -> int:
    """Forecast a run, or any loop that an importable function returns; return the exit status."""
    from loopscope.forecasts.forecast import forecast
    from loopscope.reports.forecast import forecast_sheet
    from loopscope.reports.kit.sheet import in_terminal
    from loopscope.subjects import first_examples

    check_positive(examples=options.examples)
    subject = first_examples(subject_of(options), options.examples)
    result = forecast(
        subject.loop,
        subject.inputs,
        subject.targets,
        subject.trained_iterations,
        options.seed,
        subject.answers,
        horizon=options.horizon,
        budget=options.budget,
    )
    show(in_terminal(forecast_sheet(options.subject, result)))
    tell(f"{options.subject} {result}.")
    return 0


COMMAND = Command(make_parser, run)
