"""Saving and loading models as the Hugging Face hub expects: config.json and model.safetensors, never a pickle."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from loopscope.errors import LoopscopeError
from loopscope.files import make_folder, read_json, write_bytes, write_text
from loopscope.models.config import LoopedTransformerConfig

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

Model = TypeVar("Model", bound="Pretrained")


def local_folder(source: str | Path) -> Path:
    """Return the folder that holds the model: ``source``, a run folder's ``model``, or a download from the hub."""
    for folder in (Path(source), Path(source) / "model"):
        if (folder / CONFIG).is_file():
            return folder
    if Path(source).exists() or str(source).startswith((".", "/")):
        raise LoopscopeError(f"{source} holds no model: expected {CONFIG} and {WEIGHTS} there or in its folder model/")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LoopscopeError(f"{source} is neither a folder nor a model that the hub can give: {reason}") from error


def read_config(folder: Path) -> LoopedTransformerConfig:
    """Read a model's config.json.

    Raises:
        LoopscopeError: the file is not JSON, or holds an unknown key or a refused value.
    """
    path = folder / CONFIG
    values = read_json(path)
    if not isinstance(values, dict):
        raise LoopscopeError(f"{path} holds {type(values).__name__}, expected a JSON object of model options")
    try:
        return LoopedTransformerConfig.from_dict(values)
    except (LoopscopeError, TypeError) as error:
        raise LoopscopeError(f"{path}: {error}") from error


class Pretrained(nn.Module):
    """A module built from a config, with ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``."""

    architecture: ClassVar[str]

    def __init__(self, config: LoopedTransformerConfig) -> None:
        super().__init__()
        if config.architecture != self.architecture:
            raise LoopscopeError(
                f"the config is of a {config.architecture} model, expected {self.architecture}: use the class for it"
            )
        self.config = config

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write model.safetensors and config.json into ``folder``; the config, last, says both are whole."""
        folder = make_folder(Path(folder))
        weights = {name: value.detach().contiguous().cpu() for name, value in self.state_dict().items()}
        # Metadata "format" is what the hub's readers look for.
        write_bytes(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))
        write_text(folder / CONFIG, json.dumps(asdict(self.config), indent=2) + "\n")
        return folder

    @classmethod
    def from_pretrained(cls: type[Model], source: str | Path) -> Model:
        """Load a model from a folder, a run folder, or the Hugging Face hub.

        Raises:
            LoopscopeError: no model there, another architecture, or weights that are cut or do not fit the config.
        """
        folder = local_folder(source)
        config = read_config(folder)
        model = cls(config)
        path = folder / WEIGHTS
        try:
            weights = load_file(path)
        except FileNotFoundError as error:
            raise LoopscopeError(f"{path} is missing: the folder has a config but no weights") from error
        except (SafetensorError, OSError) as error:
            raise LoopscopeError(
                f"{path} cannot be read as safetensors ({error}): it is cut or damaged; copy it again"
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
        """Upload config.json and model.safetensors to a repository on the Hugging Face hub; return its address."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            api.upload_folder(repo_id=repo_id, folder_path=self.save_pretrained(folder))
        return str(address)
