"""Measurements of a trained model beyond its accuracy and examination, in files beside the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.prediction.signals import Signal
from loopscope.files import make_folder, read_json_if_any, write_json
from loopscope.stability import Examination, ExaminationConfig


@dataclass(frozen=True)
class Measurements:
    """The experiment's files of one run.

    Args:
        run: folder of the run.
    """

    run: Path

    @property
    def folder(self) -> Path:
        """Folder of the files."""
        return self.run / "prediction"

    @property
    def options_file(self) -> Path:
        """The options of the examination whose inputs were measured."""
        return self.folder / "options.json"

    @property
    def prediction_mode_file(self) -> Path:
        """The examination in prediction mode: no orbit goes beyond the iterations of training."""
        return self.folder / "prediction_mode.json"

    @property
    def signals_file(self) -> Path:
        """The signals, each with its value and seconds."""
        return self.folder / "signals.json"

    def begin(self, config: ExaminationConfig) -> None:
        """Make the folder, and remove measurements that were taken with other options."""
        make_folder(self.folder)
        if read_json_if_any(self.options_file, dict[str, Any]) == asdict(config):
            return
        for file in (self.prediction_mode_file, self.signals_file):
            file.unlink(missing_ok=True)
        write_json(self.options_file, asdict(config))

    def prediction_mode(self) -> dict[str, Any] | None:
        """Return the examination in prediction mode as plain values, or None if there is none.

        Raises:
            LoopscopeError: the file is damaged.
        """
        file = self.prediction_mode_file
        return Examination.load(file).to_dict() if file.exists() else None

    def signals(self) -> dict[str, Any] | None:
        """Return the signals as plain values, or None if they were not measured.

        Raises:
            LoopscopeError: the file is damaged.
        """
        found: dict[str, Any] | None = read_json_if_any(self.signals_file, dict[str, Signal])
        return found

    def write_signals(self, signals: dict[str, Signal]) -> None:
        """Write the signals."""
        write_json(self.signals_file, {name: asdict(signal) for name, signal in signals.items()})
