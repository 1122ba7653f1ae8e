"""Exhibits: what the lab shows. A loop, the problems that it can be given, and a view of its answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from loopscope import shipped
from loopscope.checks import prepare
from loopscope.contexts import eval_mode, without_autocast
from loopscope.errors import LoopscopeError
from loopscope.lab.views.tokens import TokensView, TypedView
from loopscope.lab.views.view import Question, View
from loopscope.loop import Loop
from loopscope.models import LoopedTransformer
from loopscope.stability.orbits.answers import Answers
from loopscope.stability.targets import Targets, check_targets, rule_of
from loopscope.subjects import Subject, device, imported, on_split, subject_from, trained
from loopscope.tasks.registry import TASKS, board_of, has_text_format, symbol_of, text_format
from loopscope.tasks.task import answers_of
from loopscope.training.run_folder import RunFolder
from loopscope.trees import Tree, batch_size, leaves, select

MOST_ROWS = 200
"""Problems of a user's loop that can be picked."""
UNNAMED = "your loop"


@dataclass(frozen=True)
class Exhibit:
    """A loop in the lab. ``exhibit`` makes one of a loop and its inputs.

    Args:
        name: how it is called on the page.
        loop: the loop.
        view: how its problems and answers look.
        examples: problems to pick from, as text, each with what there is to say of it.
        read: returns the question in a text; raises LoopscopeError where there is none.
        kind: exhibits of one kind take the same problems, so that they can be shown side by side.
        about: what the loop is, in a few words.
        trained_iterations: largest number of iterations in training, if known.
        answers: see `loopscope.forecast`.
        recalls: whether the loop sees its problem in every iteration; None if that is not known.
    """

    name: str
    loop: Loop
    view: View
    examples: Mapping[str, str]
    read: Callable[[str], Question]
    kind: str
    about: str = ""
    trained_iterations: int | None = None
    answers: Answers | None = None
    recalls: bool | None = None


def exhibit(
    loop: Loop,
    inputs: Tree,
    targets: Targets | None = None,
    trained_iterations: int | None = None,
    *,
    name: str = UNNAMED,
    read: Callable[[str], Tree] | None = None,
    hint: str = "text",
    word: Callable[[int], str] = str,
    columns: int | None = None,
    draw: Callable[[Tensor], str] | None = None,
    answers: Answers | None = None,
    recalls: bool | None = None,
) -> Exhibit:
    """Return any loop as an exhibit of the lab.

    Args:
        loop: the loop.
        inputs: problems to pick from, batch first.
        targets: as `loopscope.examine` takes them.
        trained_iterations: largest number of iterations in training, if known.
        name: how the loop is called on the page.
        read: returns the inputs, a batch of one, of a problem that is typed in as text. Without it, problems can only be
            picked.
        hint: what such a text looks like.
        word: how an output is written, such as a tokenizer's ``decode``.
        columns: draws the tokens as a grid with this many columns; a strip by default.
        draw: a function from logits, [tokens, outputs], to HTML, which takes the place of the tokens.
        answers: a function from logits to comparable answers; the largest output of each token by default.
        recalls: whether the loop sees its problem in every iteration, if known; it explains answers that stay.

    Raises:
        LoopscopeError: the loop or its inputs cannot be measured, see `loopscope.checks.prepare`.

    Example:
        >>> import torch
        >>> from loopscope.loop import FunctionLoop
        >>> halving = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> shown = exhibit(halving, torch.eye(3), word=lambda output: "abc"[output])
        >>> shown.examples, shown.read("2").inputs
        ({'1': 'input 1', '2': 'input 2', '3': 'input 3'}, tensor([[0., 1., 0.]]))
    """
    count = batch_size(inputs)
    check_targets(targets, count)
    with eval_mode(loop), torch.no_grad(), without_autocast():
        mask = prepare(loop, inputs).mask
    correct = rule_of(targets, mask)
    view = TokensView(word, columns, draw, correct, answers, hint if read is not None else "")

    def question(given: str) -> Question:
        number = given.strip()
        if number.isdigit() and 1 <= int(number) <= count and (read is None or number in examples):
            row = int(number) - 1
            return Question(number, select(inputs, slice(row, row + 1)), row=row)
        if read is None:
            raise LoopscopeError(
                f"problem {given.strip()!r} is not among the inputs: expected a number from 1 to {count}"
            )
        if not given.strip():
            raise LoopscopeError(f"no text was given: expected {hint}")
        made = read(given)
        if batch_size(made) != 1:
            raise LoopscopeError(f"read returned {batch_size(made)} examples for one text, expected a batch of one")
        return Question(given.strip(), made)

    examples = {str(place): f"input {place}" for place in range(1, min(count, MOST_ROWS) + 1)}
    return Exhibit(
        name, loop, view, examples, question, _digest(inputs), _about(loop), trained_iterations, answers, recalls
    )


