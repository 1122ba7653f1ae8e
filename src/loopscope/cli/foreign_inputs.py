"""Inputs of third-party models for commands: texts, or a file of arrays."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import torch
from torch import Tensor

from loopscope.cli.console import say
from loopscope.errors import LoopscopeError, nearest
from loopscope.trees import Tree, batch_size

if TYPE_CHECKING:
    from torch import nn

ENDINGS = (".safetensors", ".npz")
"""Of files of arrays; none of them is a pickle."""


def texts_in(path: Path) -> list[str]:
    """Return the lines of a file of texts, without those that are empty.

    Raises:
        LoopscopeError: the file cannot be read, is not UTF-8, or has no text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise LoopscopeError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise LoopscopeError(f"cannot read {path}: {error.strerror}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise LoopscopeError(f"{path} has no text: expected one text per line")
    return texts


def tokens_of(texts: list[str], tokenizer: Any, model: nn.Module, most: int) -> dict[str, Tensor]:
    """Return the tokens of texts, padded at the end, with the mask of real ones.

    Args:
        texts: the texts.
        tokenizer: of the model.
        model: the model, whose vocabulary must hold the tokens.
        most: tokens of a text that are kept.

    Raises:
        LoopscopeError: a text has no tokens, or the tokenizer belongs to another model.
    """
    rows = token_rows(texts, tokenizer)
    longer = sum(len(row) > most for row in rows)
    if longer:
        say(f"{longer} of {len(rows)} texts have more than {most} tokens and are cut there; --tokens keeps more")
    rows = [row[:most] for row in rows]
    return padded(rows, tokenizer, model, max(map(len, rows)))


def token_rows(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Return the tokens of texts.

    Raises:
        LoopscopeError: a text has no tokens.
    """
    rows = [list(tokenizer(text)["input_ids"]) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise LoopscopeError(f"the tokenizer makes no tokens of {text[:40]!r}: leave this line out")
    return rows


def padded(rows: Sequence[list[int]], tokenizer: Any, model: nn.Module, width: int) -> dict[str, Tensor]:
    """Return rows of at most ``width`` tokens as a batch, padded at the end, with the mask of real tokens.

    Raises:
        LoopscopeError: the model does not know a token.
    """
    padding = next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)
    ids = torch.tensor([row + [padding] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    words = _vocabulary(model)
    if words is not None and int(ids.max()) >= words:
        raise LoopscopeError(
            f"the tokenizer makes token {int(ids.max())}, and the model knows {words}: it belongs to another model"
        )
    return {"input_ids": ids, "attention_mask": mask}


def words_of(ids: Tensor, mask: Tensor, tokenizer: Any) -> list[list[str]]:
    """Return the text of each token, one list per input, padding left out.

    Args:
        ids: token ids.
        mask: 1 where a token is real.
        tokenizer: of the model.
    """
    return [
        [str(tokenizer.decode([token])) for token in row[real > 0].tolist()]
        for row, real in zip(ids.cpu(), mask.cpu(), strict=True)
    ]


def _vocabulary(model: nn.Module) -> int | None:
    get_embeddings: Any = getattr(model, "get_input_embeddings", None)
    return None if get_embeddings is None else getattr(get_embeddings(), "num_embeddings", None)


def arrays_in(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a file by name.

    Raises:
        LoopscopeError: the file has another ending, cannot be read, holds Python objects, or no arrays.
    """
    if path.suffix not in ENDINGS:
        raise LoopscopeError(
            f"{path} ends in {path.suffix or 'nothing'!r}, expected one of {', '.join(ENDINGS)}: pickles are never loaded"
        )
    if not path.is_file():
        raise LoopscopeError(f"there is no file {path}")
    found = _safetensors(path) if path.suffix == ".safetensors" else _npz(path)
    if not found:
        raise LoopscopeError(f"{path} holds no arrays: expected one for each input of the model")
    return found


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise LoopscopeError(f"{path} is not a file of safetensors: {' '.join(str(error).split())}") from error


def _npz(path: Path) -> dict[str, Tensor]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not isinstance(arrays, Mapping):
                raise LoopscopeError(f"{path} holds a single array without a name: write it with numpy.savez")
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    except (ValueError, TypeError, OSError, BadZipFile) as error:
        said = " ".join(str(error).split())
        raise LoopscopeError(f"{path} cannot be read: {said}; expected numbers, written with numpy.savez") from error


def fitted_to_forward(arrays: dict[str, Tensor], model: nn.Module, path: Path) -> Tree:
    """Return arrays as the arguments of a model's forward.

    A single array whose name is not that of an argument is the first argument.

    Raises:
        LoopscopeError: an argument is missing or unknown, or arrays differ in their first dimension.
    """
    parameters = inspect.signature(model.forward).parameters
    named = {name for name, one in parameters.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    required = [name for name in parameters if name in named and parameters[name].default is inspect.Parameter.empty]
    _check_batch(arrays, path)
    if len(arrays) == 1 and not named & arrays.keys() and len(required) <= 1:
        return next(iter(arrays.values()))
    kind = type(model).__name__
    missing = [name for name in required if name not in arrays]
    if missing:
        raise LoopscopeError(
            f"{path} lacks {', '.join(missing)}, which the forward of {kind} needs: it holds {', '.join(arrays)}"
        )
    unknown = [] if takes_all else [name for name in arrays if name not in named]
    if unknown:
        raise LoopscopeError(
            f"{path} holds {unknown[0]}, which the forward of {kind} does not take{nearest(unknown[0], named)}: it takes "
            f"{', '.join(name for name in parameters if name in named)}"
        )
    return arrays


def fitted_to_example(arrays: dict[str, Tensor], example: Tree, path: Path) -> Tree:
    """Return arrays as the inputs of a known family, which look like an example of them.

    Raises:
        LoopscopeError: an input is missing, there are several where one is expected, or arrays differ in their first dimension.
    """
    _check_batch(arrays, path)
    if isinstance(example, Mapping):
        missing = [name for name in example if name not in arrays and name != "attention_mask"]
        if missing:
            raise LoopscopeError(
                f"{path} lacks {', '.join(missing)}, which this model needs: it holds {', '.join(arrays)}"
            )
        return arrays
    if len(arrays) > 1:
        raise LoopscopeError(f"{path} holds {', '.join(arrays)}, expected a single array of token ids for this model")
    return next(iter(arrays.values()))


def _check_batch(arrays: dict[str, Tensor], path: Path) -> None:
    try:
        batch = batch_size(arrays)
    except LoopscopeError as error:
        raise LoopscopeError(f"{path}: {error}") from error
    if not batch:
        raise LoopscopeError(f"{path} holds no examples: the first dimension of its arrays is 0")
