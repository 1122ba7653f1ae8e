"""What ``loopscope solve`` shows: one answer with its evidence, many answers as lines, an answer as it forms."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from loopscope.answers.answerer import Answer, Answerer, Frame
from loopscope.answers.trust import Counted, alike
from loopscope.evaluation import SETTLED
from loopscope.tasks.text import Problem, TextFormat, legend

PRINTED = (1, 2, 4, 8, 16, 30, 60, 120, 250, 500)
"""The iterations that are printed where the output is no terminal."""
PAUSE = 0.04
"""Seconds that an iteration is shown at least."""
JUDGED = {True: "solved", False: "wrong", None: "answered"}


def answer_lines(answers: Sequence[Answer]) -> Iterator[str]:
    """Return one line per answer, with tabs: answer, solved or wrong, settled or not, iterations, residual."""
    for answer in answers:
        settled = "settled" if answer.settled else "not settled"
        yield "\t".join([answer.line, JUDGED[answer.right], settled, str(answer.iterations), f"{answer.residual:.1e}"])


def verdict_on(answer: Answer) -> str:
    """Return what the rules say of an answer, in a sentence."""
    if answer.right is None:
        return "Answered; the rules alone cannot tell whether it is right."
    return "Solved, and confirmed by the rules." if answer.right else "Wrong: the rules refute this answer."


def arrival_of(answer: Answer) -> str:
    """Return whether, and when, the state settled, in a sentence."""
    if answer.settled:
        return f"It settled after {answer.iterations} iterations (residual {answer.residual:.1e})."
    return f"It had not settled after {answer.iterations} iterations (residual {answer.residual:.1e})."


def _how(settled: bool) -> str:
    return "that settled" if settled else "that did not settle"


def track_record(answerer: Answerer, answer: Answer) -> str:
    """Return how often such answers were right in validation, in a sentence."""
    if not answer.settled and answer.iterations < answerer.iterations:
        return (
            f"In validation answers had {answerer.iterations} iterations to settle: what was counted there says nothing "
            "of one that was cut off."
        )
    if answerer.tolerance != SETTLED:
        return (
            f"How often answers that settle at a tolerance of {answerer.tolerance:g} are right was not measured: validation "
            f"counts at {SETTLED:g}."
        )
    if answerer.evidence is not None:
        return _record_of_alike(answer, *alike(answerer.evidence, answer.settled, answer.unsure))
    record = answerer.record
    if record is None:
        return f"How often such answers are right was not measured: loopscope trust {answerer.path} does."
    total, right = (record.settled, record.settled_right) if answer.settled else (record.others, record.others_right)
    if not total:
        return f"In validation no answer was one {_how(answer.settled)}."
    return (
        f"In validation, {right:,} of {total:,} answers {_how(answer.settled)} were right ({100 * right / total:.1f}%)."
    )


def _record_of_alike(answer: Answer, ended: Counted, sure: Counted) -> str:
    """Return how often validation answers that ended like this one were right, and those at least as confident."""
    how, confidence = _how(answer.settled), f"confidence {confidence_of(answer)}"
    if ended.accuracy is None:
        return f"In validation no answer was one {how} ({confidence})."
    whole = f"{100 * ended.accuracy:.1f}%"
    if sure.accuracy is None:
        return (
            f"In validation no answer {how} was as confident as this one ({confidence}); of all {ended.examples:,} "
            f"{how}, {whole} were right."
        )
    return (
        f"In validation, {sure.right:,} of {sure.examples:,} answers {how} and were at least as confident as this one "
        f"({confidence}) were right ({100 * sure.accuracy:.1f}%); of all {ended.examples:,} {how}, {whole}."
    )


def confidence_of(answer: Answer) -> str:
    """Return an answer's softmax confidence in percent."""
    return "over 99.99%" if answer.unsure < 1e-4 else f"{100 * (1 - answer.unsure):.2f}%"


def show_answer(console: Console, answerer: Answerer, answer: Answer) -> None:
    """Print one answer, what the rules say of it, and how far to trust it."""
    console.print(answer.line, soft_wrap=True)
    for sentence in (verdict_on(answer), arrival_of(answer), track_record(answerer, answer)):
        console.print(sentence, soft_wrap=True, markup=False)


def _view(words: TextFormat, problem: Problem, frame: Frame) -> Group:
    head = Text(f"iteration {frame.iteration}, residual {frame.residual:.1e}", style="bold")
    return Group(head, words.picture(problem, frame.logits, frame.since), legend())


def show_last(console: Console, words: TextFormat, problem: Problem, frames: Iterator[Frame]) -> Frame:
    """Show an answer when it has formed, coloured by when its parts settled; return its last frame."""
    *_, last = frames
    console.print(_view(words, problem, last))
    return last


def show_frames(console: Console, words: TextFormat, problem: Problem, frames: Iterator[Frame]) -> Frame:
    """Show an answer as it forms: every iteration in a terminal, some of them elsewhere; return its last frame."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for frame in frames:
                live.update(_view(words, problem, frame), refresh=True)
                time.sleep(PAUSE)
        return frame
    for frame in frames:
        if frame.iteration in PRINTED:
            console.print(_view(words, problem, frame))
    if frame.iteration not in PRINTED:
        console.print(_view(words, problem, frame))
    return frame
