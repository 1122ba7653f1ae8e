"""The watch of a run: on its easy validation problems, with its records in the run's folder."""

from __future__ import annotations

from loopscope.contexts import device_of_loop
from loopscope.errors import LoopscopeError
from loopscope.evaluation import rule_of_split
from loopscope.files import numbered_lines
from loopscope.loop import Loop
from loopscope.schema import from_plain
from loopscope.tasks import answers_of
from loopscope.training.run_folder import RunFolder
from loopscope.training.settings import RunSettings
from loopscope.training.watch.record import WatchRecord
from loopscope.training.watch.watch import OnCollapse, Watch

EXAMPLES = 16
"""Problems that the watch of a run measures on."""


def watch_of_run(
    settings: RunSettings, run: RunFolder, model: Loop, on_collapse: OnCollapse, every: int | str = "auto"
) -> Watch:
    """Return a watch of the model of a run, on the first problems of its easy split.

    Args:
        settings: settings of the run.
        run: its folder. Records are appended to its watch.jsonl.
        model: the model that is trained, on its device.
        on_collapse: as `Watch` takes it.
        every: as `Watch` takes it.

    Raises:
        LoopscopeError: the model does not iterate.
    """
    if settings.model.architecture != "looped":
        raise LoopscopeError(
            f"a watch was asked for with a {settings.model.architecture} model, which does not iterate: leave --watch out"
        )
    task = settings.data
    split = next(iter(task.evaluation_splits().values())).first(EXAMPLES)
    split = split.to(device_of_loop(model, split.problems.device))
    return Watch(
        model,
        task.inputs(split.problems),
        rule_of_split(task, split),
        every,
        trained_iterations=settings.training.max_iterations,
        on_collapse=on_collapse,
        answers=answers_of(task),
        seed=settings.training.seed,
        file=run.watch,
    )


def watched_until_now(run: RunFolder) -> list[WatchRecord]:
    """Return the records of a run's watch; none if it was not watched.

    Raises:
        LoopscopeError: a line is not a record.
    """
    records = []
    for number, row in numbered_lines(run.watch):
        try:
            records.append(from_plain(row, WatchRecord, "the record"))
        except LoopscopeError as error:
            raise LoopscopeError(
                f"{run.watch}, line {number} is damaged ({error}): remove that line and run again"
            ) from error
    return records
