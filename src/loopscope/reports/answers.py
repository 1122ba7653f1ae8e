"""Output of ``loopscope solve``: one answer with its evidence, many answers as lines, or an answer as it forms."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from loopscope.answers.answerer import Answer, Answerer
from loopscope.evaluation import SETTLED
from loopscope.tasks.text import Candidates, Frame, Problem, TextFormat, legend

PRINTED = (1, 2, 4, 8, 16, 30, 60, 120, 250, 500)
"""Iterations that are printed if the output is not a terminal."""
PAUSE = 0.04
"""Smallest number of seconds for which an iteration is shown."""
LEAST_CERTAIN = 3
"""Parts of an answer that are listed with their candidates."""
MIN_PERCENT = 0.5
"""Smallest probability, in percent, of a candidate that is listed."""
MOST_CANDIDATES = 4
JUDGED = {True: "solved", False: "wrong", None: "answered"}


def answer_lines(answers: Sequence[Answer]) -> Iterator[str]:
    """Yield one tab-separated line per answer.

    Its fields: the answer, solved or wrong, settled or not, iterations, residual, chance, and the iteration at which the
    answer last changed. The chance is the accuracy of similar answers in validation. It is empty if the rules decide or if
    it is unknown.
    """
    for answer in answers:
        settled = "settled" if answer.settled else "not settled"
        chance = "" if answer.alike is None else f"{100 * answer.alike.probability:.0f}%"
        judged, iterations, residual = JUDGED[answer.right], str(answer.iterations), f"{answer.residual:.1e}"
        yield "\t".join([answer.line, judged, settled, iterations, residual, chance, str(answer.since)])


def verdict_on(answer: Answer) -> str:
    """Return a sentence on whether the rules confirm an answer."""
    if answer.right is None:
        return "Answered; the rules alone cannot tell whether it is right."
    return "Solved, and confirmed by the rules." if answer.right else "Wrong: the rules refute this answer."


def arrival_of(answer: Answer) -> str:
    """Return a sentence on whether and when the state settled, and since when the answer has stood."""
    after = f"after {answer.iterations} iterations"
    if not math.isfinite(answer.residual):
        return f"Its state was no longer finite {after}."
    if answer.settled:
        return f"It settled {after} (residual {answer.residual:.1e}); {_standing(answer)}."
    link = "and" if answer.since == answer.iterations else "but"
    return f"It had not settled {after} (residual {answer.residual:.1e}), {link} {_standing(answer)}."


def _standing(answer: Answer) -> str:
    """Return a clause on since when the answer has not changed."""
    if answer.since == answer.iterations:
        return "the answer changed in the last one"
    if answer.since == 0:
        return "the answer never changed"
    return f"the answer has not changed since iteration {answer.since}"


def track_record(answerer: Answerer, answer: Answer) -> str | None:
    """Return a sentence on how often similar answers were right in validation, or None if the rules decide."""
    if answer.right is not None:
        return None
    if answerer.tolerance != SETTLED:
        return f"How often answers that settle at a tolerance of {answerer.tolerance:g} are right was not measured."
    if answerer.evidence is None:
        return f"How often such answers are right was not measured: loopscope trust {answerer.path} does."
    if not answer.settled and answer.iterations < answerer.iterations:
        return (
            f"In validation every answer had {answerer.iterations} iterations to settle, so nothing is known of one that was "
            "stopped earlier."
        )
    ended = "settled" if answer.settled else "had not settled"
    if answer.alike is None:
        return f"Too few answers {ended} in validation to say how often such answers are right."
    low, high = answer.alike.interval
    return (
        f"Answers like this one, which {ended} at a confidence near {confidence(answer.unsure)}, were right "
        f"{answer.alike.right:,} of {answer.alike.examples:,} times in validation: a chance of about "
        f"{100 * answer.alike.probability:.0f}% ({100 * low:.0f} to {100 * high:.0f}%)."
    )


def confidence(unsure: float) -> str:
    """Return the softmax confidence of an answer in percent, given one minus the confidence."""
    return "over 99.99%" if unsure < 1e-4 else f"{100 * (1 - unsure):.2f}%"


def show_answer(console: Console, answerer: Answerer, answer: Answer) -> None:
    """Print one answer, whether the rules confirm it, and how far to trust it."""
    console.print(answer.line, soft_wrap=True)
    for sentence in (verdict_on(answer), arrival_of(answer), track_record(answerer, answer)):
        if sentence is not None:
            console.print(sentence, markup=False)


def _chance(share: float) -> str:
    """Return a probability in percent. Only what is certain in double precision is 0 or 100%."""
    percent = 100 * share
    if MIN_PERCENT <= percent <= 100 - MIN_PERCENT:
        return f"{percent:.0f}%"
    return "under 1%" if percent < MIN_PERCENT else "over 99%"


def candidates_lines(least_certain: Sequence[Candidates]) -> list[str]:
    """Return a line for each part: its name and its candidates with their probabilities."""
    lines = []
    for part in least_certain:
        first, *others = part.shares[:MOST_CANDIDATES]
        listed = [first, *(other for other in others if 100 * other[1] >= MIN_PERCENT)]
        lines.append(f"{part.place}: {', '.join(f'{name} {_chance(share)}' for name, share in listed)}")
    return lines


def _view(words: TextFormat, problem: Problem, frame: Frame) -> Group:
    head = Text(f"iteration {frame.iteration}, residual {frame.residual:.1e}, confidence ", style="bold")
    head.append(confidence(frame.unsure))
    picture = words.picture(problem, frame)
    lines = candidates_lines(words.candidates(problem, frame.logits, LEAST_CERTAIN))
    return Group(head, picture, legend([picture]), "least certain:", *(Text(f"  {line}") for line in lines))


def show_last(console: Console, words: TextFormat, problem: Problem, frames: Iterator[Frame]) -> Frame:
    """Show the final answer, coloured by when its parts settled, and return its frame."""
    *_, last = frames
    console.print(_view(words, problem, last))
    return last


def show_frames(console: Console, words: TextFormat, problem: Problem, frames: Iterator[Frame]) -> Frame:
    """Show an answer as it forms, and return its last frame. Outside a terminal, only some iterations are shown."""
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
