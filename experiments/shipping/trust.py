"""Print the tables of docs/guides/trust.md from the trust.json of the shipped models: python -m experiments.shipping.trust"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from loopscope.answers.trust import SIGNALS, AnswerSignals, joined, signals_from
from loopscope.files import read_json
from loopscope.metrics import auc, perfect_area, random_area, risk_curve
from loopscope.reports.kit.formats import DASH, number, percent
from loopscope.reports.kit.sheet import Sheet, in_markdown
from loopscope.shipped import MODELS
from loopscope.training.run_folder import RunFolder

TASKS = ("prefix-sums", "sudoku", "chess")
WITHIN = 1e-4
"""Relative residual within which a state counts as settled."""
LINE = 0.01
"""A larger residual, by which the page divides the sudoku answers further."""
SURE = 0.9
"""Confidence from which the page counts right answers in chess."""

Splits = Mapping[str, AnswerSignals]
"""The evidence of one task's splits, by name."""


def shipped_evidence() -> dict[str, Splits]:
    """Return the evidence of the shipped models by task and split."""
    stored = {task: read_json(RunFolder(MODELS / task).trust)["splits"] for task in TASKS}
    return {
        task: {name: signals_from(split["evidence"]) for name, split in splits.items()}
        for task, splits in stored.items()
    }


def _share(right: Bool[np.ndarray, "answers"]) -> str:
    return percent(float(right.mean())) if len(right) else DASH


def _count(right: Bool[np.ndarray, "answers"]) -> str:
    return f"{int(right.sum())} of {len(right)}"


def counts(evidence: Mapping[str, Splits]) -> Sheet:
    """Return how many answers are right, settled and arrived, by split."""
    rows = []
    for task, splits in evidence.items():
        for name, one in splits.items():
            settled = np.isfinite(one.settling)
            groups = (one.settled_right[settled], one.right[one.arrived])
            cells = [cell for group in groups for cell in (str(len(group)), _share(group))]
            rows.append([f"{task}, {name}", str(len(one)), _share(one.right), *cells])
    columns = ["task, split", "examples", "right %", "settled", "% of these right", "arrived", "% of these right"]
    return Sheet("Right, settled and arrived", columns, rows)


def _auc(signal: str, one: AnswerSignals, digits: int) -> str:
    known = one.right.any() and not one.right.all()
    return number(auc(-SIGNALS[signal](one), one.right) if known else None, digits)


def areas(evidence: Mapping[str, Splits]) -> Sheet:
    """Return the AUC and the risk area of each signal, by split."""
    rows = []
    for task, splits in evidence.items():
        for name, one in splits.items():
            risks = {signal: risk_curve(doubt(one), one.right).area for signal, doubt in SIGNALS.items()}
            cells = [f"{_auc(signal, one, 3)}, {number(risk, 3)}" for signal, risk in risks.items()]
            bounds = [bound(len(one), int((~one.right).sum())) for bound in (perfect_area, random_area)]
            rows.append([f"{task}, {name}", *cells, *(number(bound, 3) for bound in bounds)])
    return Sheet("AUC and risk area", ["task, split", *SIGNALS, "perfect", "random"], rows)


def sudoku_residuals(splits: Splits) -> Sheet:
    """Return how many sudoku answers are right on either side of two residuals at the last iteration."""
    every, easy, hard = joined(list(splits.values())), splits["singles"], splits["100+ guesses"]
    rows = [
        ["up to 1e-4", _count(every.right[every.residual <= WITHIN])],
        ["above 1e-4", _count(every.right[every.residual > WITHIN])],
        ["below 0.01", _count(every.right[every.residual < LINE])],
        ["above 0.01, puzzles that singles solve", _count(easy.right[easy.residual > LINE])],
        ["above 0.01, puzzles with 100 or more guesses", _count(hard.right[hard.residual > LINE])],
    ]
    return Sheet("Sudoku: residual at the last iteration", ["residual at the last iteration", "right"], rows)


def sudoku_confidence(splits: Splits) -> Sheet:
    """Return the largest confidence of a wrong sudoku answer and the smallest of a right one."""
    every = joined(list(splits.values()))
    confidence = 1 - every.unsure
    rows = [
        ["wrong", f"at most {percent(float(confidence[~every.right].max()))}%"],
        ["right", f"at least {percent(float(confidence[every.right].min()))}%"],
    ]
    return Sheet("Sudoku: softmax confidence", ["answers", "softmax confidence"], rows)


def chess_signals(splits: Splits) -> Sheet:
    """Return what arrival, softmax and settling time say about chess answers, by split."""
    rows = []
    for name, one in splits.items():
        sure = one.right[1 - one.unsure >= SURE]
        cells = [_auc(signal, one, 2) for signal in ("softmax", "settling time")]
        arrived = [f"{int(one.arrived.sum())} of {len(one)}", f"{_share(one.right[one.arrived])}%"]
        rows.append([name, *arrived, *cells, f"{_share(sure)}% ({_count(sure)})"])
    every = joined(list(splits.values()))
    total = [f"{int(every.arrived.sum())} of {len(every)}", f"{_share(every.right[every.arrived])}%"]
    columns = [
        "puzzles",
        "arrived",
        "right, of these",
        "AUC of the softmax",
        "AUC of the settling time",
        "right, at a confidence of at least 90%",
    ]
    return Sheet("Chess: signals", columns, [*rows, ["all", *total, "", "", ""]])


def trust_tables(evidence: Mapping[str, Splits]) -> list[Sheet]:
    """Return every table."""
    sudoku = evidence["sudoku"]
    return [
        counts(evidence),
        areas(evidence),
        sudoku_residuals(sudoku),
        sudoku_confidence(sudoku),
        chess_signals(evidence["chess"]),
    ]


if __name__ == "__main__":
    print("\n".join(map(in_markdown, trust_tables(shipped_evidence()))), end="")
