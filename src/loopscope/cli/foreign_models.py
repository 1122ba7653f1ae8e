"""Third-party models for commands: a model of the Hugging Face hub or a folder of that form, or one that Python code makes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopscope.adapters.running import told_in_one_line
from loopscope.cli.console import say
from loopscope.errors import LoopscopeError
from loopscope.extras import check_installed
from loopscope.subjects import current_folder_first, named

if TYPE_CHECKING:
    from torch import nn

HUB = "hf:"
"""What stands before the name of a model of the hub, or before its folder."""
NEEDS_CODE = "trust_remote_code"
"""What the error of a model says that needs code of its own."""


@dataclass(frozen=True)
class ForeignModel:
    """A model that is not this package's.

    Args:
        model: the model, in eval mode.
        name: what it was called on the command line.
        tokenizer: returns its tokenizer; None where it has none.
        is_language_model: whether it is a causal language model because of how it was loaded.
    """

    model: nn.Module
    name: str
    tokenizer: Callable[[], Any] | None
    is_language_model: bool


def is_of_the_hub(name: str) -> bool:
    """Return whether a subject is a model of the hub, or a folder of that form."""
    return name.startswith(HUB)


def load(name: str, *, trust_remote_code: bool, single_precision: bool) -> ForeignModel:
    """Load a model and put it in eval mode.

    Args:
        name: hf:FOLDER_OR_NAME, or package.module:name of a module or of a function that returns one.
        trust_remote_code: run code that comes with a model of the hub.
        single_precision: convert its weights to float32.

    Raises:
        LoopscopeError: it cannot be loaded, in one line.
    """
    found = (
        _of_the_hub(name, trust_remote_code) if is_of_the_hub(name) else ForeignModel(_made(name), name, None, False)
    )
    if trust_remote_code and not is_of_the_hub(name):
        raise LoopscopeError(
            f"--trust-remote-code is for {HUB}FOLDER_OR_NAME; {name} is Python code of yours, which is run anyway"
        )
    model = found.model.eval()
    return ForeignModel(model.float() if single_precision else model, name, found.tokenizer, found.is_language_model)


def _made(name: str) -> nn.Module:
    from torch import nn

    made = named(name)
    if not isinstance(made, nn.Module) and callable(made):
        with told_in_one_line(f"{name} could not be called without arguments"), current_folder_first():
            made = made()
    if not isinstance(made, nn.Module):
        raise LoopscopeError(
            f"{name} is of type {type(made).__name__}, expected a torch.nn.Module or a function without arguments that returns one; "
            "a function that returns (loop, inputs) takes no --inputs, --text or --at"
        )
    return made


def _of_the_hub(name: str, trust_remote_code: bool) -> ForeignModel:
    check_installed("transformers", f"loading {name}")
    place = name.removeprefix(HUB)
    _check_place(place)
    if trust_remote_code:
        say(f"warning: --trust-remote-code runs the code that comes with {place} on this machine; read it first")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if Path(place).is_dir():  # a bar is worth its line where something is downloaded
        logging.disable_progress_bar()
    with _explained(name, "model"):
        # Weights in safetensors alone: other files of weights are pickles.
        model = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=trust_remote_code, use_safetensors=True)

    @cache
    def tokenizer() -> Any:
        with _explained(name, "tokenizer"):
            return AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)

    return ForeignModel(model, name, tokenizer, True)


def _check_place(place: str) -> None:
    """Refuse a folder that is not there, which would otherwise be looked for on the hub."""
    folder = Path(place)
    if not place:
        raise LoopscopeError(f"{HUB} names no model: give {HUB}FOLDER or {HUB}NAME, such as {HUB}runs/dory")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise LoopscopeError(
            f"{place} has no config.json: expected a folder that save_pretrained of transformers wrote"
        )
    if not folder.is_dir() and (place.startswith((".", "/", "~")) or place.count("/") > 1):
        raise LoopscopeError(f"there is no folder {place}")


def _explained(name: str, what: str) -> AbstractContextManager[None]:
    return _Explained(name, what)


class _Explained(AbstractContextManager[None]):
    """Turns an exception of transformers into one line."""

    def __init__(self, name: str, what: str) -> None:
        self.name, self.what = name, what

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception):
            return
        if NEEDS_CODE in str(error):
            raise LoopscopeError(
                f"{self.name} comes with code of its own, which is not run unless --trust-remote-code is given; read it first"
            ) from error
        said = " ".join(str(error).split())
        first = said.split(". ")[0][:300]
        place = self.name.removeprefix(HUB)
        where = "" if Path(place).is_dir() else f"; nor is there a folder {place}"
        raise LoopscopeError(
            f"the {self.what} of {self.name} cannot be loaded: {type(error).__name__}: {first}{where}"
        ) from error
