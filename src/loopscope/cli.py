"""The command line: one thin function per command."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from loopscope.errors import RESUMABLE, LoopscopeError, check_choice, nearest
from loopscope.training.settings import tidy

if TYPE_CHECKING:
    from loopscope.evaluation import AccuracyCurve, EvaluationConfig
    from loopscope.models import FixedDepthTransformer, LoopedTransformer
    from loopscope.stability import ExaminationConfig
    from loopscope.studies import StudyFolder, StudyOutcome, StudyPlan
    from loopscope.studies.processes import Machines
    from loopscope.subjects import Subject
    from loopscope.tasks import Split
    from loopscope.tasks.text import Problem, Words
    from loopscope.training.run_folder import RunFolder
    from loopscope.training.settings import RunSettings

# What is shown may hold brackets and colons of its own (paths, errors): none of it is markup.
console = Console(stderr=True, markup=False, emoji=False)
CRASHED = 70
"""Exit status of a crash (the system's code for an internal error of a program)."""
POPULATION = "ledger.jsonl"
"""The file of a population in its folder."""


def say(words: str) -> None:
    """Say something beside a command's results, on a line of its own however long."""
    console.print(words, soft_wrap=True)


def show(table: Table) -> None:
    """Print a table on standard output."""
    Console(markup=False, emoji=False).print(table)


@contextmanager
def catch_signals() -> Iterator[Callable[[], str | None]]:
    """Yield a function that tells which of SIGINT and SIGTERM came first, or None."""
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


def seconds(text: str) -> float:
    """Return the seconds in a duration such as 90, 30s, 9m, 2h or 1h30m.

    Raises:
        LoopscopeError: it is none.
    """
    # Beside another part a number needs its unit: 1h30 would be read as 30 seconds, and meant as minutes.
    given = text.strip()
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", f"{given}s" if given.isdecimal() else given)
    if not match or not any(match.groups()):
        raise LoopscopeError(f"{text!r} is no duration: expected one such as 90, 30s, 9m or 1h30m")
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(3600 * hours + 60 * minutes + rest)


def train_command(options: Namespace) -> int:
    """Train one model on one task."""
    from loopscope.reports.terminal import train_progress
    from loopscope.training.run_folder import RunFolder, open_run
    from loopscope.training.settings import complete
    from loopscope.training.trainer import main_process_first, train

    settings = complete(options.task, options[options.task])
    out = Path(options[options.task].out)
    with main_process_first() as is_main:
        absent = not RunFolder(out).config.is_file()
        if absent:
            settings.data.training_split()  # data that cannot be had are refused before there is a folder
        run = open_run(out, settings, resume=options[options.task].resume or not is_main)
    if is_main and absent and options[options.task].resume:
        say(f"{out} holds no run to resume: a new one begins")
    if run.finished():
        say(f"{out} has finished training: evaluate it with  loopscope evaluate {out}")
        return 0
    decided = run.settings()
    if is_main and settings.training.precision == "auto":
        say(f"precision: {decided.training.precision}")
    with (
        run.lock() if is_main else nullcontext(),
        catch_signals() as caught,
        train_progress(console, settings.training.steps, shown=is_main) as on_step,
    ):
        outcome = train(decided, run, on_step, caught)
    if outcome.stopped:
        say(f"stopped by {outcome.stopped} after step {outcome.step}: add --resume to go on")
        return RESUMABLE
    if is_main:
        say(f"trained: {run.model}; next:  loopscope evaluate {out}  and  loopscope examine {out}")
    return 0


def evaluate_command(options: Namespace) -> int:
    """Evaluate a run against the number of iterations, on its own data or on others of its task."""
    from loopscope.evaluation import evaluate, iterations_to_run, to_json
    from loopscope.files import write_json
    from loopscope.reports.terminal import curves_table, iteration_progress
    from loopscope.subjects import evaluation_of, evaluation_splits

    opened = _open_for_evaluation(options, ("iterations", "examples", "until_settled"))
    run, settings, other_data = opened.run, opened.settings, opened.other_data
    if settings.model.architecture != "looped":
        _refuse_of_one_pass(run.path, options, ("iterations", "until_settled"))
    out = _place_for(run.evaluation, options.out, other_data)
    config = evaluation_of(settings)
    stored = {} if other_data else run.curves()
    splits = evaluation_splits(settings)
    kept = _fuller_evaluation(stored, config, splits) if out == run.evaluation else None
    _keep_or_check(out, kept)
    with iteration_progress(console, "evaluate", iterations_to_run(splits, config)) as on_iteration:
        curves = evaluate(opened.model, settings.data, config, on_iteration, splits)
    show(curves_table(str(run.path), curves, settings.training.max_iterations))
    for name, curve in curves.items():
        if curve.steps is not None:
            say(f"{name}: {_settling(curve, stored.get(name))}")
    if kept is None:
        write_json(out, {"settings": settings.to_dict(), "splits": to_json(curves)})
        say(f"written: {out}")
    return 0


def _refuse_of_one_pass(run: Path, options: Namespace, iterated: Sequence[str]) -> None:
    """Refuse options that a model of one pass has no use for.

    Args:
        run: its folder.
        options: as they were given.
        iterated: the names of those options.

    Raises:
        LoopscopeError: one of them was given.
    """
    for name in iterated:
        if options[name]:
            raise LoopscopeError(
                f"--{name.replace('_', '-')} was given for {run}, whose model has one pass and does not iterate: leave it out"
            )


def _fuller_evaluation(stored: Mapping[str, Any], config: EvaluationConfig, splits: Mapping[str, Split]) -> str | None:
    """Return what ``_fuller`` does of the curves of a stored evaluation; one of every iteration has more than others."""
    if config.until_settled and any(curve.get("steps") is None for curve in stored.values()):
        return "an evaluation of every iteration"
    extents = {name: (curve["examples"], len(curve["answer_accuracy"])) for name, curve in stored.items()}
    return _fuller(extents, config, splits, "an evaluation")


def _fuller(
    stored: Mapping[str, tuple[int, int]], config: EvaluationConfig, splits: Mapping[str, Split], what: str
) -> str | None:
    """Return what is stored of a split that another measurement would see less of, in words, or None where that is nothing.

    Args:
        stored: the examples and the iterations that are stored, by split.
        config: of the other one.
        splits: what the other one is of.
        what: what is stored, such as "an evaluation".
    """
    for name, (examples, iterations) in stored.items():
        if name in splits and (config.iterations < iterations or min(config.examples, len(splits[name])) < examples):
            return f"{what} of {examples} examples of {name} over {iterations} iterations"
    return None


def _keep_or_check(place: Path, kept: str | None) -> None:
    """Before it is measured, say what will not be written, or refuse a place for it where it cannot be.

    Raises:
        LoopscopeError: see ``check_place``.
    """
    from loopscope.files import check_place

    if kept is None:
        check_place(place)
        return
    say(f"not written: {place} holds {kept}, which is kept; --out FILE writes this one, or remove that one first")


@dataclass(frozen=True)
class _Opened:
    """A run to measure on its own data or on others.

    Args:
        run: its folder.
        settings: its settings, those given on the command line in their places.
        model: its model.
        other_data: whether the data are not the run's own.
    """

    run: RunFolder
    settings: RunSettings
    model: LoopedTransformer | FixedDepthTransformer
    other_data: bool


def _open_for_evaluation(options: Namespace, chosen: Sequence[str]) -> _Opened:
    """Return the run that the options name, with what they change of its evaluation and its data.

    Args:
        options: of a command whose parser has ``_add_evaluation_options``.
        chosen: the options that are settings of an evaluation.

    Raises:
        LoopscopeError: there is no such run, or no such data.
    """
    from loopscope.subjects import trained_for_evaluation, with_data
    from loopscope.training.run_folder import RunFolder

    run = RunFolder(Path(options.run))
    settings, model = trained_for_evaluation(run)
    given = {name: options[name] for name in chosen if options[name] is not None}
    settings = replace(settings, evaluation=replace(settings.evaluation, **given))
    other_data = {name: value for name, value in vars(options.data).items() if value is not None}
    return _Opened(run, with_data(settings, other_data), model, bool(other_data))


def _place_for(own: Path, out: str | None, other: bool) -> Path:
    """Return the file to write to what was measured on a run's own data or on others.

    Args:
        own: where it belongs of the run's own data.
        out: the file that was asked for.
        other: whether the data are others.

    Raises:
        LoopscopeError: others are given without a file for them; or see ``_asked_place``.
    """
    if out is not None:
        return _asked_place(out, [".json"])
    if other:
        raise LoopscopeError(
            f"the data are not the run's own, whose {own.stem} is {own}: name another file by --out FILE"
        )
    return own


def _asked_place(out: str, endings: Iterable[str] | None = None) -> Path:
    """Return the file that was asked for by --out.

    Args:
        out: its name.
        endings: those that it may have; None for any.

    Raises:
        LoopscopeError: it has another one, is part of a run, or there is no place for it.
    """
    from loopscope.files import check_place

    place = Path(out)
    check_place(place)
    if _is_of_a_run(place):
        raise LoopscopeError(f"--out {out} is where a part of a run belongs: name another file")
    if endings is not None:
        check_choice("the ending of --out", place.suffix, endings)
    return place


def _is_of_a_run(place: Path) -> bool:
    """Return whether a file is, or lies within, one of those that make a run's folder."""
    from loopscope.training.run_folder import RunFolder

    parts = [name for name, member in vars(RunFolder).items() if isinstance(member, property)]
    place = place.resolve()
    runs = [run for folder in place.parents if (run := RunFolder(folder)).config.is_file()]
    return any(place.is_relative_to(getattr(run, part)) for run in runs for part in parts)


def _settling(curve: AccuracyCurve, stored: dict[str, Any] | None) -> str:
    """Return what running examples until they had settled saved, and the accuracy beside that of a full evaluation."""
    assert curve.steps is not None
    computed, full = curve.steps.computed, curve.steps.full
    words = f"{100 * (1 - computed / full):.1f}% of the steps saved, {computed:,} computed instead of {full:,}"
    if stored is None or stored.get("steps") is not None:
        return words
    if (stored["examples"], len(stored["answer_accuracy"])) != (curve.examples, len(curve.answer_accuracy)):
        return words
    difference = 100 * (curve.last - stored["last"])
    return f"{words}; accuracy at the last iteration {difference:+.2f} points from that of every iteration"


def trust_command(options: Namespace) -> int:
    """Measure what tells a run's right answers from its wrong ones, on its own data or on others of its task."""
    from loopscope.answers.trust import extents, measure
    from loopscope.evaluation import iterations_to_run
    from loopscope.files import write_bytes, write_text
    from loopscope.reports.kit.charts import png
    from loopscope.reports.kit.sheet import in_terminal
    from loopscope.reports.terminal import iteration_progress
    from loopscope.reports.trust import risk_figure, trust_sheets
    from loopscope.subjects import evaluation_splits

    opened = _open_for_evaluation(options, ("iterations", "examples"))
    run, settings = opened.run, opened.settings
    if settings.model.architecture != "looped":
        raise LoopscopeError(f"{run.path} is of a {settings.model.architecture} model, which has no iterations")
    out = _place_for(run.trust, options.out, opened.other_data)
    splits, config = evaluation_splits(settings), settings.evaluation
    kept = _fuller(extents(run.trust), config, splits, "a measurement") if out == run.trust else None
    _keep_or_check(out, kept)
    with iteration_progress(console, "trust", iterations_to_run(splits, config)) as on_iteration:
        measured = measure(opened.model, settings.data, config, on_iteration, splits)
    values = {"settings": settings.to_dict(), "splits": {name: split.to_json() for name, split in measured.items()}}
    for sheet in trust_sheets(str(run.path), config.iterations, values["splits"]):
        show(in_terminal(sheet))
    if kept is None:
        write_text(out, json.dumps(values, allow_nan=False) + "\n")
        write_bytes(out.with_suffix(".png"), png(risk_figure(values["splits"])))
        say(f"written: {out} and {out.with_suffix('.png')}")
    return 0


def _subject_of(options: Namespace) -> Subject:
    """Return what there is to examine: a run folder, or what module:function returns."""
    from loopscope.subjects import from_function, from_run

    name = options.subject
    subject = from_function(name) if ":" in name and not Path(name).exists() else from_run(Path(name))
    given = options.trained_iterations
    return subject if given is None else replace(subject, trained_iterations=given)


def examine_command(options: Namespace) -> int:
    """Examine a run, or any loop that an importable function returns."""
    from loopscope.files import check_place
    from loopscope.reports import write_comparison
    from loopscope.reports.terminal import part_progress
    from loopscope.stability import Examination
    from loopscope.stability.examination import WRITERS
    from loopscope.subjects import examine_subject
    from loopscope.training.run_folder import RunFolder

    config = options.examination
    run = RunFolder(Path(options.subject))
    page = _asked_place(options.out, [".html"] if options.compare else WRITERS) if options.out else None
    other = Examination.load(RunFolder(Path(options.compare)).examination) if options.compare else None
    subject = _subject_of(options)
    is_run = run.config.is_file()
    kept = _fuller_examination(run, subject, config)
    if is_run:
        _keep_or_check(run.examination, kept)
    if page is None and (other is not None or (is_run and kept is None)):
        page = run.path / "report.html" if is_run else Path("comparison.html")
        check_place(page)
    with part_progress(console, f"examine {options.subject}") as on_part:
        examination = examine_subject(subject, config, on_part)
    print(examination)
    if is_run and kept is None:
        examination.save(run.examination)
    if page is None:
        return 0
    if other is None:
        examination.save(page)
        say(f"written: {page}")
    else:
        write_comparison(page, dict(zip(_titles(options.subject, options.compare), (examination, other), strict=True)))
        say(f"side by side: {page}")
    return 0


def _titles(subject: str, compared: str) -> tuple[str, str]:
    """Return what an examination is called beside a stored one, which may be an earlier one of the same run."""
    if Path(subject).resolve() == Path(compared).resolve():
        return f"{subject}, now", f"{compared}, as stored"
    return subject, compared


def _fuller_examination(run: RunFolder, subject: Subject, config: ExaminationConfig) -> str | None:
    """Return what examination of a run is stored that one by another config would have less of, in words, or None."""
    from loopscope.stability import Examination
    from loopscope.trees import batch_size

    try:
        stored = Examination.load(run.examination).settings if run.examination.is_file() else None
    except LoopscopeError:
        return None  # damaged, or of an earlier version: it is made again
    if stored is None or not config.sees_less(stored, batch_size(subject.inputs)):
        return None
    return "an examination of effort {effort}, {inputs} inputs and at most {iterations} iterations".format_map(stored)


def forecast_command(options: Namespace) -> int:
    """Say whether a run, or any loop that an importable function returns, will keep its answers."""
    from loopscope.errors import check_positive
    from loopscope.forecasts.forecast import forecast
    from loopscope.reports.forecast import forecast_sheet
    from loopscope.reports.kit.sheet import in_terminal
    from loopscope.subjects import first_examples

    check_positive(examples=options.examples)
    subject = first_examples(_subject_of(options), options.examples)
    said = forecast(
        subject.loop, subject.inputs, subject.targets, subject.trained_iterations, options.seed, subject.answers
    )
    show(in_terminal(forecast_sheet(options.subject, said)))
    print(f"{options.subject} {said}")
    return 0


@contextmanager
def _machines(address: str | None, plan: StudyPlan, folder: StudyFolder) -> Iterator[Machines | None]:
    """Yield the machines of a Ray cluster, or None where no address is given."""
    if address is None:
        yield None
        return
    from loopscope.studies.cluster import join_cluster

    with join_cluster(address, folder.path, max(run.settings.training.threads for run in plan.runs)) as cluster:
        yield cluster


def study_command(options: Namespace) -> int:
    """Train, evaluate and examine a grid of runs, and write one report."""
    from loopscope.reports.study.page import write_report
    from loopscope.reports.terminal import StudyDisplay, records_table
    from loopscope.studies import StudyFolder, read_plan, run_study

    plan = read_plan(Path(options.config))
    folder = StudyFolder(Path(options.out or Path("studies") / plan.name))
    limit = None if options.time_limit is None else seconds(options.time_limit)
    with _machines(options.ray, plan, folder) as machines, StudyDisplay(console, plan) as display:
        outcome = run_study(plan, folder, options.workers, limit, options.retry_failed, display.show, machines)
    if outcome.records:
        show(records_table(plan, outcome.records))
        write_report(plan, folder, outcome.records)
        say(f"report: {folder.report}")
    if outcome.unfinished:
        return _goes_on(outcome)
    return 1 if any(record.status == "failed" for record in outcome.records.values()) else 0


def _goes_on(outcome: StudyOutcome) -> int:
    """Say that a study was stopped early; return the exit status."""
    stopped = outcome.stopped or "a signal to its runs"
    say(f"stopped by {stopped}, {len(outcome.unfinished)} runs left: the same command goes on")
    return RESUMABLE


def collect_command(options: Namespace) -> int:
    """Write a study's runs as compact rows of a file that can be committed."""
    from loopscope.studies import StudyFolder
    from loopscope.studies.population import collect

    folder = StudyFolder(Path(options.folder))
    records = folder.ledger.records()
    if not records:
        raise LoopscopeError(f"{folder.ledger.path} holds no run that ended: give the folder of a study")
    members = collect(folder.path.resolve().name, records.values(), Path(options.into))
    say(f"{len(records)} runs collected; {options.into} holds {len(members)}")
    return 0


def analyse_command(options: Namespace) -> int:
    """Say from a population's rows alone whether the framework predicts."""
    from dataclasses import asdict

    from loopscope.files import write_json
    from loopscope.reports.kit.sheet import in_terminal
    from loopscope.reports.prediction import analysis_tables, headline
    from loopscope.reports.prediction_page import write_analysis
    from loopscope.stability.examination import plain
    from loopscope.studies.population import read_population
    from loopscope.studies.prediction import analyse

    folder = Path(options.folder)
    members = read_population(folder / POPULATION)
    analysis = analyse(members)
    for sheet in analysis_tables(analysis):
        show(in_terminal(sheet))
    print(headline(analysis))
    write_json(folder / "analysis.json", plain(asdict(analysis)))
    written = [folder / "analysis.json", *write_analysis(folder, analysis, members)]
    say(f"written: {', '.join(map(str, written))}")
    return 0


def retrain_command(options: Namespace) -> int:
    """Train some models of a population again, and compare them with what the population says of them."""
    from loopscope.files import write_json
    from loopscope.reports.kit.sheet import in_terminal
    from loopscope.reports.retrained import retrained_sheets, summary
    from loopscope.reports.terminal import StudyDisplay
    from loopscope.studies import StudyFolder, run_study
    from loopscope.studies.population import read_population
    from loopscope.studies.retrain import claim, compare_all, pick, retraining_plan

    if not 0 <= options.tolerance < math.inf:
        raise LoopscopeError(f"--tolerance is {options.tolerance:g}, expected points of accuracy, 0 or more")
    ledger, folder = Path(options.folder) / POPULATION, StudyFolder(Path(options.out))
    picked = pick(read_population(ledger), options.runs, options.seed)
    plan = retraining_plan(picked, ledger)
    claim(folder.path, plan)
    with StudyDisplay(console, plan) as display:
        outcome = run_study(plan, folder, options.workers, retry_failed=options.retry_failed, show=display.show)
    retraining = compare_all(picked, outcome.records, ledger, options.tolerance)
    for sheet in retrained_sheets(retraining):
        show(in_terminal(sheet))
    print(summary(retraining))
    out = folder.path / "retrained.json"
    write_json(out, retraining.to_dict())
    say(f"written: {out}")
    if outcome.unfinished:
        return _goes_on(outcome)
    return 0 if retraining.within == len(retraining.runs) else 1


def advise_command(options: Namespace) -> int:
    """Say which models of a population kept their answers, and how many say so."""
    from loopscope.reports.kit.sheet import in_terminal
    from loopscope.reports.prediction import guidance_table
    from loopscope.studies.guidance import guidance
    from loopscope.studies.population import read_population

    for found in guidance(read_population(Path(options.folder) / POPULATION)):
        show(in_terminal(guidance_table(found)))
        print(found.sentence)
    return 0


def solve_command(options: Namespace) -> int:
    """Answer problems with a trained model."""
    from loopscope.answers.answerer import answer_all, answer_of, frames, open_answerer
    from loopscope.errors import check_positive
    from loopscope.reports.answers import answer_lines, show_answer, show_frames, show_last

    check_positive(tolerance=options.tolerance, max_iterations=options.max_iterations)
    limits = (options.tolerance, options.max_iterations)
    answerer = open_answerer(options.run, options.tolerance)
    if options.problem == "-":
        if options.watch:
            raise LoopscopeError("--watch shows one problem, not those of standard input: give one")
        answers = answer_all(answerer, _typed_in(answerer.words), *limits)
        for line in answer_lines(answers):
            print(line)
        return 1 if any(answer.right is False for answer in answers) else 0
    problem = answerer.words.read(options.problem)
    out = Console(highlight=False)
    show_form = show_frames if options.watch else show_last
    last = show_form(out, answerer.words, problem, frames(answerer, problem, *limits))
    answer = answer_of(answerer, problem, last, options.tolerance)
    show_answer(out, answerer, answer)
    return 1 if answer.right is False else 0


def _typed_in(words: Words) -> list[Problem]:
    """Return the problems of standard input, one per line."""
    problems = []
    for number, text in enumerate(sys.stdin, 1):
        if text.strip():
            try:
                problems.append(words.read(text))
            except LoopscopeError as error:
                raise LoopscopeError(f"line {number}: {error}") from error
    if not problems:
        raise LoopscopeError(f"standard input holds no problem: expected one per line, such as {words.example}")
    return problems


def data_command(options: Namespace) -> int:
    """Prepare a task's data, check them, and say what they hold."""
    from loopscope.reports.terminal import data_tables
    from loopscope.tasks.data.report import reporter_of

    chosen = options[options.task]
    out = None if chosen.out is None else _asked_place(chosen.out)
    report = reporter_of(options.task)(chosen.data, chosen.verify, out)
    for table in data_tables(report):
        show(table)
    if out is not None:
        say(f"written: {out}")
    if not report.sound:
        say("these data are not sound: see the last table")
    return 0 if report.sound else 1


def _new_parser(description: str) -> ArgumentParser:
    """Return a parser without arguments, whose mistakes are raised and whose options are not abbreviated."""
    return ArgumentParser(exit_on_error=False, allow_abbrev=False, description=description)


def _train_parser() -> ArgumentParser:
    from loopscope.tasks import TASKS
    from loopscope.training.settings import add_sections

    parser = _new_parser(
        "Train one model on one task; the run goes into a folder and can be resumed.",
    )
    subcommands = parser.add_subcommands(dest="task", title="tasks")
    for name, task in TASKS.items():
        description = (task.__doc__ or "").strip().splitlines()[0]
        sub = _new_parser(description)
        sub.add_argument(
            "--config",
            type=str | None,
            help="YAML file with the sections data, model, training, evaluation, such as a run's config.yaml; options "
            "given here win over it.",
        )
        sub.add_argument("--out", required=True, help="Folder for the run.")
        sub.add_argument(
            "--resume",
            action="store_true",
            help="Go on from the run's newest checkpoint; where there is no run yet, one begins.",
        )
        add_sections(sub, name)
        subcommands.add_subcommand(name, sub, help=description)
    return parser


def _data_parser() -> ArgumentParser:
    from loopscope.tasks import TASKS
    from loopscope.tasks.data.report import REPORTERS

    parser = _new_parser(
        "Find, download or make a task's data, check every problem, and say what the data hold.",
    )
    subcommands = parser.add_subcommands(dest="task", title="tasks")
    for name, task in TASKS.items():
        description = (
            f"The data of the task {name}{'' if name in REPORTERS else ': made as needed, nothing to prepare'}."
        )
        sub = _new_parser(description)
        sub.add_argument("--verify", action="store_true", help="Prove every answer anew, trusting no file's columns.")
        sub.add_argument("--out", type=str | None, help="File to write the whole data set to.")
        sub.add_class_arguments(task, "data")
        subcommands.add_subcommand(name, sub, help=description)
    return parser


def _solve_parser() -> ArgumentParser:
    parser = _new_parser(
        "Answer problems with a trained model: a sudoku of 81 characters, the FEN of a chess position, a string "
        "of bits. An answer that the rules refute is called wrong, and the command then fails. The side to move of a FEN is "
        "the one to find a move for; Lichess's files of puzzles give the position one move earlier.",
    )
    parser.add_argument(
        "run",
        help="Folder of a trained run; or prefix-sums, sudoku or chess for the model that ships with the package.",
    )
    parser.add_argument("problem", help="The problem, quoted; or - to read one per line and write one answer per line.")
    parser.add_argument("--watch", action="store_true", help="Show the answer change, iteration by iteration.")
    parser.add_argument("--max-iterations", type=int, default=500, help="Most iterations for a problem.")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="Relative residual at which a state has settled.")
    return parser


