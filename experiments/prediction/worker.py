"""The worker process of a run: it trains and evaluates as in any study, then measures what forecasts are made from.

Models are examined on easy problems that evaluation does not use: once over all iterations, once in prediction mode. The
signals are measured on the same problems. A run that was stopped continues with the stages that are not done yet.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from experiments.prediction.measurements import Measurements
from experiments.prediction.signals import forecast_split, measure_further, measure_signals
from loopscope.stability import ExaminationConfig
from loopscope.studies.worker import (
    Reporter,
    Stage,
    evaluate_stage,
    examine_stage,
    is_looped,
    train_stage,
    work_through,
)
from loopscope.subjects import Subject, on_split, trained
from loopscope.training.run_folder import RunFolder

MODULE = "experiments.prediction.worker"
"""This module's name, for ``run_study``."""


def stages(run: RunFolder, config: ExaminationConfig | None) -> list[Stage]:
    """Return the stages of a run.

    Args:
        run: folder of the run, with its settings.
        config: options of the examinations; its number of examples and its seed are those of the signals too. None if
            the model is only trained and evaluated.

    Raises:
        LoopscopeError: the easy split has too few problems, which is reported before training.
    """
    usual = [train_stage(run), evaluate_stage(run)]
    if config is None or not is_looped(run):
        return usual
    measured = Measurements(run.path)
    if not run.finished():
        forecast_split(run.settings(), config.examples)
    measured.begin(config)

    def subject() -> Subject:
        settings, model = trained(run)
        return on_split(model, settings, forecast_split(settings, config.examples))

    def measure(reporter: Reporter) -> None:
        settings, model = trained(run)
        reporter.step(0, 1)
        split, iterations = forecast_split(settings, config.examples), settings.training.max_iterations
        found = measure_signals(
            model, settings.data, split, iterations, settings.evaluation.iterations, seed=config.seed
        )
        measured.write_signals(found | measure_further(model, settings.data, split, iterations, config.seed))
        reporter.send(1, 1)

    ahead = replace(config, prediction=True)
    return [
        *usual,
        examine_stage(run, config, subject=subject),
        examine_stage(run, ahead, measured.prediction_mode_file, subject, "prediction mode"),
        Stage("signals", lambda: not measured.signals_file.exists(), measure),
    ]


if __name__ == "__main__":
    sys.exit(work_through(sys.argv[1:], stages))
