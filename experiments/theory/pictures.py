"""Draw the pictures of docs/concepts/theory.md: python -m experiments.theory.pictures (about a minute on one core)."""

from pathlib import Path

import torch

from experiments.theory import spectral_maps
from experiments.theory.figures import maps_figure, scalar_figure
from loopscope.reports.kit.charts import png

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, figure in (("scalar", scalar_figure()), ("maps", maps_figure(list(spectral_maps())))):
        (PICTURES / f"theory-{name}.png").write_bytes(png(figure))