def _add_evaluation_options(parser: ArgumentParser, own: str) -> None:
    """Add what the commands take that measure a run on splits; ``own`` is the file that they write."""
    from loopscope.tasks import TASKS

    parser.add_argument("run", help="Folder of a trained run.")
    parser.add_argument(
        "--iterations", type=int | None, help="Iterations to run; those of the run's config if left out."
    )
    parser.add_argument("--examples", type=int | None, help="Most examples of a split; the config's if left out.")
    parser.add_argument(
        "--out", type=str | None, help=f"File to write; {own} in the run's folder if left out. Needed with --data."
    )
    options = {name: [field.name for field in fields(task)] for name, task in TASKS.items()}
    for option in dict.fromkeys(option for known in options.values() for option in known):
        names = [name for name, known in options.items() if option in known]
        parser.add_argument(
            f"--data.{option}",
            type=str,
            default=None,
            help=f"Instead of the run's own, for {', '.join(names)}: see loopscope train TASK --help.",
        )


def _evaluate_parser() -> ArgumentParser:
    parser = _new_parser(
        "Measure a run's accuracy after every iteration, on each split of its task. With --data options it is "
        "measured on other data than the run's own; whether the model was trained on some of these is not checked. An "
        "evaluation of more iterations or examples that is there already is not overwritten.",
    )
    _add_evaluation_options(parser, "evaluation.json")
    parser.add_argument(
        "--until-settled",
        action=ActionYesNo(no_prefix="no-"),
        default=None,
        help="Run each example only until its state and prediction have settled; the config's choice if left out. An "
        "evaluation of every iteration that is there already is not overwritten.",
    )
    return parser


