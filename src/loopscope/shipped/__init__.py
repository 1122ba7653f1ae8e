"""Models and data that come with the package."""

from pathlib import Path

MODELS = Path(__file__).parent / "models"
"""One run folder per task: config, weights, evaluation, examination and a card."""

WITHOUT_RECALL = Path(__file__).parent / "without_recall"
"""Small models without recall, by task, beside which the lab shows those with recall."""

DATA = Path(__file__).parent / "data"
"""Small sets of puzzles that this project made."""
