"""``loopscope trust``: measure what tells a run's right answers from its wrong ones."""

from __future__ import annotations

import json

from jsonargparse import ArgumentParser, Namespace

from loopscope.cli.command import Command
from loopscope.cli.console import console, say, show
from loopscope.cli.measured_run import add_measurement_options, larger_measurement, open_measured_run
from loopscope.cli.places import keep_or_check, place_for
from loopscope.errors import LoopscopeError
from loopscope.parsing import new_parser


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        "Measure, example by example, what tells a run's right answers from its wrong ones: whether the state arrived, "
        "the residual, the contraction, the estimated error and the softmax confidence. loopscope solve uses the result "
        "to say how often similar answers were right. The --data options replace the run's own data. A stored measurement "
        "that covers more iterations or examples is kept."
    )
    add_measurement_options(parser, "trust.json")
    return parser


def run(options: Namespace) -> int:
    """Measure a run on its own data or on other data of its task; return the exit status."""
    from loopscope.answers.trust import extents, measure_trust
    from loopscope.evaluation import iterations_to_run
    from loopscope.files import write_bytes, write_text
    from loopscope.reports.kit.charts import png
    from loopscope.reports.kit.sheet import in_terminal
    from loopscope.reports.terminal import iteration_progress
    from loopscope.reports.trust import risk_figure, trust_sheets
    from loopscope.subjects import evaluation_splits

    opened = open_measured_run(options, ("iterations", "examples"))
    folder, settings = opened.folder, opened.settings
    if settings.model.architecture != "looped":
        raise LoopscopeError(f"{folder.path} holds a {settings.model.architecture} model, which has no iterations")
    out = place_for(folder.trust, options.out, opened.other_data)
    splits, config = evaluation_splits(settings), settings.evaluation
    stored = extents(folder.trust) if out == folder.trust else {}
    kept = larger_measurement(stored, config, splits, "a measurement")
    keep_or_check(out, kept)
    with iteration_progress(console, "trust", iterations_to_run(splits, config)) as on_iteration:
        measured = measure_trust(opened.model, settings.data, config, on_iteration, splits)
    values = {"settings": settings.to_dict(), "splits": {name: split.to_json() for name, split in measured.items()}}
    for sheet in trust_sheets(str(folder.path), config.iterations, values["splits"]):
        show(in_terminal(sheet))
    if kept is None:
        write_text(out, json.dumps(values, allow_nan=False) + "\n")
        write_bytes(out.with_suffix(".png"), png(risk_figure(values["splits"])))
        say(f"written: {out} and {out.with_suffix('.png')}")
    return 0


COMMAND = Command(make_parser, run)
