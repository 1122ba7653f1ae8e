"""Loops whose lab is known in advance, as functions that `loopscope lab` can be given."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from loopscope.errors import LoopscopeError
from loopscope.lab import Exhibit, exhibit, language_exhibit
from loopscope.loop import FunctionLoop

RATE = 0.5
"""Share of its distance to the fixed point that the affine loop keeps per iteration."""
LETTERS = "abcdefgh "


def affine(recall: bool = True, rate: float = RATE) -> FunctionLoop:
    """Return z -> rate z + (1 - rate) e, whose fixed point is e; without recall, z -> z: every state is one.

    It reads its state as logits, so that the answer to an input is each token's largest number.
    """
    step = (lambda z, e: rate * z + (1 - rate) * e) if recall else (lambda z, e: z.clone())
    return FunctionLoop(
        encode=lambda x: x, start=lambda e: e if not recall else 0.1 + 0 * e, step=step, read=lambda z: z
    )


def inputs() -> torch.Tensor:
    """Return four problems of three tokens, with a different answer each."""
    return torch.nn.functional.one_hot(torch.tensor([[0, 1, 2], [2, 1, 0], [1, 1, 3], [3, 3, 3]]), 4).float()


def with_recall():
    return affine(), inputs(), inputs().argmax(-1), 10


def rotating():
    """A state that turns by a third of a circle, and a readout that sees it: the answer changes for ever."""
    turn = torch.tensor([[-0.5, 0.75**0.5], [-(0.75**0.5), -0.5]])
    loop = FunctionLoop(
        lambda x: x, lambda e: e, lambda z, e: z @ turn, lambda z: torch.cat([z, -z.sum(-1, keepdim=True)], -1)
    )
    return loop, torch.tensor([[[1.0, 0.2]], [[0.1, 1.0]]])


def exploding():
    """A state that is infinite after some iterations."""
    return FunctionLoop(lambda x: x, lambda e: e, lambda z, e: 1e9 * z, lambda z: z), inputs()


def counting():
    """A state with a clock, which leaps are not for."""
    loop = FunctionLoop(
        encode=lambda x: x,
        start=lambda e: {"z": torch.zeros_like(e), "t": torch.zeros(len(e), dtype=torch.long)},
        step=lambda s, e: {"z": s["z"] / 2 + e / (1 + s["t"][:, None, None]), "t": s["t"] + 1},
        read=lambda s: s["z"],
    )
    return loop, inputs()


def failing():
    """A step that raises after its first 200 calls."""
    calls = []

    def step(z, e):
        calls.append(1)
        if len(calls) > 200:
            raise RuntimeError("the cable\ncame loose")
        return z / 2 + e

    return FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z), inputs()


def unproven():
    """What `ls.adapt` says of a model that it cannot prove."""
    raise LoopscopeError("the loop does not reproduce its model: after 2 iterations the logits differ by 0.3")


def slow():
    """A step that takes 20 ms and leaves a trace in the file steps.txt of the current folder."""

    def step(z, e):
        time.sleep(0.02)
        with Path("steps.txt").open("a") as trace:
            trace.write(".")
        return 0.999 * z + e

    return FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z), inputs()


def letters() -> Exhibit:
    """Texts of letters, which the model spells back after some iterations."""
    eye = torch.eye(len(LETTERS))

    def read(text):
        if unknown := [letter for letter in text if letter not in LETTERS]:
            raise LoopscopeError(f"{unknown[0]!r} is not a letter of this model: expected some of {LETTERS!r}")
        return torch.stack([eye[LETTERS.index(letter)] for letter in text])[None]

    given = torch.cat([read("a bad cab"), read("feed a hag"[:9])])
    return exhibit(
        affine(), given, name="letters", read=read, hint="a text of the letters a to h", word=LETTERS.__getitem__
    )


def drawn() -> Exhibit:
    """An exhibit whose answer the user's own function draws."""
    return exhibit(
        affine(), inputs(), name="drawn", draw=lambda logits: f"<em>largest {int(logits.argmax())}</em>", columns=3
    )


def language() -> Exhibit:
    """A language model whose next token is always the token itself, with texts of up to eight words of four."""
    words = ("two", "plus", "is", "four")

    def tokenize(texts):
        rows = [text.split() for text in texts]
        if unknown := [word for row in rows for word in row if word not in words]:
            raise LoopscopeError(f"{unknown[0]!r} is not a word of this model: expected some of {', '.join(words)}")
        inputs = torch.zeros(len(rows), 8, len(words))
        for place, row in enumerate(rows):
            inputs[place, range(len(row)), [words.index(word) for word in row]] = 1.0
        return inputs, rows

    return language_exhibit(
        affine(), tokenize, ["two plus two", "four is four is four"], name="language", word=words.__getitem__
    )
