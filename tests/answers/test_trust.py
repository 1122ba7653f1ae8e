"""What tells right answers from wrong ones: signals against known answers, the command, and what solve says of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from commands import refusal
from small_runs import finished

from loopscope.answers.trust import (
    SIGNALS,
    AnswerSignals,
    assess,
    joined,
    judge_signal,
    observe_split,
    signals_from,
    unsureness,
)
from loopscope.cli import main
from loopscope.errors import LoopscopeError
from loopscope.evaluation import EvaluationConfig
from loopscope.files import read_json
from loopscope.loop import FunctionLoop
from loopscope.models import build_model
from loopscope.reports.trust import bands_sheet
from loopscope.tasks import PrefixSums, Split
from loopscope.tasks.prefix_sums.task import prefix_sums
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.settings import settings_from

BITS = torch.tensor([[0, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 1]])
"""Strings of all four kinds that the loop below knows."""


def loop_of_known_rates(slow: float = 0.9, fast: float = 0.5) -> FunctionLoop:
    """Goes from zero to logits of 3 and -3 by a rate that the first bit sets, to wrong ones where the last bit is 1."""

    def encode(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bits = (inputs.squeeze(-1) + 0.5).long()
        wanted = (prefix_sums(bits) + bits[:, -1:]) % 2
        rate = torch.where(bits[:, 0] == 1, slow, fast)
        return torch.stack([3.0 - 6 * wanted, 6.0 * wanted - 3], -1), rate[:, None, None]

    return FunctionLoop(
        encode=encode,
        start=lambda recalled: torch.zeros_like(recalled[0]),
        step=lambda state, recalled: recalled[0] + recalled[1] * (state - recalled[0]),
        read=lambda state: state,
    )


def residual_after(rate: float, iterations: int) -> float:
    """Return the relative residual of that loop's last step, in closed form."""
    return rate ** (iterations - 1) * (1 - rate) / (1 - rate**iterations)


def observed(iterations: int, loop: FunctionLoop | None = None) -> AnswerSignals:
    split = Split(BITS, prefix_sums(BITS))
    told: list[int] = []
    config = EvaluationConfig(iterations=iterations, examples=10, batch_size=3)
    found = observe_split(loop or loop_of_known_rates(), PrefixSums(), split, config, lambda: told.append(1))
    assert len(told) == 2 * iterations  # two batches
    return found


def test_the_signals_of_a_loop_of_known_rates() -> None:
    found = observed(60)
    assert found.right.tolist() == [True, True, False, False]
    # At rate 0.5 the residual is at rounding after 20 iterations and the state arrived; at 0.9 it has a way to go.
    assert found.arrived.tolist() == [True, False, True, False]
    assert found.residual[1] == pytest.approx(residual_after(0.9, 60), rel=1e-3)
    assert found.contraction.tolist() == pytest.approx([0.5, 0.9, 0.5, 0.9], rel=5e-3)
    assert found.error[1] == pytest.approx(residual_after(0.9, 60) / 0.1, rel=0.05)
    assert found.error[0] < 1e-4
    fast = next(i for i in range(1, 99) if residual_after(0.5, i) <= 1e-4)
    assert found.settling.tolist() == [fast, math.inf, fast, math.inf]
    assert found.settled_right.tolist() == [True, True, False, False]
    # Logits of 3 and -3, less what is left to go.
    near = 3 * (1 - 0.5**fast)
    assert found.settled_unsure[0] == pytest.approx(1 / (1 + math.exp(2 * near)), rel=1e-3)
    assert found.unsure[0] == pytest.approx(1 / (1 + math.exp(6)), rel=1e-3)
    assert found.settled_unsure[1] == found.unsure[1]


def test_what_settles_is_judged_where_it_settled() -> None:
    """A state that begins at a right answer which repels it, and ends at a wrong one."""

    def encode(inputs: torch.Tensor) -> torch.Tensor:
        return 6.0 * torch.nn.functional.one_hot(prefix_sums((inputs.squeeze(-1) + 0.5).long()), 2) - 3

    loop = FunctionLoop(
        encode=encode,
        start=lambda right: right * (1 - 1e-5),
        step=lambda state, right: (right + 2 * (state - right)).clamp(-3, 3),
        read=lambda state: state,
    )
    found = observed(60, loop)
    assert found.settling.tolist() == [1] * 4
    assert found.settled_right.all()
    assert found.arrived.all()
    assert not found.right.any()


