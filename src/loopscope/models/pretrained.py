"""Saving and loading models in the layout of the Hugging Face hub: config.json and model.safetensors, never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from loopscope.errors import LoopscopeError
from loopscope.files import check_path, make_folder, read_json, write_bytes, write_text
from loopscope.models.config import LoopedTransformerConfig

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

Model = TypeVar("Model", bound="Pretrained")


def local_folder(source: str | Path) -> Path:
    """Return the folder that holds the model: ``source``, its subfolder ``model``, or a download from the hub.

    Raises:
        LoopscopeError: ``source`` is a folder without a model, or a name that the hub does not serve.
    """
    place = check_path(source)
    for folder in (place, place / "model"):
        if (folder / CONFIG).is_file():
            return folder
    if place.exists() or str(source).startswith((".", "/")):
        raise LoopscopeError(
            f"{source} holds no model: expected {CONFIG} and {WEIGHTS} there or in its subfolder model/"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LoopscopeError(f"{source} is neither a folder nor a model on the Hugging Face hub: {reason}") from error


def read_config(folder: Path) -> LoopedTransformerConfig:
    """Read a model's config.json.

    Raises:
        LoopscopeError: the file is not JSON, has an unknown key, or holds a value that is refused.
    """
    path = folder / CONFIG
    values = read_json(path)
    if not isinstance(values, dict):
        raise LoopscopeError(f"{path} holds {type(values).__name__}, expected a JSON object of model options")
    try:
        return LoopedTransformerConfig.from_dict(values)
    except LoopscopeError as error:
        raise LoopscopeError(f"{path}: {error}") from error


class Pretrained(nn.Module):
    """A module that is built from a config and can be saved, loaded and uploaded to the Hugging Face hub."""

    architecture: ClassVar[str]

    def __init__(self, config: LoopedTransformerConfig) -> None:
        super().__init__()
        if config.architecture != self.architecture:
            raise LoopscopeError(
                f"the config describes a {config.architecture} model, expected {self.architecture}: use build_model or load_model, "
                "which choose the class"
            )
        self.config = config

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write model.safetensors and config.json into ``folder`` and return the folder.

        The config is written last: if it exists, the weights are complete.

        Raises:
            LoopscopeError: the folder cannot be written.
        """
        folder = make_folder(check_path(folder))
        weights = {name: value.detach().contiguous().cpu() for name, value in self.state_dict().items()}
        # Readers of the hub look for the metadata "format".
        write_bytes(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))
        write_text(folder / CONFIG, json.dumps(self.config.to_dict(), indent=2) + "\n")
        return folder

    @classmethod
    def from_pretrained(cls: type[Model], source: str | Path) -> Model:
        """Load a model in evaluation mode from a folder, the folder of a run, or the Hugging Face hub.

        Raises:
            LoopscopeError: there is no model, it has the other architecture, or its weights are damaged or do not fit
                the config.
        """
        folder = local_folder(source)
        config = read_config(folder)
        model = cls(config)
        path = folder / WEIGHTS
        try:
            weights = load_file(path)
        except FileNotFoundError as error:
            raise LoopscopeError(f"{path} is missing: the folder has a config but no weights; copy them too") from error
        except (SafetensorError, OSError) as error:
            raise LoopscopeError(
                f"{path} cannot be read as safetensors ({error}): it is truncated or damaged; copy it again"
            ) from error
        expected = model.state_dict()
        missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
        misshapen = [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in sorted(expected.keys() & weights.keys())
            if weights[name].shape != expected[name].shape
        ]
        problems = [
            f"{what} {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}"
            for what, names in (("missing", missing), ("extra", extra), ("wrong shape", misshapen))
            if names
        ]
        if problems:
            raise LoopscopeError(f"{path} does not fit its config: {'; '.join(problems)}")
        model.load_state_dict(weights)
        return model.eval()

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload config.json and model.safetensors to a repository on the Hugging Face hub and return its address.

        Args:
            repo_id: owner and name of the repository, such as "someone/sudoku". It is created if it does not exist.
            private: whether a new repository is private.
            token: access token; None uses the one that is stored on this machine.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            api.upload_folder(repo_id=repo_id, folder_path=self.save_pretrained(folder))
        return str(address)
