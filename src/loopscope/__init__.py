"""Loopscope: build, train and examine looped transformers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from loopscope.errors import LoopscopeError

if TYPE_CHECKING:
    from loopscope.adapters.candidates import find_loops
    from loopscope.adapters.capture import capture
    from loopscope.adapters.captured import CapturedLoop
    from loopscope.adapters.proof import Proof, prove
    from loopscope.adapters.registry import adapt
    from loopscope.evaluation import AccuracyCurve, EvaluationConfig, evaluate
    from loopscope.fixed_points import Anderson, Broyden, DampedIteration, PlainIteration, Solution, solve
    from loopscope.forecasts.forecast import forecast
    from loopscope.forecasts.leaps import Landing, leaps
    from loopscope.forecasts.result import Forecast
    from loopscope.kinds import Kind, freeze, with_history
    from loopscope.loop import FunctionLoop, Loop
    from loopscope.models import (
        FixedDepthTransformer,
        LoopedTransformer,
        LoopedTransformerConfig,
        build_model,
        load_model,
    )
    from loopscope.models.damping import damped
    from loopscope.reports.examination.page import write_comparison, write_examination
    from loopscope.stability.config import ExaminationConfig
    from loopscope.stability.early_exit.comparison import ExitComparison
    from loopscope.stability.early_exit.exits import exits
    from loopscope.stability.examination import Examination
    from loopscope.stability.examine import examine
    from loopscope.stability.nonautonomous.swaps import SwapAt, swap_at
    from loopscope.stability.precision.compare import precision
    from loopscope.stability.precision.result import PrecisionComparison
    from loopscope.stability.spectrum.eigenvalues import spectral_radius, top_eigenvalues
    from loopscope.stability.spectrum.exponents import Exponents, exponents
    from loopscope.stability.spectrum.tokens import TokenRadius, token_spectral_radius
    from loopscope.stability.verdict import Verdict
    from loopscope.tasks import Chess, PrefixSums, SmallSudoku, Split, Sudoku, Task
    from loopscope.training.watch.record import WatchRecord
    from loopscope.training.watch.watch import Watch

__version__ = "0.1.0"

__all__ = [
    "AccuracyCurve",
    "Anderson",
    "Broyden",
    "CapturedLoop",
    "Chess",
    "DampedIteration",
    "EvaluationConfig",
    "Examination",
    "ExaminationConfig",
    "ExitComparison",
    "Exponents",
    "FixedDepthTransformer",
    "Forecast",
    "FunctionLoop",
    "Kind",
    "Landing",
    "Loop",
    "LoopedTransformer",
    "LoopedTransformerConfig",
    "LoopscopeError",
    "PlainIteration",
    "PrecisionComparison",
    "PrefixSums",
    "Proof",
    "SmallSudoku",
    "Solution",
    "Split",
    "Sudoku",
    "SwapAt",
    "Task",
    "TokenRadius",
    "Verdict",
    "Watch",
    "WatchRecord",
    "adapt",
    "build_model",
    "capture",
    "damped",
    "evaluate",
    "examine",
    "exits",
    "exponents",
    "find_loops",
    "forecast",
    "freeze",
    "leaps",
    "load_model",
    "precision",
    "prove",
    "solve",
    "spectral_radius",
    "swap_at",
    "token_spectral_radius",
    "top_eigenvalues",
    "with_history",
    "write_comparison",
    "write_examination",
]

# Public names are imported on first use (PEP 562), so that `import loopscope` loads very little. A function must not share
# its name with a submodule: importing the submodule would replace the function as an attribute of the package.
_HOMES = {
    "loopscope.adapters.candidates": ("find_loops",),
    "loopscope.adapters.capture": ("capture",),
    "loopscope.adapters.captured": ("CapturedLoop",),
    "loopscope.adapters.proof": ("Proof", "prove"),
    "loopscope.adapters.registry": ("adapt",),
    "loopscope.stability.early_exit.comparison": ("ExitComparison",),
    "loopscope.stability.early_exit.exits": ("exits",),
    "loopscope.evaluation": ("AccuracyCurve", "EvaluationConfig", "evaluate"),
    "loopscope.fixed_points": ("Anderson", "Broyden", "DampedIteration", "PlainIteration", "Solution", "solve"),
    "loopscope.forecasts.forecast": ("forecast",),
    "loopscope.forecasts.leaps": ("Landing", "leaps"),
    "loopscope.forecasts.result": ("Forecast",),
    "loopscope.kinds": ("Kind", "freeze", "with_history"),
    "loopscope.loop": ("FunctionLoop", "Loop"),
    "loopscope.models": (
        "FixedDepthTransformer",
        "LoopedTransformer",
        "LoopedTransformerConfig",
        "build_model",
        "load_model",
    ),
    "loopscope.models.damping": ("damped",),
    "loopscope.reports.examination.page": ("write_comparison", "write_examination"),
    "loopscope.stability.config": ("ExaminationConfig",),
    "loopscope.stability.examination": ("Examination",),
    "loopscope.stability.examine": ("examine",),
    "loopscope.stability.nonautonomous.swaps": ("SwapAt", "swap_at"),
    "loopscope.stability.precision.compare": ("precision",),
    "loopscope.stability.precision.result": ("PrecisionComparison",),
    "loopscope.stability.spectrum.eigenvalues": ("spectral_radius", "top_eigenvalues"),
    "loopscope.stability.spectrum.exponents": ("Exponents", "exponents"),
    "loopscope.stability.spectrum.tokens": ("TokenRadius", "token_spectral_radius"),
    "loopscope.stability.verdict": ("Verdict",),
    "loopscope.training.watch.record": ("WatchRecord",),
    "loopscope.training.watch.watch": ("Watch",),
    "loopscope.tasks": ("Chess", "PrefixSums", "SmallSudoku", "Split", "Sudoku", "Task"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
