"""Third-party models on the command line: loaded, adapted, proven and examined, and one clear line for each mistake."""

import json

import numpy as np
import pytest
import torch
from commands import refusal
from looped_models import seeded
from safetensors.torch import save_file
from small_models import CODE, LAYERS, SIZES, WORDS, save_dory, tokenizer_of
from transformers import DoryConfig, DoryForCausalLM, LlamaConfig, LlamaForCausalLM

from loopscope.cli import main

QUICK = ("--examination.effort", "quick", "--examination.iterations", "15")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Dory with its tokenizer, as save_pretrained writes them, and texts beside it."""
    place = tmp_path_factory.mktemp("hub") / "dory"
    save_dory(place)
    return place


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A module beside the user, and inputs for its models."""
    monkeypatch.chdir(tmp_path)
    name = f"looped_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / "package_beside.py").write_text("")
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "x.npz", x=x.numpy())
    save_file({"x": x}, tmp_path / "x.safetensors")
    return name


def test_a_folder_of_a_known_family_is_adapted_proven_and_examined(folder, capsys, tmp_path):
    text = ("--text", folder / "prompts.txt")
    arguments = ["examine", f"hf:{folder}", *text, *QUICK, "--out", tmp_path / "exam.json"]
    assert main([str(one) for one in arguments]) == 0
    captured = capsys.readouterr()
    assert "a model of the family Dory; proven to be the model" in captured.err
    exam = json.loads((tmp_path / "exam.json").read_text())
    assert exam["settings"]["inputs"] == 5
    assert exam["settings"]["answers_per"] == "token"
    assert len(exam["answers"]["final_at"]) == 5, "the last token of each text"
    assert exam["verdict"] in captured.out


def test_all_tokens_can_be_read(folder, tmp_path, capsys):
    out = tmp_path / "exam.json"
    arguments = [
        "examine",
        f"hf:{folder}",
        "--text",
        folder / "prompts.txt",
        *QUICK,
        "--positions",
        "all",
        "--out",
        out,
    ]
    assert main([str(one) for one in arguments]) == 0
    assert len(json.loads(out.read_text())["answers"]["final_at"]) == 4 + 3 + 5 + 4 + 3


def test_a_forecast_says_tokens(folder, capsys):
    arguments = ["forecast", f"hf:{folder}", "--text", folder / "prompts.txt", "--horizon", "60", "--budget", "1"]
    assert main([str(one) for one in arguments]) == 0
    out = " ".join(capsys.readouterr().out.split())  # lines wrap where the folder's name is long
    assert "5 tokens of 5 inputs" in out
    assert "the tokens of iteration 15" in out or "cannot be forecast" in out


