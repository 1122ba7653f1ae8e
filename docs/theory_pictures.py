"""Make the pictures of docs/concepts/theory.md: python docs/theory_pictures.py (about a minute on one core)."""

from pathlib import Path

import torch

from loopscope.reports.kit.charts import png
from loopscope.reports.theory_figures import maps_figure, scalar_figure
from loopscope.theory import spectral_maps

HERE = Path(__file__).parent / "pictures"

if __name__ == "__main__":
    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    for name, figure in (("scalar", scalar_figure()), ("maps", maps_figure(list(spectral_maps())))):
        (HERE / f"theory-{name}.png").write_bytes(png(figure))
