"""The wheel alone, without any extra: a user's own model is examined, and shipped models answer."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from subprocesses import run_python, without

from loopscope.extras import EXTRAS

ROOT = Path(__file__).parents[1]
EXAMINE = """
import torch, loopscope as ls
assert ls.__file__.startswith({installed!r}), ls.__file__
weights = 0.1 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
loop = ls.FunctionLoop(
    encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: torch.tanh(z @ weights) + e, read=lambda z: z
)
exam = ls.examine(loop, torch.randn(4, 8), effort="quick", iterations=40)
print(exam)
exam.save("exam.json")
exam.save("exam.html")
"""
NEED_EXTRAS = {
    "chess": ["solve", "chess", "6k1/5ppp/8/8/8/8/5PPP/3R2K1 w - - 0 1"],
    "data": ["data", "sudoku", "--data.source", "generated", "--data.generated_puzzles", "9"],
    "cluster": ["study", "plan.yaml", "--ray", "auto"],
    "lab": ["lab"],
}
"""Commands that need an extra, by its name."""
RUN_ALL = """
from loopscope.cli import main
assert [main(arguments) for arguments in {commands!r}] == {statuses!r}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder with the content of the wheel, as installing it makes one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    done = subprocess.run([*build, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("loopscope-*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    return folder / "site"


def test_a_users_own_model_is_examined_printed_and_saved(installed, tmp_path):
    program = without(EXTRAS) + EXAMINE.format(installed=str(installed))
    shown = run_python(program, cwd=tmp_path, path=str(installed))
    assert shown.startswith("stable")
    assert json.loads((tmp_path / "exam.json").read_text())["verdict"] == "stable"
    assert (tmp_path / "exam.html").read_text().startswith("<!doctype html>")


def test_shipped_models_answer(installed, tmp_path):
    program = without(EXTRAS) + "import sys, loopscope.cli\nraise SystemExit(loopscope.cli.main(sys.argv[1:]))"
    shown = run_python(program, "solve", "prefix-sums", "0110100110010110", cwd=tmp_path, path=str(installed))
    assert "0100111011100100" in shown.splitlines()


def test_commands_that_need_an_extra_name_it(installed, tmp_path):
    (tmp_path / "plan.yaml").write_text("task: prefix-sums\ngrid: {model.norm: [pre]}\n")
    program = RUN_ALL.format(commands=list(NEED_EXTRAS.values()), statuses=[2] * len(NEED_EXTRAS))
    done = subprocess.run(
        [sys.executable, "-c", without(EXTRAS) + program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for line, extra in zip(done.stderr.splitlines(), NEED_EXTRAS, strict=True):
        assert line.startswith("loopscope: ")
        assert line.endswith(f'which is not installed: pip install "loopscope[{extra}]"')