def test_exits_of_a_language_model_are_compared_token_by_token(folder, tmp_path, capsys):
    page = tmp_path / "exits.html"
    model = ["exits", f"hf:{folder}", "--text", str(folder / "prompts.txt"), "--iterations", "6"]
    assert main([*model, "--positions", "all", "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert "agreement with the last iteration of 19 tokens over 6 iterations" in said
    assert "Not compared: gate" in page.read_text()
    assert main(model) == 0
    assert "agreement with the last iteration of 5 tokens" in capsys.readouterr().out


def test_exits_of_any_module_are_compared_by_the_name_of_a_call(code, capsys):
    assert main(["exits", f"{code}:model", "--at", "core", "--inputs", "x.npz", "--iterations", "5"]) == 0
    assert "agreement with the last iteration of 5 examples over 5 iterations" in capsys.readouterr().out


def test_a_split_is_that_of_a_run(folder, code, capsys):
    refused = f"--split is for the folder of a trained run, which {code}:model is not"
    assert refused in refusal(
        capsys, ["exits", f"{code}:model", "--at", "core", "--inputs", "x.npz", "--split", "easy"]
    )
    assert "--split is for the folder" in refusal(capsys, ["exits", f"hf:{folder}", "--text", "x", "--split", "easy"])


def test_adapt_prints_the_proof_alone(folder, capsys):
    assert main(["adapt", f"hf:{folder}", "--text", str(folder / "prompts.txt"), "--positions", "0,-1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split(":")[0] for line in lines]
    assert names == ["forward", "memory", "alone", "derivative", "input", "padding", "readout", "positions"]


def test_texts_that_are_too_long_are_cut_and_said_to_be(folder, capsys):
    arguments = ["adapt", f"hf:{folder}", "--text", folder / "prompts.txt", "--tokens", "3"]
    assert main([str(one) for one in arguments]) == 0
    assert "3 of 5 texts have more than 3 tokens and are cut there" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model", "make", "Looped"])
@pytest.mark.parametrize("file", ["x.npz", "x.safetensors"])
def test_any_module_is_examined_by_the_name_of_a_call(code, capsys, name, file):
    assert main(["examine", f"{code}:{name}", "--at", "core", "--inputs", file, *QUICK]) == 0
    captured = capsys.readouterr()
    assert "iterations end with core; proven to be the model" in captured.err
    assert "reachability" in captured.out


def test_half_precision_is_said_and_can_be_converted(folder, tmp_path, capsys):
    place = tmp_path / "half"
    seeded(lambda: DoryForCausalLM(DoryConfig(**SIZES, **LAYERS))).bfloat16().save_pretrained(place)
    tokenizer_of(WORDS).save_pretrained(place)
    arguments = ["adapt", f"hf:{place}", "--text", str(folder / "prompts.txt")]
    assert main(arguments) == 0
    assert "in half precision as it is stored" in capsys.readouterr().err
    assert main([*arguments, "--single-precision"]) == 0
    assert "half precision" not in capsys.readouterr().err


def test_a_model_of_no_known_family_needs_the_name_of_a_call(code, capsys):
    said = refusal(capsys, ["examine", f"{code}:model", "--inputs", "x.npz"])
    assert "Looped is of no known family (Dory, " in said
    assert "name the call that is one iteration with --at; it calls repeatedly: core: 4 calls, each fed by" in said


def test_a_wrong_name_lists_the_calls(code, capsys):
    said = refusal(capsys, ["adapt", f"{code}:model", "--at", "cores", "--inputs", "x.npz"])
    assert "the model has no submodule or method 'cores'; it calls repeatedly: core: 4 calls" in said


def test_a_model_of_the_hub_that_does_not_loop_repeats_nothing(folder, tmp_path, capsys):
    LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=2, head_dim=8)).save_pretrained(tmp_path / "llama")
    tokenizer_of(WORDS).save_pretrained(tmp_path / "llama")
    said = refusal(capsys, ["adapt", f"hf:{tmp_path / 'llama'}", "--text", folder / "prompts.txt"])
    assert "LlamaForCausalLM is of no known family" in said


def test_inputs_that_do_not_fit_the_forward(code, capsys, tmp_path):
    x = np.zeros((5, 3), dtype=np.float32)
    for name, arrays, message in [
        ("two", {"x": x}, "x.npz lacks y, which the forward of Two needs: it holds x"),
        (
            "model",
            {"x": x, "scales": x},
            "holds scales, which the forward of Looped does not take (did you mean scale?)",
        ),
        ("two", {"x": x, "y": x[:2]}, "expected tensors that share their first dimension (the batch)"),
        ("model", {"x": x[:0]}, "x.npz holds no examples"),
        ("model", {}, "x.npz holds no arrays"),
        ("model", {"x": np.array(["a", "b"])}, "x.npz cannot be read: can't convert np.ndarray of type numpy.str_"),
    ]:
        np.savez(tmp_path / "x.npz", **arrays)
        assert message in refusal(capsys, ["adapt", f"{code}:{name}", "--at", "core", "--inputs", "x.npz"])


def test_a_single_array_of_another_name_is_the_first_argument(code, tmp_path):
    np.savez(tmp_path / "x.npz", np.ones((5, 3), dtype=np.float32) * np.arange(5, dtype=np.float32)[:, None])
    assert main(["adapt", f"{code}:model", "--at", "core", "--inputs", "x.npz"]) == 0


def test_files_that_are_of_no_use(code, capsys, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}], dtype=object))
    torch.save({"x": torch.ones(2, 3)}, tmp_path / "x.pt")
    for file, message in [
        ("none.npz", "there is no file none.npz"),
        ("x.pt", "x.pt ends in '.pt', expected one of .safetensors, .npz: pickles are never loaded"),
        ("bad.npz", "bad.npz cannot be read"),
        ("bad.safetensors", "bad.safetensors is not a file of safetensors"),
        ("objects.npz", "objects.npz cannot be read: Object arrays cannot be loaded when allow_pickle=False"),
    ]:
        assert message in refusal(capsys, ["adapt", f"{code}:model", "--at", "core", "--inputs", file])


def test_texts_that_are_of_no_use(folder, capsys, tmp_path):
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    for text, message in [
        ("none.txt", "none.txt: No such file or directory"),
        ("empty.txt", "empty.txt has no text: expected one text per line"),
        ("latin.txt", "latin.txt is not UTF-8 text (byte 3): save it as UTF-8"),
        (".", "Is a directory"),
    ]:
        assert message in refusal(capsys, ["examine", f"hf:{folder}", "--text", tmp_path / text])


def test_a_tokenizer_that_is_missing_or_of_another_model(folder, capsys, tmp_path):
    model = seeded(lambda: DoryForCausalLM(DoryConfig(**SIZES, **LAYERS)))
    model.save_pretrained(tmp_path / "bare")
    said = refusal(capsys, ["adapt", f"hf:{tmp_path / 'bare'}", "--text", folder / "prompts.txt"])
    assert f"the tokenizer of hf:{tmp_path / 'bare'} cannot be loaded" in said
    model.save_pretrained(tmp_path / "other")
    tokenizer_of([*(f"word{place}" for place in range(30)), *WORDS]).save_pretrained(tmp_path / "other")
    said = refusal(capsys, ["adapt", f"hf:{tmp_path / 'other'}", "--text", folder / "prompts.txt"])
    assert "and the model knows 13: it belongs to another model" in said


