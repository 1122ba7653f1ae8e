"""Make the pictures of docs/theory.md: python docs/theory_pictures.py (about a minute on one core)."""

from pathlib import Path

import torch

from experiments.theory import spectral_maps
from experiments.theory.figures import maps_figure, scalar_figure
from loopscope.reports.charts import png

HERE = Path(__file__).parent / "pictures"

if __name__ == "__main__":
    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    for name, figure in (("scalar", scalar_figure()), ("maps", maps_figure(list(spectral_maps())))):
        (HERE / f"theory-{name}.png").write_bytes(png(figure))
