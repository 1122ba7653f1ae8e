"""Third-party models in the lab: texts typed into a language model, inputs of any module, and one line for what cannot be."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from commands import refusal
from looped_models import seeded
from small_models import CODE, LAYERS, SIZES, WORDS, save_dory, tokenizer_of
from transformers import DoryConfig, DoryForCausalLM, LlamaConfig, LlamaForCausalLM

from loopscope.cli.lab import make_parser
from loopscope.cli.lab_models import TEXTS, is_model, open_model
from loopscope.errors import LoopscopeError
from loopscope.lab.session import Session
from loopscope.lab.stage import stage

DRIFTING = """
class Drifting(Looped):
    def forward(self, x):
        x = self.embed(x)
        z = torch.zeros_like(x)
        for iteration in range(4):
            z = self.core(z + 0.1 * iteration, x)
        return self.head(z)

drifting = Drifting()
"""
QUESTION, OTHER = "two plus two is", "five minus one is four"


def opened(*arguments):
    """Return the exhibit of the one subject that the arguments name."""
    options = make_parser().parse_args([str(one) for one in arguments])
    (name,) = options.subjects
    assert is_model(options, name)
    return open_model(options, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("hub") / "dory"
    save_dory(place)
    return place


@pytest.fixture(scope="module")
def shown(folder):
    return opened(f"hf:{folder}", "--text", folder / "prompts.txt")


@pytest.fixture
def code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "looped_in_the_lab.py").write_text(CODE + DRIFTING)
    yield "looped_in_the_lab"
    sys.modules.pop("looped_in_the_lab", None)


def test_each_token_of_a_text_has_the_models_next_token_below_it(shown, folder):
    session = Session([shown])
    assert next(iter(shown.examples)) == session.text == QUESTION
    assert [f"<i>{word}</i>" in stage(session) for word in QUESTION.split()] == [True] * 4
    session.ask("so what is four minus one")
    session.step(4)
    model = DoryForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[WORDS.index(word) for word in session.text.split()]])
    model.model.num_iterations = 4
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits[0].argmax(-1)
    assert (
        shown.view.answer(session.lanes[0].own.question, session.lanes[0].own.orbit.logits(4)).tolist()
        == wanted.tolist()
    )
    source = stage(session)
    assert source.count('role="gridcell"') == 6, "no cell for padding"
    for place, (token, output) in enumerate(zip(session.text.split(), wanted.tolist(), strict=True), 1):
        assert f'aria-label="token {place}, {token}: next {WORDS[output]}, ' in source


def test_all_three_experiments_work_on_a_language_model_with_texts_of_different_lengths(shown):
    session = Session([shown])
    list(session.play())
    list(session.push(0.5))
    assert session.found["push"][0].startswith("It came back: ")
    assert "in all 4 tokens" in session.found["push"][0]
    list(session.change(OTHER))
    assert session.found["change"][0].startswith(("The answer followed: ", "Both problems have the same answer here"))
    list(session.run_on(200, with_leaps=True))
    assert session.found["run"][0].startswith("Forecast: ")
    assert len(session.lanes[0].landings) > 0


def test_padding_changes_no_answer(shown, folder):
    narrow = opened(f"hf:{folder}", "--text", folder / "prompts.txt", "--tokens", 5)
    for text in (QUESTION, "one and one"):
        answers = []
        for one in (narrow, shown):
            session = Session([one])
            session.ask(text)
            session.step(6)
            answers.append(one.view.answer(session.lanes[0].own.question, session.lanes[0].own.orbit.logits(6)))
        assert len(answers[0]) == len(text.split())
        assert answers[0].tolist() == answers[1].tolist()
    session = Session([narrow])
    for text, refused in [(" ", "no text was given"), (" ".join(6 * ["two"]), "has 6 tokens, expected at most 5")]:
        with pytest.raises(LoopscopeError, match=refused) as told:
            session.ask(text)
        assert "\n" not in str(told.value)
        assert session.text == QUESTION


def test_texts_are_at_hand_where_none_are_given(folder):
    session = Session([opened(f"hf:{folder}")])
    assert list(session.lanes[0].exhibit.examples) == list(TEXTS)
    assert session.lanes[0].exhibit.about == "DoryForCausalLM, adapted as a loop that was proven to be the model"


def test_two_models_of_one_tokenizer_are_compared(shown, folder, tmp_path):
    fewer = {**LAYERS, "n_recurrent_layers": 1, "num_hidden_layers": 3}
    seeded(lambda: DoryForCausalLM(DoryConfig(**SIZES, **fewer))).save_pretrained(tmp_path / "other")
    tokenizer_of(WORDS).save_pretrained(tmp_path / "other")
    session = Session([shown, opened(f"hf:{tmp_path / 'other'}", "--text", folder / "prompts.txt")])
    session.compare(*session.rivals())
    session.step(2)
    assert stage(session).count('role="gridcell"') == 8


@pytest.mark.parametrize("name", ["model", "make"])
def test_any_module_is_shown_by_the_name_of_a_call(code, tmp_path, name):
    (tmp_path / "package_beside.py").write_text("")
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    shown = opened(f"{code}:{name}", "--at", "core", "--inputs", "x.npz")
    session = Session([shown])
    assert list(shown.examples) == ["1", "2", "3", "4", "5"]
    list(session.play())
    list(session.push(0.5))
    list(session.change("3"))
    assert session.found["push"][0].startswith("It came back: ")


def test_what_cannot_be_adapted_or_proven_is_one_line(folder, code, capsys, tmp_path, monkeypatch):
    np.savez("x.npz", x=np.ones((5, 3), dtype=np.float32) * np.arange(5, dtype=np.float32)[:, None])
    LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=2, head_dim=8)).save_pretrained(tmp_path / "llama")
    tokenizer_of(WORDS).save_pretrained(tmp_path / "llama")
    text = ("--text", folder / "prompts.txt")
    for arguments, message in [
        ((f"hf:{tmp_path / 'llama'}", *text), "LlamaForCausalLM is of no known family"),
        (
            (f"hf:{tmp_path / 'llama'}", *text, "--at", "model.layers.0"),
            "model.layers.0 is called 1 times, expected at least 3",
        ),
        (
            (f"{code}:drifting", "--at", "core", "--inputs", "x.npz"),
            "core: iteration 4 is not the map that iteration 2 is",
        ),
        ((f"{code}:model", "--inputs", "x.npz"), "Looped is of no known family"),
        ((f"{code}:model", "--at", "head", "--inputs", "x.npz"), "head"),
        ((f"{code}:model", "--at", "core"), "was given neither --text nor --inputs"),
        ((f"{code}:model",), "is a model, Looped, not a function that returns (loop, inputs)"),
        ((f"hf:{folder}", *text, "--inputs", "x.npz"), "was given both --text and --inputs"),
        ((f"hf:{folder}", *text, "--tokens", "0"), "tokens is 0, expected a number above 0"),
        ((f"hf:{folder}", *text, "--tokens", "3"), "the text has 5 tokens, expected at most 3"),
        ((f"hf:{folder}", "--text", "none.txt"), "none.txt: No such file or directory"),
    ]:
        assert message in refusal(capsys, ["lab", *arguments, "--port", "0"]), arguments