def test_a_model_that_cannot_be_loaded(folder, capsys, tmp_path):
    text = ("--text", folder / "prompts.txt")
    (tmp_path / "no-config").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "unheard-of"}')
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text((folder / "config.json").read_text())
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    for name, message in [
        (tmp_path / "none", f"there is no folder {tmp_path / 'none'}"),
        (tmp_path / "no-config", "has no config.json: expected a folder that save_pretrained"),
        (tmp_path / "odd", "the model of hf:"),
        (tmp_path / "pickled", "the model of hf:"),
        ("", "hf: names no model"),
    ]:
        assert message in refusal(capsys, ["adapt", f"hf:{name}", *text])


def test_code_that_comes_with_a_model_is_run_only_if_asked_for(folder, capsys, tmp_path):
    place = tmp_path / "own"
    place.mkdir()
    ran = tmp_path / "ran"
    (place / "modeling_own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import DoryConfig, DoryForCausalLM\n"
        "class OwnConfig(DoryConfig):\n    model_type = 'own'\n"
        "class OwnForCausalLM(DoryForCausalLM):\n    config_class = OwnConfig\n"
    )
    model = seeded(lambda: DoryForCausalLM(DoryConfig(**SIZES, **LAYERS)))
    model.save_pretrained(place)
    config = json.loads((place / "config.json").read_text())
    code = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (place / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": code}))
    tokenizer_of(WORDS).save_pretrained(place)
    arguments = ["adapt", f"hf:{place}", "--text", str(folder / "prompts.txt")]
    assert "comes with code of its own, which is not run unless --trust-remote-code is given" in refusal(
        capsys, arguments
    )
    assert not ran.exists()
    assert main([*arguments, "--trust-remote-code"]) == 0
    assert ran.exists()
    said = capsys.readouterr().err
    assert "warning: --trust-remote-code runs the code that comes with" in said
    assert "a model of the family Dory" in said, "its class derives from a known one"


def test_options_that_do_not_fit_the_subject(folder, code, capsys, tmp_path):
    text = ("--text", folder / "prompts.txt")
    for arguments, message in [
        ((f"hf:{folder}",), "was given neither --text nor --inputs, expected one of them"),
        ((f"hf:{folder}", *text, "--inputs", "x.npz"), "was given both --text and --inputs"),
        ((f"{code}:model", *text), "--text needs a tokenizer"),
        (
            (f"{code}:model", "--inputs", "x.npz", "--at", "core", "--trust-remote-code"),
            "--trust-remote-code is for hf:",
        ),
        ((f"{code}:model", "--inputs", "x.npz", "--every", "2"), "--every is for --at"),
        ((f"{code}:model", "--inputs", "x.npz", "--tokens", "2"), "--tokens is for --text"),
        ((f"hf:{folder}", *text, "--tokens", "0"), "tokens is 0, expected a number above 0"),
        ((f"hf:{folder}", *text, "--positions", "first"), "--positions is 'first', expected last, all or places"),
        ((f"hf:{folder}", *text, "--positions", "9"), "position 9 is not among the"),
        (
            (f"{code}:model", "--inputs", "x.npz", "--at", "core", "--positions", "last"),
            "expected (4, tokens, outputs)",
        ),
        ((f"{code}:model", "--inputs", "x.npz", "--at", "core", "--answers-per", "word"), "answers_per: expected"),
        ((f"{code}:number", "--inputs", "x.npz", "--at", "core"), "has no function 'number'"),
        ((f"{code}:needs", "--inputs", "x.npz", "--at", "core"), "could not be called without arguments: TypeError"),
        ((f"{code}:tokens", "--inputs", "x.npz", "--at", "core"), "has no function 'tokens'"),
        (("dory", *text), "dory is not a third-party model: expected hf:FOLDER_OR_NAME, such as hf:dory"),
        ((f"hf:{folder}", "--text", ""), "--text is empty"),
        ((f"{code}:model", "--inputs="), "--inputs is empty"),
        ((tmp_path, *text), "--text is for third-party models"),
    ]:
        assert message in refusal(capsys, ["adapt" if arguments[0] != tmp_path else "examine", *arguments])


def test_a_model_without_inputs_is_not_taken_for_a_function_that_makes_a_loop(code, capsys):
    said = refusal(capsys, ["examine", f"{code}:model"])
    assert "is a model, Looped, not a function that returns (loop, inputs): give its inputs with --inputs FILE" in said


def test_without_transformers_the_extra_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr("loopscope.extras.is_installed", lambda package: False)
    said = refusal(capsys, ["adapt", f"hf:{folder}", "--text", folder / "prompts.txt"])
    assert 'needs transformers, which is not installed: pip install "loopscope[models]"' in said


def test_a_mistyped_folder_is_named_where_the_hub_has_no_such_model(folder, capsys, monkeypatch):
    def from_pretrained(place, **options):
        raise OSError("We couldn't connect to the hub. Check your connection")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", from_pretrained)
    said = refusal(capsys, ["adapt", "hf:dorry", "--text", folder / "prompts.txt"])
    assert "of hf:dorry cannot be loaded: OSError: We couldn't connect to the hub; nor is there a folder dorry" in said
