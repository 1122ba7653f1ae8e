"""Language models as exhibits: a text that is typed in, its tokens as a strip, and below each the token that comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from loopscope.errors import LoopscopeError
from loopscope.lab.exhibits import UNNAMED, Exhibit, exhibit
from loopscope.lab.views.tokens import TokensView
from loopscope.lab.views.view import Question
from loopscope.loop import Loop
from loopscope.trees import Tree

NOTE = 60
"""Characters of a text in the list of problems."""

Tokenize = Callable[[Sequence[str]], tuple[Tree, Sequence[Sequence[str]]]]
"""Returns the inputs of some texts, batch first, and the tokens of each text as they are written.

The inputs of all calls should have the same number of tokens, so that a state fits every text. Padding belongs at the end,
masked by the loop.
"""


def language_exhibit(
    loop: Loop,
    tokenize: Tokenize,
    texts: Sequence[str],
    *,
    name: str = UNNAMED,
    word: Callable[[int], str] = str,
    trained_iterations: int | None = None,
) -> Exhibit:
    """Return a loop that was made of a causal language model as an exhibit of the lab.

    Args:
        loop: the loop, read at all tokens: ``adapt(model, inputs, "all")``.
        tokenize: returns the inputs of texts, and their tokens as they are written.
        texts: texts to pick from.
        name: how the model is called on the page.
        word: how an output is written, such as a tokenizer's ``decode``.
        trained_iterations: largest number of iterations in training, if known.

    Raises:
        LoopscopeError: there are no texts, ``tokenize`` refuses one, or the loop cannot be measured.

    Example:
        >>> import torch
        >>> from loopscope.loop import FunctionLoop
        >>> echo = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> def tokenize(texts):
        ...     return torch.stack([torch.eye(3)[["abc".index(one) for one in text]] for text in texts]), texts
        >>> shown = language_exhibit(echo, tokenize, ["ab", "cb"], word=lambda output: "abc"[output])
        >>> shown.read("ca").tokens
        ('c', 'a')
    """
    if not texts:
        raise LoopscopeError("no texts were given: expected at least one, to pick from and to check the loop on")
    inputs, _ = tokenize(texts)
    shown = exhibit(loop, inputs, trained_iterations=trained_iterations, name=name)

    def read(given: str) -> Question:
        text = given.strip()
        if not text:
            raise LoopscopeError("no text was given: type some words")
        one, (tokens,) = tokenize([text])
        return Question(text, one, tokens=tuple(tokens))

    notes = {text: text if len(text) <= NOTE else f"{text[: NOTE - 1]}…" for text in texts}
    return replace(shown, view=TokensView(word, hint="a text"), examples=notes, read=read)
