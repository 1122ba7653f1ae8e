"""Loopscope: build, train and examine looped transformers."""

from loopscope.errors import LoopscopeError
from loopscope.evaluation import AccuracyCurve, EvaluationConfig, evaluate
from loopscope.fixed_points import Anderson, Broyden, DampedIteration, PlainIteration, Solution, solve
from loopscope.forecasts import Forecast, Landing, forecast, leaps
from loopscope.loop import FunctionLoop, Loop
from loopscope.models import FixedDepthTransformer, LoopedTransformer, LoopedTransformerConfig, build_model, load_model
from loopscope.reports import write_comparison, write_examination
from loopscope.stability import (
    Examination,
    ExaminationConfig,
    Verdict,
    examine,
    spectral_radius,
    top_eigenvalues,
)
from loopscope.tasks import PrefixSums, Split, Task

__version__ = "0.1.0"

__all__ = [
    "AccuracyCurve",
    "Anderson",
    "Broyden",
    "DampedIteration",
    "EvaluationConfig",
    "Examination",
    "ExaminationConfig",
    "FixedDepthTransformer",
    "Forecast",
    "FunctionLoop",
    "Landing",
    "Loop",
    "LoopedTransformer",
    "LoopedTransformerConfig",
    "LoopscopeError",
    "PlainIteration",
    "PrefixSums",
    "Solution",
    "Split",
    "Task",
    "Verdict",
    "build_model",
    "evaluate",
    "examine",
    "forecast",
    "leaps",
    "load_model",
    "solve",
    "spectral_radius",
    "top_eigenvalues",
    "write_comparison",
    "write_examination",
]
