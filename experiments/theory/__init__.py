"""The theory in numbers: the scalar model of recall, and maps of where each axis holds (docs/concepts/theory.md)."""

from experiments.theory.maps import Grid, SpectralMap, spectral_map, spectral_maps
from experiments.theory.scalar import REGIONS, SIGMAS, Balance, ScalarRegion, balance, projected_balance

__all__ = [
    "REGIONS",
    "SIGMAS",
    "Balance",
    "Grid",
    "ScalarRegion",
    "SpectralMap",
    "balance",
    "projected_balance",
    "spectral_map",
    "spectral_maps",
]