def test_confidence_is_that_of_the_weakest_real_token() -> None:
    logits = torch.tensor([[[math.log(3), 0.0], [0.0, math.log(9)]]])
    assert unsureness(logits).tolist() == pytest.approx([0.25])
    assert unsureness(logits, torch.tensor([[False, True]])).tolist() == pytest.approx([0.1])
    # Where float32 would round the confidence to one, doubt is kept.
    assert unsureness(torch.tensor([[[40.0, 0.0, -1.0]]])).item() == pytest.approx(math.exp(-40) * (1 + math.exp(-1)))


def test_confidence_in_a_move_is_the_probability_of_its_two_squares() -> None:
    scores = torch.tensor([[[6.0], [3.0], [0.5], [0.5]]]).log()
    assert unsureness(scores).tolist() == pytest.approx([0.1])
    assert unsureness(scores, torch.tensor([[True, True, True, False]])).tolist() == pytest.approx([0.5 / 9.5])


def made(right: list[bool], residual: list[float]) -> AnswerSignals:
    values = np.array(residual)
    flags = np.array(right)
    return AnswerSignals(flags, values <= 1e-4, values, values, values, values, values, flags, values, flags, values)


def test_a_split_is_counted_by_arrival() -> None:
    found = assess(made([True, True, False, True, False], [1e-6, 1e-5, 5e-5, 0.1, math.inf]))
    assert (found.all.examples, found.all.right) == (5, 3)
    assert (found.arrived.examples, found.arrived.right) == (3, 2)
    assert (found.others.examples, found.others.right) == (2, 1)
    assert found.random_area == pytest.approx(2 / 5)
    assert found.signals["residual"].auc == pytest.approx(5 / 6)
    # Too few for an interval.
    assert found.signals["residual"].low is None
    # Pairs: both of one kind are ties; 2/3 of the right and 1/2 of the wrong arrived.
    assert found.signals["arrived"].auc == pytest.approx(0.5 * (1 + 2 / 3 - 1 / 2))
    assert set(found.signals) == set(SIGNALS)


def test_the_interval_holds_the_area_and_is_the_same_again() -> None:
    generator = np.random.default_rng(0)
    right = generator.random(200) < 0.6
    doubt = generator.normal(size=200) - right
    found = judge_signal(doubt, right)
    assert found.low < found.auc < found.high
    # Hanley and McNeil's standard error of a binormal area is near 0.033 here; the interval has four of these.
    assert 0.09 < found.high - found.low < 0.18
    assert judge_signal(doubt, right) == found
    assert judge_signal(doubt, np.ones(200, dtype=bool)).auc is None


def test_evidence_comes_back_from_json() -> None:
    found = observed(40)
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    again = signals_from(values)
    for name, column in vars(found).items():
        assert getattr(again, name).tolist() == column.tolist()
    assert len(joined([again, again])) == 8
    with pytest.raises(LoopscopeError, match="but error is missing"):
        signals_from({name: value for name, value in values.items() if name != "error"})
    with pytest.raises(LoopscopeError, match="lists of equal length"):
        signals_from(values | {"error": [0.0]})
    with pytest.raises(LoopscopeError, match=r"is damaged \(error.0 is 'x', expected a number\)"):
        signals_from(values | {"error": ["x"]})
    for name, wrong, expected in (
        ("right", None, "None, expected 0 or 1"),
        ("arrived", 0.5, "0.5, expected 0 or 1"),
        ("error", math.nan, "nan, expected a finite number or null"),
        ("error", math.inf, "inf, expected a finite number or null"),
        ("unsure", True, "True, expected a number"),
    ):
        with pytest.raises(LoopscopeError, match=rf"is damaged \({name}.0 is {expected}\)"):
            signals_from(values | {name: [wrong, *values[name][1:]]})