def _trust_parser() -> ArgumentParser:
    parser = _new_parser(
        "Measure what tells a run's right answers from its wrong ones, example by example: whether the state "
        "arrived, its residual, its contraction, the estimated error, the softmax confidence. With --data options it is "
        "measured on other data than the run's own. loopscope solve then says how often answers like the one it gives "
        "were right. A measurement of more iterations or examples that is there already is not overwritten.",
    )
    _add_evaluation_options(parser, "trust.json")
    return parser


def _add_subject(parser: ArgumentParser) -> None:
    """Add what names a run, or any loop."""
    parser.add_argument(
        "subject",
        help="Folder of a trained run, or package.module:function of a function that returns (loop, inputs), "
        "(loop, inputs, targets) or (loop, inputs, targets, trained iterations).",
    )
    parser.add_argument(
        "--trained-iterations", type=int | None, help="Most iterations in training, where a run does not say."
    )


def _forecast_parser() -> ArgumentParser:
    parser = _new_parser(
        "Say from 30 iterations whether a looped model will keep its answers to 480: each orbit leaps ahead by "
        "what its last changes have in common. It takes seconds; loopscope evaluate runs every iteration.",
    )
    _add_subject(parser)
    parser.add_argument("--examples", type=int, default=64, help="How many easy inputs to look at, at most.")
    parser.add_argument("--seed", type=int, default=0, help="Of a random first state.")
    return parser


