"""What can be shown in the lab, and how what cannot is refused."""

from __future__ import annotations

import re

import pytest
import torch
from lab_loops import affine, inputs

from loopscope.errors import LoopscopeError
from loopscope.evaluation import EvaluationConfig, evaluate
from loopscope.lab import exhibit
from loopscope.lab.exhibits import open_exhibit, shipped_names
from loopscope.lab.session import Session, Sessions
from loopscope.lab.stage import stage
from loopscope.lab.views.view import Board
from loopscope.loop import FunctionLoop
from loopscope.models import build_model
from loopscope.subjects import trained
from loopscope.tasks import registry
from loopscope.tasks.registry import TASKS, board_of, has_text_format, text_format
from loopscope.tasks.sudoku.grids import digit
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.settings import settings_from


def finished_run(path, task, **model):
    """Write a run of a small model that has not been trained, as if it had been."""
    settings = settings_from(
        {"task": task, "model": {"width": 8, "heads": 2, **model}, "training": {"compile": False, "steps": 1}}
    )
    run = open_run(path, settings, resume=False)
    torch.manual_seed(0)
    build_model(settings.model).save_pretrained(run.model)
    return run


def test_shipped_models_come_first_and_the_one_without_recall_last():
    assert list(shipped_names()) == ["sudoku", "chess", "prefix-sums", "prefix-sums-without-recall"]
    assert open_exhibit("prefix-sums-without-recall").recalls is False
    assert open_exhibit("prefix-sums").recalls is True
    session = Session([open_exhibit(name) for name in shipped_names()], "prefix-sums")
    assert session.rivals() == ["prefix-sums-without-recall"]


def test_a_run_of_a_task_is_typed_into_and_one_of_small_sudoku_is_picked_from(tmp_path):
    opened = open_exhibit(str(finished_run(tmp_path / "bits", "prefix-sums").path))
    assert opened.read("0110").text == "0110"
    assert opened.trained_iterations == 30
    small = open_exhibit(str(finished_run(tmp_path / "small", "small-sudoku").path))
    assert small.view.hint == ""
    session = Session([small])
    session.step(2)
    source = stage(session)
    assert source.count('role="row"') == 6
    assert source.count('role="gridcell"') == 36


@pytest.mark.parametrize("name", [name for name in TASKS if has_text_format(name)])
def test_a_task_that_can_be_typed_in_brings_its_board_with_examples_that_it_can_read(name):
    board = board_of(name)
    assert isinstance(board, Board)
    assert all(text_format(name).read(example).text for example in board.examples)


def test_a_task_without_a_board_is_a_strip_or_a_grid_of_tokens_that_its_rules_judge(tmp_path, monkeypatch):
    assert board_of("small-sudoku") is None
    monkeypatch.setattr(registry, "_BOARDS", {})
    monkeypatch.setitem(registry._SYMBOLS, "sudoku", digit)
    bits, grid = (Session([open_exhibit(name)]) for name in ("prefix-sums", "sudoku"))
    bits.ask("1101")
    for session in (bits, grid):
        session.step(12)
    assert stage(bits).count('role="gridcell"') == 4
    assert "Right, and confirmed by the rules." in stage(bits)
    with pytest.raises(LoopscopeError, match="'a' at place 1 is not a bit"):
        bits.ask("a")
    assert stage(grid).count('role="row"') == 9
    shown = [int(one) for one in re.findall(r'role="gridcell"[^>]*>(\d)<', stage(grid))]
    assert shown == (grid.lanes[0].own.orbit.logits(12).argmax(-1) + 1).tolist()


def test_a_function_that_is_named_is_called(monkeypatch, tmp_path):
    (tmp_path / "my_loops.py").write_text("from lab_loops import *\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert open_exhibit("my_loops:with_recall").trained_iterations == 10
    assert open_exhibit("my_loops:letters").name == "letters"


def test_loops_that_come_with_the_same_problems_can_be_compared():
    slow, fast = exhibit(affine(rate=0.9), inputs(), name="slow"), exhibit(affine(), inputs(), name="fast")
    other = exhibit(affine(), 2 * inputs(), name="other")
    session = Session([slow, fast, other])
    assert session.rivals() == ["fast"]
    session.compare("fast")
    assert [lane.exhibit.name for lane in session.lanes] == ["slow", "fast"]
    with pytest.raises(LoopscopeError, match="the model beside it is 'other', expected one of fast"):
        session.compare("other")


def test_two_exhibits_of_one_name_are_refused():
    with pytest.raises(LoopscopeError, match="twins is shown twice"):
        Sessions([exhibit(affine(), inputs(), name="twins")] * 2)


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("lab_loops:unproven", "the loop does not reproduce its model: after 2 iterations the logits differ by 0.3"),
        ("lab_loops:nothing", "lab_loops has no function 'nothing'"),
        ("lab_loops:inputs", "lab_loops:inputs() returned Tensor, expected (loop, inputs)"),
        ("small-sudoku", "no model ships for the task small-sudoku"),
        ("no/such/run", "no/such/run"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(name, refusal):
    with pytest.raises(LoopscopeError) as refused:
        open_exhibit(name)
    assert refusal in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_loop_that_cannot_be_measured_is_refused():
    writing = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z.add_(e), lambda z: z)
    with pytest.raises(LoopscopeError, match="the step writes over the state"):
        exhibit(writing, inputs())
    with pytest.raises(LoopscopeError, match="targets have shape"):
        exhibit(affine(), inputs(), torch.zeros(3, 3))


def test_a_reader_must_return_one_example():
    shown = exhibit(affine(), inputs(), read=lambda text: inputs())
    with pytest.raises(LoopscopeError, match="read returned 4 examples for one text, expected a batch of one"):
        shown.read("anything")


def test_the_shipped_model_without_recall_is_as_its_card_says():
    folder = shipped_names()["prefix-sums-without-recall"]
    settings, model = trained(RunFolder(folder))
    config = EvaluationConfig(iterations=8, examples=100)
    (curve,) = evaluate(model, settings.data, config).values()
    assert settings.model.recall == "none"
    assert curve.answer_accuracy[7] > 0.95
    assert "| 0.4 | 0.8 | 9.6 | 98.6 |" in (folder / "card.md").read_text()
    assert (folder / "model" / "model.safetensors").stat().st_size < 300_000