def test_bands_hold_their_upper_edge() -> None:
    found = assess(made([True, False, True, False, True], [1e-5, 1e-4, 2e-4, math.inf, math.inf]))
    sheet = bands_sheet("by residual", "residual", (1e-5, 1e-4, 1e-3), {"easy": found.to_json()})
    assert sheet.columns == ["split", "to 1e-05", "to 0.0001", "to 0.001", "above 0.001"]
    assert sheet.rows == [["easy", "100.0 of 1", "0.0 of 1", "100.0 of 1", "50.0 of 2"]]


@pytest.fixture
def run(tmp_path) -> RunFolder:
    data = {"test_bits": [8, 12], "train_bits": 8, "strings": 40, "test_strings": 9}
    return finished(tmp_path / "bits", task="prefix-sums", data=data)


def test_the_command_writes_what_it_prints(run, capsys) -> None:
    assert main(["trust", str(run.path)]) == 0
    out, err = capsys.readouterr()
    assert f"written: {run.trust} and {run.path / 'trust.png'}" in " ".join(err.split())
    stored = read_json(run.trust)
    assert list(stored["splits"]) == ["8 bits", "12 bits"]
    for split in stored["splits"].values():
        assert split["all"]["examples"] == 6
        again = assess(signals_from(split["evidence"]))
        assert again.to_json() == split
    assert "estimated error" in out
    assert (run.path / "trust.png").read_bytes().startswith(b"\x89PNG")
    assert not list(run.path.glob(".*partial"))


def test_a_measurement_of_more_is_not_overwritten_and_a_damaged_one_is(run, tmp_path, capsys) -> None:
    assert main(["trust", str(run.path)]) == 0
    before, out = run.trust.read_text(), tmp_path / "less.json"
    capsys.readouterr()
    for less in (["--iterations", "3"], ["--examples", "5"]):
        assert main(["trust", str(run.path), *less]) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert (
            "holds a measurement of 6 examples of 8 bits over 60 iterations, which covers more and is kept; --out FILE"
            in said
        )
        assert run.trust.read_text() == before
        assert main(["trust", str(run.path), *less, "--out", str(out)]) == 0
        assert out.is_file()
    capsys.readouterr()
    run.trust.write_text("{}")
    assert main(["trust", str(run.path), "--iterations", "3"]) == 0
    assert "not written" not in capsys.readouterr().err
    assert read_json(run.trust)["settings"]["evaluation"]["iterations"] == 3


def test_on_other_data(run, tmp_path, capsys) -> None:
    out = tmp_path / "longer.json"
    assert (
        main(
            [
                "trust",
                str(run.path),
                "--data.test_bits",
                "[9]",
                "--examples",
                "3",
                "--iterations",
                "5",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    stored = read_json(out)
    assert {name: split["all"]["examples"] for name, split in stored["splits"].items()} == {"9 bits": 3}
    assert stored["settings"]["evaluation"]["iterations"] == 5
    assert not run.trust.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data.seed", "1"], "name a file with --out FILE"),
        (["--data.sed", "1", "--out", "x.json"], "did you mean --data.seed?"),
        (["--out", "OUT/x.png"], "the ending of --out is '.png', expected one of .json"),
        (["--out", "RUN/evaluation.json"], "names a file that belongs to a run"),
        (["--out", "RUN/trust.json"], "names a file that belongs to a run"),
        (["--examples", "0"], "examples is 0, expected a number above 0"),
        (["--until-settled"], "unknown option --until-settled"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, options, sentence, unchecked) -> None:
    placed = [option.replace("OUT", str(tmp_path)).replace("RUN", str(run.path)) for option in options]
    assert sentence in refusal(capsys, ["trust", run.path, *placed])
    assert not run.trust.exists()


def test_a_model_of_fixed_depth_is_refused(tmp_path, capsys) -> None:
    model = {"width": 16, "heads": 2, "architecture": "fixed-depth", "recall": "none", "blocks": 2}
    settings = settings_from({"task": "prefix-sums", "model": model, "training": {"compile": False}})
    run = open_run(tmp_path / "fixed", settings, resume=False)
    build_model(settings.model).save_pretrained(run.model)
    assert "holds a fixed-depth model, which has no iterations" in refusal(capsys, ["trust", run.path])
