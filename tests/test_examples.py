"""The examples and the documentation's code run, and say what they should."""

import importlib.util
import re
from pathlib import Path

import pytest

import loopscope as ls

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["gru_loop", "equilibrium_cell", "two_states"])
def test_an_example_keeps_its_answer(name):
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) < 40
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loop, inputs = module.make_loop()
    exam = ls.examine(loop, inputs[:8], effort="quick", iterations=150)
    assert exam.verdict is ls.Verdict.KEEPS_ITS_ANSWER
    assert exam.input_dependence["distinct_common"][-1] == 8


@pytest.mark.parametrize("page", ["docs/examine-your-own-model.md", "README.md"])
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.S)
    names = {}
    for block in blocks:
        if "from_pretrained" not in block:
            exec(compile(block, page, "exec"), names)
    assert (tmp_path / "exam.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(ROOT) for path in [*ROOT.glob("docs/*.md"), ROOT / "README.md"])
)
def test_links_and_pictures_of_a_page_are_there(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target
