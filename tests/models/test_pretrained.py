"""Saving and loading models: bit for bit, and one clear line for each kind of damage."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from loopscope.errors import LoopscopeError
from loopscope.models import (
    FixedDepthTransformer,
    LoopedTransformer,
    LoopedTransformerConfig,
    build_model,
    load_model,
)

LOOPED = LoopedTransformerConfig(width=16, heads=2, inputs=3, outputs=4, grid=(2, 3), attention="full", norm="gru")
FIXED = LoopedTransformerConfig(
    architecture="fixed-depth",
    recall="none",
    width=16,
    heads=2,
    blocks=2,
    inputs=3,
    outputs=4,
    grid=(0,),
    attention="local",
    kernel_size=3,
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return build_model(LOOPED).save_pretrained(tmp_path / "run" / "model")


def refusal(folder: Path, loader=LoopedTransformer.from_pretrained) -> str:
    with pytest.raises(LoopscopeError) as caught:
        loader(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("config", [LOOPED, FIXED], ids=["looped", "fixed-depth"])
def test_a_saved_model_comes_back_bit_for_bit(config, tmp_path):
    model = build_model(config)
    folder = model.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    inputs = torch.randn(2, 6, 3)
    for source in (folder, str(folder), tmp_path):
        loaded = load_model(source)
        assert type(loaded) is type(model)
        assert loaded.config == config
        assert not loaded.training
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
        assert torch.equal(loaded(inputs, 0, 3), model.eval()(inputs, 0, 3))


def test_a_model_of_an_older_version_attends_as_it_did_there(tmp_path):
    folder = build_model(replace(FIXED, attention="banded", kernel_size=7)).save_pretrained(tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    inputs = torch.randn(2, 9, 3)
    expected = load_model(folder)(inputs, 0, 1)
    del values["kernel_size"]
    (folder / "config.json").write_text(json.dumps(values | {"attention": "local", "window": 3}))
    loaded = load_model(folder)
    assert (loaded.config.attention, loaded.config.kernel_size) == ("banded", 7)
    assert torch.equal(loaded(inputs, 0, 1), expected)


def test_saving_over_an_older_model_replaces_it(saved):
    other = build_model(LOOPED)
    other.save_pretrained(saved)
    loaded = load_model(saved).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensors: tensors.pop("recall.state.weight"), "does not fit its config: missing recall.state.weight"),
        (lambda tensors: tensors.update(surplus=torch.zeros(2)), "does not fit its config: extra surplus"),
        (
            lambda tensors: tensors.update({"embedding.bias": torch.zeros(7)}),
            "wrong shape embedding.bias (7,) instead of (16,)",
        ),
        (lambda tensors: [tensors.pop(name) for name in list(tensors)[1:]], "and more"),
    ],
    ids=["missing", "extra", "misshapen", "many"],
)
def test_weights_that_do_not_fit_are_refused(saved, change, complaint):
    path = saved / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    assert complaint in refusal(saved)


@pytest.mark.parametrize("kept", [0.0, 0.0005, 0.5, 0.999])
def test_truncated_weights_are_refused(saved, kept):
    path = saved / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    message = refusal(saved)
    assert str(path) in message
    assert "it is truncated or damaged; copy it again" in message


def test_missing_weights_are_named(saved):
    (saved / "model.safetensors").unlink()
    assert "model.safetensors is missing: the folder has a config but no weights" in refusal(saved)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not valid JSON"),
        ("[1, 2]", "holds list, expected a JSON object of model options"),
        (json.dumps({"widht": 16}), "unknown model option 'widht' (did you mean width?)"),
        (json.dumps({"norm": "inner"}), "norm is 'inner', expected one of pre, peri, outer, sandwich, gru"),
        (json.dumps({"width": "wide"}), "config.json: width is 'wide', expected a whole number"),
        (json.dumps({"grid": 9}), "config.json: grid is 9, expected positive lengths"),
        (json.dumps({"outputs": True}), "config.json: outputs is True, expected a whole number"),
        (json.dumps({"mlp_ratio": 2**63}), "config.json: mlp_ratio is 9223372036854775808, expected a whole number"),
        (json.dumps({"rope_base": 10**400}), "expected a finite number of at least 1, such as the default 10000"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_damaged_configs_are_refused(saved, text, complaint):
    (saved / "config.json").write_text(text)
    assert complaint in refusal(saved)
    assert complaint in refusal(saved, load_model)


def test_a_model_of_another_architecture_is_refused(saved):
    assert "describes a looped model, expected fixed-depth: use build_model or load_model" in refusal(
        saved, FixedDepthTransformer.from_pretrained
    )


def test_a_folder_without_a_model_is_refused(tmp_path):
    for source in (tmp_path, tmp_path / "absent"):
        assert "holds no model: expected config.json and model.safetensors there" in refusal(source)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LoopscopeError, match=r"cannot write .*file/model: Not a directory; .*choose another folder"):
        build_model(LOOPED).save_pretrained(tmp_path / "file" / "model")


def test_a_name_is_fetched_from_the_hub(saved, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_model("someone/sudoku").config == LOOPED
    assert asked == [("someone/sudoku", ["config.json", "model.safetensors"])]


def test_a_name_that_the_hub_does_not_give_is_refused(monkeypatch):
    def download(name, allow_patterns):
        raise LocalEntryNotFoundError("no connection\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert "someone/sudoku is neither a folder nor a model on the Hugging Face hub: no connection" in refusal(
        "someone/sudoku"
    )


def test_push_to_hub_uploads_what_from_pretrained_reads(saved, monkeypatch):
    model, calls = load_model(saved), []

    class Api:
        def __init__(self, token):
            calls.append(("token", token))

        def create_repo(self, repo_id, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))
            return f"https://hub.example/{repo_id}"

        def upload_folder(self, repo_id, folder_path):
            uploaded = load_model(folder_path)
            same = all(torch.equal(value, model.state_dict()[name]) for name, value in uploaded.state_dict().items())
            calls.append(("upload", repo_id, same))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert model.push_to_hub("someone/sudoku", private=True, token="secret") == "https://hub.example/someone/sudoku"
    assert calls == [
        ("token", "secret"),
        ("create", "someone/sudoku", True, True),
        ("upload", "someone/sudoku", True),
    ]
