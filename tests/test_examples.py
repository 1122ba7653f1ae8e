"""The examples and the documentation's code run, and say what they should."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import torch

import loopscope as ls
from loopscope.cli import main
from loopscope.shipped import MODELS
from loopscope.stability.verdict import THRESHOLDS

ROOT = Path(__file__).parent.parent


def load_example(name):
    """Import a script of examples/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["gru_loop", "equilibrium_cell", "two_states"])
def test_an_example_keeps_its_answer(name):
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) < 40
    loop, inputs = load_example(name).make_loop()
    exam = ls.examine(loop, inputs[:8], effort="quick", iterations=150)
    assert exam.verdict is ls.Verdict.STABLE
    assert exam.input_dependence.distinct.common[-1] == 8


def test_an_example_is_examined_from_its_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT / "examples")
    few = ["--examination.effort", "quick", "--examination.examples", "4", "--examination.iterations", "60"]
    assert main(["examine", "gru_loop:make_loop", *few, "--out", str(tmp_path / "gru.json")]) == 0
    assert capsys.readouterr().out.startswith("stable (provisional")
    assert ls.Examination.load(tmp_path / "gru.json").settings.inputs == 4


@pytest.mark.parametrize(
    "name", ["dory", "hrm_text", "inkling2_loop", "x_transformers", "tiny_recursive_model", "hrm_pytorch"]
)
def test_a_small_model_of_each_family_is_adapted_proven_and_examined(name):
    families = load_example("families")
    assert name in {family.__name__ for family in families.FAMILIES}
    loop, inputs = families.built(getattr(families, name))
    assert all(check.holds for check in loop.proof.checks)
    assert ls.examine(loop, inputs, effort="quick", iterations=5).settings.inputs == families.EXAMPLES


def test_the_table_of_families_has_a_line_for_each():
    families = load_example("families")
    page = (ROOT / "docs" / "evidence" / "models.md").read_text()
    assert len(re.findall(r"^\| \w+ \| autonomous, (?:direct|rerun) \|", page, re.M)) == len(families.FAMILIES)


PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"])


def python_of(page):
    """Return the blocks of Python on a page; those that are not meant to run are marked as text there."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.S | re.M)


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=str)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(MODELS / "prefix-sums", tmp_path / "runs" / "prefix")
    names = {"__name__": "page"}
    for block in python_of(page):
        exec(compile(block, str(page), "exec"), names)


def test_the_first_page_saves_a_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(python_of("README.md")[0], "README.md", "exec"), names)
    assert (tmp_path / "exam.html").stat().st_size > 10_000


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_and_pictures_of_a_page_are_there(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target


def rows_of(page):
    """Return the table rows of a page by their first cell."""
    lines = (ROOT / page).read_text().splitlines()
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {first: rest for first, *rest in cells}


def test_the_thresholds_of_the_page_are_those_of_the_code():
    rows = rows_of("docs/start/first-examination.md")
    for threshold in THRESHOLDS.values():
        assert rows[threshold.measure] == [f"{threshold.holds:g}", f"{threshold.fails:g}", threshold.origin]


DATA = ("counts", "recall", "start", "labels", "parts")


def keys_in(value):
    """Return every key that is a word of the schema; what stands under the keys of DATA are labels, not words."""
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys_in(entry) for name, entry in value.items() if name not in DATA))


WEIGHTS = torch.tensor([[0.5, 0.2], [-0.2, 0.4]])


def affine(state, recalled):
    return state @ WEIGHTS.T + recalled


def noisy(state, recalled, iteration, generator):
    return affine(state, recalled) + 0.01 * torch.randn(state.shape, generator=generator)


@pytest.mark.parametrize("step", [affine, noisy])
def test_every_key_of_the_json_is_documented(step):
    loop = ls.FunctionLoop(encode=lambda inputs: inputs, start=torch.zeros_like, step=step, read=lambda state: state)
    exam = ls.examine(loop, torch.eye(2)[[0, 1, 0, 1]] + torch.arange(4)[:, None], iterations=60)
    values, rows = exam.to_dict(), rows_of("docs/reference/examination.md")
    assert set(values) <= set(rows)
    assert set(values["unknown"].values()) <= {exam.kind.undefined}, "all that is defined was measured"
    for part in set(values) - {"unknown", "seconds"}:
        words = set(re.findall(r"\w+", rows[part][0]))
        assert keys_in(values[part]) <= words, part
    assert all(set(axis) <= set(re.findall(r"\w+", rows["axes"][0])) for axis in values["axes"])


def test_every_key_of_a_language_model_is_documented():
    loop = ls.FunctionLoop(
        encode=lambda inputs: inputs,
        start=torch.zeros_like,
        step=lambda state, recalled: state / 2 + recalled,
        read=lambda state: state,
        answers_per="token",
    )
    exam = ls.examine(loop, torch.eye(4).expand(20, 4, 4) + torch.arange(20.0)[:, None, None], iterations=60)
    found, (words,) = exam.to_dict()["language"], rows_of("docs/reference/examination.md")["language"]
    parts = [found, *found["tokens"]["texts"], *found["tokens"]["lengths"], *found["exits"]["rules"]]
    assert set().union(*map(keys_in, parts)) <= set(re.findall(r"\w+", words))
    assert found["exits"]["recommendation"] is not None
