"""``loopscope train``: train one model on one task."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from loopscope.cli.command import Command
from loopscope.cli.console import console, say
from loopscope.errors import RESUMABLE, LoopscopeError, check_count
from loopscope.files import read_yaml_mapping
from loopscope.parsing import dotted, new_parser
from loopscope.tasks import TASKS
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.settings import RunSettings, add_sections, check_keys, complete, current_settings

if TYPE_CHECKING:
    from accelerate.state import PartialState

    from loopscope.loop import Loop
    from loopscope.training.watch.record import WatchRecord
    from loopscope.training.watch.watch import Watch


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser("Train one model on one task. The run goes into a folder and can be resumed.")
    subcommands = parser.add_subcommands(dest="task", title="tasks")
    for name, task in TASKS.items():
        description = (task.__doc__ or "").strip().splitlines()[0]
        sub = new_parser(description)
        sub.add_argument(
            "--config",
            type=str | None,
            help="YAML file with the sections data, model, training and evaluation, such as a run's config.yaml. Options "
            "given on the command line override it.",
        )
        sub.add_argument("--out", required=True, help="Folder for the run.")
        sub.add_argument(
            "--resume",
            action="store_true",
            help="Continue from the run's newest checkpoint; start a new run if the folder holds none.",
        )
        sub.add_argument(
            "--watch",
            nargs="?",
            const="warn",
            choices=["warn", "stop"],
            help="Measure the loop while it trains, using at most 3%% of the time; results go to watch.jsonl and training.html. "
            "Once a collapse is forecast, warn (the default) or stop, which leaves a run that --resume continues.",
        )
        sub.add_argument(
            "--watch-every", type=int | None, help="With --watch: steps between measurements, whatever they cost."
        )
        add_sections(sub, name)
        subcommands.add_subcommand(name, sub, help=description)
    return parser


def with_config(parsed: Namespace, arguments: Sequence[str]) -> Sequence[str]:
    """Return the arguments with the settings of the config file inserted before those given by hand.

    Raises:
        LoopscopeError: the file is for another task or holds an unknown setting.
    """
    if parsed[parsed.task].get("config") is None:
        return arguments
    source = Path(parsed[parsed.task].config)
    values = {key: value for key, value in read_yaml_mapping(source).items() if value is not None}
    if (task := values.pop("task", parsed.task)) != parsed.task:
        raise LoopscopeError(f"{source} is for the task {task}, but {parsed.task} was asked for")
    try:
        settings = dotted(current_settings(values))
        check_keys(parsed.task, settings)
    except LoopscopeError as error:
        raise LoopscopeError(f"{source}: {error}") from error
    given = [
        f"--{key}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for key, value in settings.items()
    ]
    place = list(arguments).index(parsed.task) + 1
    return [*arguments[:place], *given, *arguments[place:]]


@contextmanager
def catch_signals() -> Iterator[Callable[[], str | None]]:
    """Yield a function that returns the name of the first SIGINT or SIGTERM received, or None."""
    caught: list[str] = []

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number).name)

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def watched(settings: RunSettings, run: RunFolder, action: str, every: int | None, model: Loop) -> Watch:
    """Return the watch of a run that warns in the terminal, or stops the training, once collapse is forecast.

    Args:
        settings: settings of the run.
        run: its folder.
        action: warn or stop.
        every: steps between measurements; None for as many as a share of the time allows.
        model: the model that is trained.
    """
    from loopscope.training.watch.of_run import watch_of_run

    def warn(record: WatchRecord) -> None:
        say(f"step {record.step}: {record.forewarning}")

    return watch_of_run(settings, run, model, "stop" if action == "stop" else warn, every or "auto")


def run(options: Namespace) -> int:
    """Train a run to its end, or until a signal stops it; return the exit status."""
    from loopscope.training.processes import joined_processes

    given = options[options.task]
    if given.watch_every is not None:
        check_count(watch_every=given.watch_every)
        if given.watch is None:
            raise LoopscopeError(
                f"--watch-every {given.watch_every} was given without --watch: add --watch or leave it out"
            )
    settings = complete(options.task, given)
    with joined_processes() as state:
        return _train(settings, given, state)


def _train(settings: RunSettings, given: Namespace, state: PartialState) -> int:
    """Train the run as one of the processes that ``state`` counts; return the exit status."""
    from loopscope.reports.terminal import train_progress
    from loopscope.reports.training.page import write_training_page
    from loopscope.training.trainer import train
    from loopscope.training.watch.of_run import watched_until_now

    out, is_main = Path(given.out), state.is_main_process
    with state.main_process_first():
        absent = not RunFolder(out).config.is_file()
        if absent:
            settings.data.training_split()  # refuses unavailable data before the folder is made
        opened = open_run(out, settings, resume=given.resume or not is_main)
    if is_main and absent and given.resume:
        say(f"{out} holds no run to resume: starting a new one")
    if opened.finished():
        say(f"{out} has finished training; next:  loopscope evaluate {out}")
        return 0
    decided = opened.settings()
    if is_main and settings.training.precision == "auto":
        say(f"precision: {decided.training.precision}")
    make_watch = None if given.watch is None else partial(watched, decided, opened, given.watch, given.watch_every)
    with (
        opened.lock() if is_main else nullcontext(),
        catch_signals() as caught,
        train_progress(console, settings.training.steps, shown=is_main) as on_step,
    ):
        outcome = train(decided, opened, on_step, caught, make_watch)
    if is_main and watched_until_now(opened):
        say(f"watched: {write_training_page(opened)}")
    if outcome.stopped:
        say(f"stopped by {outcome.stopped} after step {outcome.step}: add --resume to continue")
        return RESUMABLE
    if is_main:
        say(f"trained: {opened.model}; next:  loopscope evaluate {out}  and  loopscope examine {out}")
    return 0


COMMAND = Command(make_parser, run, expand=with_config)