def _examine_parser() -> ArgumentParser:
    from loopscope.stability import ExaminationConfig

    parser = _new_parser(
        "Measure the three axes of stability of a looped model, and say whether it will keep its answers over "
        "many more iterations than it was trained with. A run's examination of more effort, inputs or iterations that is "
        "there already is not overwritten.",
    )
    _add_subject(parser)
    parser.add_argument(
        "--out", type=str | None, help="File to write, .html or .json; report.html in the run's folder if left out."
    )
    parser.add_argument("--compare", type=str | None, help="Folder of an examined run to put beside this one.")
    parser.add_class_arguments(ExaminationConfig, "examination", as_group=True)
    return parser


def _study_parser() -> ArgumentParser:
    parser = _new_parser(
        "Train, evaluate and examine every run of a study's grid, then write one report. A study that was "
        "stopped, or killed, goes on where it was when the same command is given again. After Ctrl-C its runs "
        "save where they are; after a second one it ends at once, and what was being examined is examined again later.",
    )
    parser.add_argument("config", help="The study's YAML file, such as configs/quick.yaml.")
    parser.add_argument("--out", type=str | None, help="Folder for the study; studies/NAME if left out.")
    parser.add_argument(
        "--workers",
        type=int | None,
        help="Runs at once; if left out, the study's own number, or with --ray what the cluster's CPUs allow.",
    )
    parser.add_argument(
        "--ray",
        type=str | None,
        metavar="ADDRESS",
        help="Do the runs on the machines of this Ray cluster: HOST:PORT, as `ray start --head` says it, or auto, the "
        "cluster that this machine is part of. All of them see the study's folder under the same path, on a file "
        'system that they share. Needs pip install "loopscope[cluster]".',
    )
    parser.add_argument(
        "--time-limit", type=str | None, help="Stop cleanly before this much time has passed, such as 9m or 1h30m."
    )
    parser.add_argument("--retry-failed", action="store_true", help="Do runs again that failed before.")
    return parser


