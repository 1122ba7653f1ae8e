"""Third-party models as exhibits of the lab, adapted as ``loopscope examine`` adapts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from loopscope.cli.foreign_inputs import padded, texts_in, token_rows
from loopscope.cli.foreign_models import ForeignModel, is_of_the_hub
from loopscope.cli.subject import TOKENS, check_inputs_given, inputs_in_file, loaded, proven
from loopscope.errors import LoopscopeError, check_positive
from loopscope.files import check_path
from loopscope.subjects import device
from loopscope.trees import Tree, tree_map

if TYPE_CHECKING:
    from loopscope.lab import Exhibit

TEXTS = (
    "The capital of France is Paris. The capital of Italy is",
    "Two plus two is four. Three plus three is",
    "Once upon a time there was a little",
    "The opposite of hot is cold. The opposite of up is",
)
"""Texts to pick from if none are given."""
WIDTH = 32
"""Tokens of a text, padding included, unless a given text is longer or --tokens sets another number."""
SHOWN = {"\n": "⏎", "\t": "⇥", "": "∅"}
"""How invisible characters and empty tokens are written."""


def is_model(options: Namespace, name: str) -> bool:
    """Return whether a name is that of a model to adapt: one of the hub, or one of Python code with inputs."""
    return is_of_the_hub(name) or bool(":" in name and (options.inputs or options.at) and not check_path(name).exists())


def open_model(options: Namespace, name: str) -> Exhibit:
    """Load a third-party model, adapt and prove it, and return it as an exhibit.

    Raises:
        LoopscopeError: the model cannot be loaded, is not a loop, or cannot be proven; or its inputs are of no use.
    """
    options = options.clone()
    options.subject = name
    if is_of_the_hub(name) and not options.inputs:
        return _of_texts(options)
    check_inputs_given(options)
    from loopscope.lab import exhibit

    model = loaded(options)
    inputs = inputs_in_file(options, model)
    return replace(exhibit(proven(options, model, inputs), inputs, name=name), about=_about(model))


def _of_texts(options: Namespace) -> Exhibit:
    """Return a language model as an exhibit whose problems are texts."""
    from loopscope.lab import language_exhibit

    texts = texts_in(check_path(options.text)) if options.text else list(TEXTS)
    if options.tokens is not None:
        check_positive(tokens=options.tokens)
    given, options.tokens = options.tokens, None
    options.positions = options.positions or "all"
    model = loaded(options)
    assert model.tokenizer is not None  # models of the hub have one
    tokenizer = model.tokenizer()
    longest = max(map(len, token_rows(texts, tokenizer)))
    language = _Language(model, tokenizer, given or min(max(longest, WIDTH), TOKENS))
    inputs, _ = language.tokenize(texts)
    loop = proven(options, model, inputs)
    shown = language_exhibit(loop, language.tokenize, texts, name=options.subject, word=language.word)
    return replace(shown, about=_about(model))


def _about(model: ForeignModel) -> str:
    return f"{type(model.model).__name__}, adapted as a loop that was proven to be the model"


@dataclass(frozen=True)
class _Language:
    """The texts of a model: all of one width, so that a state fits every text.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        width: tokens of a text, padding included.
    """

    model: ForeignModel
    tokenizer: Any
    width: int

    def tokenize(self, texts: Sequence[str]) -> tuple[Tree, list[list[str]]]:
        """Return the inputs of texts, and their tokens as they are written.

        Raises:
            LoopscopeError: a text has no tokens, or too many.
        """
        rows = token_rows(texts, self.tokenizer)
        longest = max(map(len, rows))
        if longest > self.width:
            raise LoopscopeError(
                f"the text has {longest} tokens, expected at most {self.width}: shorten it, or start the lab with --tokens {longest}"
            )
        inputs = padded(rows, self.tokenizer, self.model.model, self.width)
        return tree_map(lambda leaf: leaf.to(device()), inputs), [[self.word(one) for one in row] for row in rows]

    def word(self, token: int) -> str:
        """Return how a token is written."""
        written: str = self.tokenizer.decode([token])
        return SHOWN.get(written, written.replace("\n", SHOWN["\n"]).replace("\t", SHOWN["\t"]))
