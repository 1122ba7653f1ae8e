"""The stability framework: reachability, input-dependence, geometry, and the verdict they add up to."""

from loopscope.stability.config import ExaminationConfig
from loopscope.stability.examination import Examination
from loopscope.stability.examine import examine
from loopscope.stability.spectrum.eigenvalues import spectral_radius, top_eigenvalues
from loopscope.stability.verdict import THRESHOLDS, Axis, Status, Verdict

__all__ = [
    "THRESHOLDS",
    "Axis",
    "Examination",
    "ExaminationConfig",
    "Status",
    "Verdict",
    "examine",
    "spectral_radius",
    "top_eigenvalues",
]