def _collect_parser() -> ArgumentParser:
    parser = _new_parser(
        "Write a study's runs as compact rows of a file, in place of the rows of the same runs that it holds.",
    )
    parser.add_argument("folder", help="Folder of a study, such as studies/prediction-prefix-sums.")
    parser.add_argument(
        "--into", type=str, default="results/prediction/ledger.jsonl", help="File to write; all other rows stay."
    )
    return parser


def _population_parser(description: str) -> ArgumentParser:
    parser = _new_parser(description)
    parser.add_argument(
        "folder",
        help=f"Folder of a population, such as results/prediction: its {POPULATION} is what loopscope study collect wrote.",
    )
    return parser


def _analyse_parser() -> ArgumentParser:
    return _population_parser(
        "Compare what was forecast of a population's models with what they did, and with the forecasts of rival signals."
    )


def _retrain_parser() -> ArgumentParser:
    parser = _population_parser(
        "Train some models of a population again, picked at random, by the settings of their rows, and compare their "
        "accuracy with what the rows say, which hold no losses. A retraining that was stopped, or killed, goes on where it "
        "was when the same command is given again. With the machine, the torch and the code of the ledger they come out "
        "exactly the same; with others they may not. The exit status is 1 where any of them is further from its row than the "
        "tolerance, or has another end."
    )
    parser.add_argument("--runs", type=int, default=10, help="How many models to train again.")
    parser.add_argument("--seed", type=int, default=0, help="Decides which: the same of the same ledger.")
    parser.add_argument("--out", required=True, help="Folder for the runs and retrained.json.")
    parser.add_argument("--workers", type=int, default=1, help="Models that are trained at once.")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=5.0,
        help="Points of accuracy: models that are nowhere further from the ledger are counted in the last line.",
    )
    parser.add_argument("--retry-failed", action="store_true", help="Train models again whose training failed here.")
    return parser


