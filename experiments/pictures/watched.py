"""Train a small run that will lose its answers, watch it, and draw the axes over training steps (half a minute of one core):

python -m experiments.pictures.watched
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loopscope.files import numbered_lines, write_bytes
from loopscope.reports.kit.charts import draw_panels, png
from loopscope.reports.training.figures import History, history_panels
from loopscope.training.run_folder import open_run
from loopscope.training.settings import settings_from
from loopscope.training.trainer import train
from loopscope.training.watch.of_run import watch_of_run, watched_until_now

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "watched-run.png"
SETTINGS: dict[str, Any] = {
    "task": "prefix-sums",
    "data": {"train_bits": 8, "test_bits": [8], "strings": 200},
    "model": {"width": 32, "heads": 2, "norm": "pre", "recall": "none"},
    "training": {
        "steps": 800,
        "batch_size": 32,
        "learning_rate": 0.003,
        "max_iterations": 8,
        "compile": False,
        "precision": "float32",
    },
}
"""A model without recall, with a normalization that does not bound its state."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, watch and draw; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.pictures.watched", description=__doc__)
    parser.add_argument("--steps", type=int, default=SETTINGS["training"]["steps"], help="steps of training")
    parser.add_argument("--every", type=int, default=40, help="steps between measurements")
    parser.add_argument("--out", type=Path, default=PICTURE, help="the PNG file")
    options = parser.parse_args(arguments)
    settings = settings_from({**SETTINGS, "training": {**SETTINGS["training"], "steps": options.steps}})
    with TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run", settings, resume=False)
        train(
            settings,
            run,
            make_watch=lambda model: watch_of_run(settings, run, model, lambda record: None, options.every),
        )
        history = History([row for _, row in numbered_lines(run.metrics)], watched_until_now(run))
    write_bytes(options.out, png(draw_panels(history_panels(history), columns=1)[0]))
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