def open_exhibit(name: str) -> Exhibit:
    """Open a shipped model, a run's folder, or the loop that a function returns.

    Args:
        name: name of a task whose model ships, such as "sudoku"; "prefix-sums-without-recall"; folder of a run; or
            package.module:function, which returns an `Exhibit` or what `loopscope.subjects.from_function` takes.

    Raises:
        LoopscopeError: there is no such thing, or its loop cannot be measured.
    """
    if ":" in name and not Path(name).exists():
        made = imported(name)
        if isinstance(made, Exhibit):
            return replace(made, name=name) if made.name == UNNAMED else made
        return _of_subject(name, subject_from(name, made))
    if not Path(name).exists() and name in shipped_names():
        return _of_run(name, shipped_names()[name])
    if name in TASKS and not Path(name).exists():
        raise LoopscopeError(f"no model ships for the task {name} ({', '.join(shipped_names())}): give a run's folder")
    return _of_run(name, Path(name))


def shipped_names() -> dict[str, Path]:
    """Return the folders of the models that come with the package, by the names that the lab gives them."""
    own = {folder.name: folder for folder in sorted(shipped.MODELS.glob("*")) if folder.is_dir()}
    others = {f"{folder.name}-without-recall": folder for folder in sorted(shipped.WITHOUT_RECALL.glob("*"))}
    order = [name for name in ("sudoku", "chess", "prefix-sums") if name in own]
    return {name: own[name] for name in [*order, *own.keys() - set(order)]} | others


def _of_run(name: str, path: Path) -> Exhibit:
    settings, model = trained(RunFolder(path))
    if not isinstance(model, LoopedTransformer):
        raise LoopscopeError(f"{path} holds a {settings.model.architecture} model, which has no iterations to watch")
    # Modes are the model's own: threads that showed it to several visitors would switch them under each other.
    model.eval()
    task = settings.data
    columns = task.shape.grid[-1] if len(task.shape.grid) > 1 else None
    if not has_text_format(settings.task):
        subject = on_split(model, settings, next(iter(task.evaluation_splits().values())).first(MOST_ROWS))
        return _of_subject(name, subject, columns, symbol_of(settings.task))
    form = text_format(settings.task)
    view = board_of(settings.task) or TypedView(symbol_of(settings.task), columns, hint=form.example, form=form)

    def read(given: str) -> Question:
        problem = form.read(given)
        return Question(problem.text, task.inputs(problem.tokens[None].to(device())), problem)

    about = f"{_about(model)}; trained with at most {settings.training.max_iterations} iterations"
    recalls, kind, trained_iterations = settings.model.recall != "none", settings.task, settings.training.max_iterations
    return Exhibit(name, model, view, view.examples, read, kind, about, trained_iterations, answers_of(task), recalls)


def _of_subject(name: str, subject: Subject, columns: int | None = None, word: Callable[[int], str] = str) -> Exhibit:
    """Return a loop with its inputs as an exhibit."""
    return exhibit(
        subject.loop,
        subject.inputs,
        subject.targets,
        subject.trained_iterations,
        name=name,
        columns=columns,
        word=word,
        answers=subject.answers,
    )


def _digest(inputs: Tree) -> str:
    """Return a text that is the same for equal inputs: loops that come with the same problems can be shown side by side."""
    digest = hashlib.sha256()
    for leaf in leaves(inputs):
        digest.update(f"{tuple(leaf.shape)} {leaf.dtype}".encode())
        digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _about(loop: Loop) -> str:
    """Return what a loop is, in a few words."""
    if not isinstance(loop, LoopedTransformer):
        return type(loop).__name__
    config = loop.config
    recall = "no recall" if config.recall == "none" else f"{config.recall} recall"
    blocks = "one block" if config.blocks == 1 else f"{config.blocks} blocks"
    return f"{blocks} of width {config.width}, {recall}, {config.norm} normalization"