def _advise_parser() -> ArgumentParser:
    return _population_parser(
        "Say which recall, normalization and learning rate kept their answers in a population, with the counts behind it."
    )


COMMANDS: dict[str, tuple[Callable[[], ArgumentParser], Callable[[Namespace], int], str]] = {
    "data": (_data_parser, data_command, "Find, check and describe a task's data."),
    "train": (_train_parser, train_command, "Train one model on one task."),
    "solve": (_solve_parser, solve_command, "Answer a problem that you type in."),
    "evaluate": (_evaluate_parser, evaluate_command, "Measure accuracy against the number of iterations."),
    "trust": (_trust_parser, trust_command, "Measure what tells right answers from wrong ones."),
    "forecast": (
        _forecast_parser,
        forecast_command,
        "Say in seconds whether a loop will keep its answers to 480 iterations.",
    ),
    "examine": (_examine_parser, examine_command, "Measure stability and give a verdict, for a run or any loop."),
    "study": (_study_parser, study_command, "Train, evaluate and examine a grid of runs, with one report."),
    "study collect": (_collect_parser, collect_command, "Gather a study's runs into a file that can be committed."),
    "study analyse": (
        _analyse_parser,
        analyse_command,
        "Compare forecasts of a population of models with what they did.",
    ),
    "study retrain": (
        _retrain_parser,
        retrain_command,
        "Train some models of a population again, and compare.",
    ),
    "advise": (_advise_parser, advise_command, "Say what kept its answers in a population of models."),
}


