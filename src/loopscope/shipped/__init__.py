"""Models and data that come with the package."""

from pathlib import Path

MODELS = Path(__file__).parent / "models"
"""One run folder per task: config, weights, evaluation, examination and a card."""

DATA = Path(__file__).parent / "data"
"""Small sets of puzzles that this project made."""
