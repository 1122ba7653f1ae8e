"""The subject of ``evaluate`` and ``trust``: a run, measured on its own data or on other data of its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from loopscope.subjects import trained_for_evaluation, with_data
from loopscope.tasks import TASKS
from loopscope.training.run_folder import RunFolder

if TYPE_CHECKING:
    from loopscope.evaluation import EvaluationConfig
    from loopscope.models import FixedDepthTransformer, LoopedTransformer
    from loopscope.tasks import Split
    from loopscope.training.settings import RunSettings


@dataclass(frozen=True)
class MeasuredRun:
    """A run to measure.

    Args:
        folder: the run's folder.
        settings: the run's settings, with the options of the command line in their places.
        model: the trained model.
        other_data: whether the data are not the run's own.
    """

    folder: RunFolder
    settings: RunSettings
    model: LoopedTransformer | FixedDepthTransformer
    other_data: bool


def add_measurement_options(parser: ArgumentParser, own: str) -> None:
    """Add the options of a command that measures a run on the splits of its task.

    Args:
        parser: the command's parser.
        own: the name of the file in the run's folder that the command writes.
    """
    parser.add_argument("run", help="Folder of a trained run.")
    parser.add_argument(
        "--iterations", type=int | None, help="Iterations to run; by default those of the run's config."
    )
    parser.add_argument(
        "--examples", type=int | None, help="Largest number of examples of a split; by default the config's."
    )
    parser.add_argument(
        "--out", type=str | None, help=f"File to write; by default {own} in the run's folder. Required with --data."
    )
    options = {name: [field.name for field in fields(task)] for name, task in TASKS.items()}
    for option in dict.fromkeys(option for known in options.values() for option in known):
        names = [name for name, known in options.items() if option in known]
        parser.add_argument(
            f"--data.{option}",
            type=str,
            default=None,
            help=f"Replaces the run's own value, for {', '.join(names)}: see loopscope train TASK --help.",
        )


def open_measured_run(options: Namespace, chosen: Sequence[str]) -> MeasuredRun:
    """Return the run that the options name, with their changes to its evaluation and its data.

    Args:
        options: the options of a command whose parser has ``add_measurement_options``.
        chosen: the names of the options that are settings of an evaluation.

    Raises:
        LoopscopeError: there is no such run, or no such data.
    """
    folder = RunFolder(Path(options.run))
    settings, model = trained_for_evaluation(folder)
    given = {name: options[name] for name in chosen if options[name] is not None}
    settings = replace(settings, evaluation=replace(settings.evaluation, **given))
    other_data = {name: value for name, value in vars(options.data).items() if value is not None}
    return MeasuredRun(folder, with_data(settings, other_data), model, bool(other_data))


def larger_measurement(
    stored: Mapping[str, tuple[int, int]], config: EvaluationConfig, splits: Mapping[str, Split], what: str
) -> str | None:
    """Describe a stored measurement that covers more than the new one would, or return None.

    Args:
        stored: the examples and the iterations of the stored measurement, by split.
        config: the settings of the new one.
        splits: the splits of the new one.
        what: what is stored, such as "an evaluation".
    """
    for name, (examples, iterations) in stored.items():
        if name in splits and (config.iterations < iterations or min(config.examples, len(splits[name])) < examples):
            return f"{what} of {examples} examples of {name} over {iterations} iterations"
    return None