def _help() -> str:
    lines = [f"  {name:14} {text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: loopscope COMMAND ...",
            "",
            "Build, train and examine looped transformers.",
            "",
            "commands:",
            *lines,
            "",
            "loopscope COMMAND --help shows the options of a command, with their defaults.",
        ]
    )


def _option_names(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Return the options that the parser, or the subcommand that the arguments name, would take."""
    names = [name for action in parser._actions for name in action.option_strings]
    for action in parser._actions:
        choices: Any = action.choices
        if isinstance(choices, dict):
            names += [name for key in choices if key in arguments for name in _option_names(choices[key], arguments)]
    return names


def _with_config(parsed: Namespace, arguments: Sequence[str]) -> list[str]:
    """Return the arguments of ``train`` with the settings of its config file put before those given by hand."""
    from loopscope.files import read_yaml_mapping
    from loopscope.training.settings import check_keys, dotted

    source = Path(parsed[parsed.task].config)
    values = {key: value for key, value in read_yaml_mapping(source).items() if value is not None}
    if (task := values.pop("task", parsed.task)) != parsed.task:
        raise LoopscopeError(f"{source} is of the task {task}, but {parsed.task} was asked for")
    settings = dotted(values)
    try:
        check_keys(parsed.task, settings)
    except LoopscopeError as error:
        raise LoopscopeError(f"{source}: {error}") from error
    given = [
        f"--{key}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for key, value in settings.items()
    ]
    place = list(arguments).index(parsed.task) + 1
    return [*arguments[:place], *given, *arguments[place:]]


def _parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse and build; a mistake becomes one line that names the nearest valid option."""
    try:
        parsed = parser.parse_args(list(arguments))
        if "task" in parsed and parsed[parsed.task].get("config") is not None:
            parsed = parser.parse_args(_with_config(parsed, arguments))
        return parser.instantiate(parsed)
    except ArgumentError as error:
        message = tidy(str(error))
        unknown = [part for part in message.split() if part.startswith("--")] if "nrecognized" in message else []
        if unknown:
            name = unknown[0].split("=")[0]
            message = f"unknown option {name}{nearest(name, _option_names(parser, arguments))}"
        raise LoopscopeError(message) from error


def _check_paths(arguments: Sequence[str]) -> None:
    """Refuse an option that names a file or folder and is given an empty text, as by a variable that is not set.

    Raises:
        LoopscopeError: naming the option.
    """
    for option in ("--out", "--into", "--config", "--compare"):
        if f"{option}=" in arguments or (option, "") in pairwise(arguments):
            raise LoopscopeError(f"{option} is empty: give it a name, or leave the option out")


def _check_task(name: str, parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Refuse what stands where a command expects a task: another word, or an option before the task.

    Raises:
        LoopscopeError: naming the nearest task, or the order.
    """
    tasks = next((list(action.choices) for action in parser._actions if isinstance(action.choices, dict)), None)
    given = arguments[0] if arguments else ""
    if not tasks or not given or given in parser._option_string_actions:
        return
    if given.startswith("-"):
        task = next((word for word in arguments if word in tasks), "TASK")
        raise LoopscopeError(f"{given} stands before the task, which comes first: loopscope {name} {task} {given} ...")
    check_choice("task", given, tasks)


def _check_second_word(name: str, arguments: Sequence[str]) -> None:
    """Refuse what is neither a file nor the second word of a command but nearly that, such as study colect.

    Raises:
        LoopscopeError: naming that command.
    """
    given = arguments[0] if arguments else ""
    second = [command.removeprefix(f"{name} ") for command in COMMANDS if command.startswith(f"{name} ")]
    if given.isalpha() and not Path(given).exists() and (close := nearest(given, second)):
        raise LoopscopeError(f"{given!r} is no file and no command of loopscope {name}{close}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0 done, 1 failed, 2 bad input, 75 stopped and resumable, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    try:
        words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
        name = " ".join(arguments[:words])
        if name not in COMMANDS:
            raise LoopscopeError(f"unknown command {name!r}{nearest(name, COMMANDS)}; see loopscope --help")
        make_parser, command, _ = COMMANDS[name]
        parser = make_parser()
        parser.prog = f"loopscope {name}"
        _check_paths(arguments[words:])
        _check_task(name, parser, arguments[words:])
        _check_second_word(name, arguments[words:])
        return command(_parse(parser, arguments[words:]))
    except LoopscopeError as error:
        print(f"loopscope: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("loopscope: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (as under `| head`); nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def entry() -> int:
    """Do what ``main`` does for the shell, where a crash must not have the status of a command that failed."""
    try:
        return main()
    except Exception:
        traceback.print_exc()
        print(
            "loopscope: an unforeseen error: unless it lies in code of your own, please report the lines above",
            file=sys.stderr,
        )
        return CRASHED


if __name__ == "__main__":
    sys.exit(entry())
