"""Put a trained, evaluated and examined run into the package, with a model card.

    python -m experiments.shipping runs/chess "loopscope study configs/cpu/chess.yaml" --licence "Lichess's puzzles, CC0"

``loopscope solve chess`` then uses it. Ship only models that were trained on public data whose licence allows it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from loopscope.files import read_json, write_text
from loopscope.reports.kit.formats import percent
from loopscope.shipped import MODELS
from loopscope.stability.old_examinations import VERDICTS
from loopscope.training.run_folder import RunFolder

SHOWN = (1, 8, 16, 30, 60, 120, 250, 500)
LARGEST = 2_000_000
"""Largest size of the weights, in bytes."""


def accuracy_table(splits: dict[str, Any]) -> list[str]:
    """Return accuracy after some iterations, and accuracy of the problems that settled, as the lines of a table."""
    longest = max(len(curve["answer_accuracy"]) for curve in splits.values())
    shown = [i for i in SHOWN if i <= longest]
    lines = [
        f"| split | problems | {' | '.join(map(str, shown))} | settled | right of these | right of the others |",
        "|---" * (len(shown) + 5) + "|",
    ]
    for name, curve in splits.items():
        accuracy = [percent(curve["answer_accuracy"][i - 1]) for i in shown]
        settled, count = curve["settled"], curve["examples"]
        right, others = settled["right"], count - settled["examples"]
        other_right = round(curve["last"] * count) - right
        cells = [
            str(settled["examples"]),
            percent(right / settled["examples"]) if settled["examples"] else "–",
            percent(other_right / others) if others else "–",
        ]
        lines.append(f"| {name} | {count} | {' | '.join(accuracy + cells)} |")
    return lines


def card(run: RunFolder, command: str, licence: str) -> str:
    """Return the model card of a run."""
    settings, examination = run.settings(), read_json(run.examination)
    evaluation = read_json(run.evaluation)
    splits, evaluated = evaluation["splits"], evaluation["settings"]["evaluation"]
    again = f"loopscope evaluate RUN --examples {evaluated['examples']}"
    if evaluated.get("until_settled"):
        again += " --until-settled"
    config, training = settings.model, settings.training
    other = [
        f'By the rule "{rule}", {name}: {percent(values[-1])}% at the last iteration.'
        for name, curve in splits.items()
        for rule, values in curve.get("other_rules", {}).items()
    ]
    verdict = VERDICTS.get(examination["verdict"], examination["verdict"])
    axes = [f"| {axis['name']} | {axis['status']} | {axis['reason']} |" for axis in examination["axes"]]
    return "\n".join(
        [
            f"# {settings.task}: the shipped model",
            "",
            f"One block of width {config.width} with {config.recall} recall and {config.norm} normalization, trained for "
            f"{training.steps} steps of {training.batch_size} with at most {training.max_iterations} iterations, seed "
            f"{training.seed}. `config.yaml` holds every setting.",
            "",
            f"Data: {licence}.",
            "",
            f"    {command}",
            "",
            "## Accuracy",
            "",
            "Percentage of whole answers that are right after each number of iterations, on held-out problems of the data "
            "above; on other data, accuracy can differ widely. Settled: relative residual within 1e-4 at the last iteration. "
            f"Command: `{again}`.",
            "",
            *accuracy_table(splits),
            *(["", *other] if other else []),
            "",
            "## Examination",
            "",
            f"{verdict}{' (provisional)' if examination['provisional'] else ''}: {examination['advice']}",
            "",
            "| axis | status | reason |",
            "|---|---|---|",
            *axes,
            "",
            f"Effort {examination['settings']['effort']}, {examination['settings']['inputs']} inputs of the easy split. "
            f"Command: `loopscope examine RUN --examination.effort {examination['settings']['effort']}`.",
            "",
        ]
    )


def ship(run: RunFolder, command: str, licence: str, target: Path) -> Path:
    """Copy the files that answering needs, and write the card; return the folder."""
    folder = target / run.settings().task
    weights = run.model / "model.safetensors"
    if weights.stat().st_size > LARGEST:
        raise SystemExit(f"{weights} takes {weights.stat().st_size} bytes, expected at most {LARGEST}")
    if folder.exists():
        shutil.rmtree(folder)
    (folder / "model").mkdir(parents=True)
    measured = [run.trust] if run.trust.is_file() else []
    for part in (run.config, run.evaluation, run.examination, *measured):
        shutil.copyfile(part, folder / part.name)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(run.model / name, folder / "model" / name)
    write_text(folder / "card.md", card(run, command, licence))
    return folder


def main() -> None:
    """Ship the run that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.shipping", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("command", help="the command that made the run")
    parser.add_argument("--licence", required=True, help="the data and their licence")
    options = parser.parse_args()
    print(ship(RunFolder(options.run), options.command, options.licence, MODELS))


if __name__ == "__main__":
    main()
