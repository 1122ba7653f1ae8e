"""Spectral radius of a looped transformer's Jacobian: Loopscope and other tools, in one run, on the same states.

    python benchmarks/spectrum.py                                     # untrained blocks, 81 tokens x 256, 32 examples
    python benchmarks/spectrum.py --model runs/sudoku/model --json    # a trained one, as JSON

There is a row for each of these methods:

- ours, all examples at once;
- torchdeq's power method, all examples at once, 100 products;
- curvlinops' Jacobian operator with scipy.sparse.linalg.eigs, one example after another, at several tolerances;
- dense torch.func.jacrev with numpy's eigvals, if the matrix fits into memory.

The reference is the dense method if it fits, else SciPy at the tightest tolerance. Speed is relative to SciPy at the loosest
tolerance at which it is also within 1% for every example. Each method is timed once. This needs
``pip install loopscope[bench]``; a missing tool is named in its row.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from output import print_results
from setting import setting
from timing import clock_time
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from loopscope import subjects
from loopscope.jacobian import step_jacobian
from loopscope.loop import iterate
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.stability.spectrum.eigenvalues import spectral_radius
from loopscope.trees import select

DENSE_LIMIT = 2000
SCIPY_TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)
SCIPY_RESTARTS = 400
SIZES = {"small": (32, 4), "large": (256, 9)}
"""Width and side of the grid of the untrained blocks."""


@dataclass(frozen=True)
class Row:
    """One method on one case: seconds per example, and errors relative to the reference if there is one."""

    case: str
    method: str
    seconds_per_example: float | None
    speedup_over_scipy: float | None
    worst_error: float | None
    within_one_percent: str | None
    note: str


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "case": lambda row: row.case,
    "method": lambda row: row.method,
    "s/example": lambda row: number(row.seconds_per_example),
    "x scipy": lambda row: number(row.speedup_over_scipy),
    "worst error": lambda row: number(row.worst_error),
    "within 1%": lambda row: row.within_one_percent or "-",
    "note": lambda row: row.note,
}


@dataclass(frozen=True)
class Case:
    """A model at some of its states."""

    name: str
    model: LoopedTransformer
    state: Tensor
    recalled: dict[str, Tensor]

    @property
    def examples(self) -> int:
        """The number of examples."""
        return self.state.shape[0]

    @property
    def size(self) -> int:
        """The count of numbers in one example's state."""
        return self.state[0].numel()


def ours(case: Case) -> tuple[np.ndarray, str]:
    found = spectral_radius(case.model, case.state, case.recalled)
    products = found.products.double().mean().item()
    covered = int(found.converged.sum())
    note = f"{products:.0f} products per example, {covered}/{case.examples} converged, error <= {found.error.max():.1e}"
    return found.radius.cpu().numpy(), note


def torchdeq_power_method(case: Case) -> tuple[np.ndarray, str]:
    from torchdeq.loss import power_method

    state = case.state.detach().clone().requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, radius = power_method(case.model.step(state, case.recalled), state, n_iters=100)
    return radius.detach().double().cpu().numpy(), "real Rayleigh quotient, 100 products"


class OneStep(torch.nn.Module):
    """A step in the form that curvlinops needs: the state is the parameter, and the input is not used."""

    def __init__(self, model: LoopedTransformer, state: Tensor, recalled: dict[str, Tensor]) -> None:
        super().__init__()
        self.state = torch.nn.Parameter(state.clone())
        self.recalled = recalled
        self.run = [model.step]

    def forward(self, unused: Tensor) -> Tensor:
        """Return the next state, flat."""
        return self.run[0](self.state, self.recalled).flatten(1)


def curvlinops_scipy(case: Case, tolerance: float) -> tuple[np.ndarray, str]:
    from curvlinops import JacobianLinearOperator
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

    radii, products = [], 0
    for row in range(case.examples):
        rows = slice(row, row + 1)
        module = OneStep(case.model, case.state[rows], select(case.recalled, rows))
        data = [(case.state.new_zeros(1, 1), case.state.new_zeros(1, case.size))]
        operator = JacobianLinearOperator(module, [module.state], data, check_deterministic=False).to_scipy()

        def product(vector: np.ndarray, operator: LinearOperator = operator) -> np.ndarray:
            nonlocal products
            products += 1
            return operator @ vector.astype(np.float32).ravel()

        # curvlinops uses forward mode, for which fused attention has no rule.
        with sdpa_kernel(SDPBackend.MATH):
            start = np.random.default_rng(row).standard_normal(case.size).astype(np.float32)
            counted = LinearOperator(operator.shape, matvec=product, dtype=np.float32)
            try:
                values = eigs(
                    counted,
                    k=1,
                    which="LM",
                    tol=tolerance,
                    v0=start,
                    maxiter=SCIPY_RESTARTS,
                    return_eigenvectors=False,
                )
            except ArpackNoConvergence as stopped:
                values = stopped.eigenvalues
        radii.append(np.abs(values).max() if len(values) else np.nan)
    lost = int(np.isnan(radii).sum())
    note = f"ARPACK, {products / case.examples:.0f} products per example"
    return np.array(radii), note + (f", {lost} not converged after {SCIPY_RESTARTS} restarts" if lost else "")


def dense(case: Case) -> tuple[np.ndarray, str]:
    jacobian = step_jacobian(case.model, case.state, case.recalled)
    radii = []
    for row in range(case.examples):
        one = jacobian.select(slice(row, row + 1))
        # Fused attention has no rule for many rows at once; plain attention does.
        with sdpa_kernel(SDPBackend.MATH):
            matrix = torch.func.jacrev(lambda point, one=one: one.function(point[None], one.context)[0])(one.point[0])
        radii.append(np.abs(np.linalg.eigvals(matrix.detach().double().cpu().numpy())).max())
    return np.array(radii), f"n = {case.size}"


def timed(measure: Callable[[], tuple[np.ndarray, str]]) -> tuple[float | None, np.ndarray | None, str]:
    start = clock_time()
    try:
        radii, note = measure()
    except ImportError as missing:
        return None, None, f"not installed here: {missing.name}; pip install loopscope[bench]"
    return clock_time() - start, radii, note


def compare(case: Case) -> list[Row]:
    measured = {
        "ours": timed(lambda: ours(case)),
        "torchdeq power_method": timed(lambda: torchdeq_power_method(case)),
    }
    scipy_rows = {f"curvlinops + scipy, {tolerance:.0e}": tolerance for tolerance in SCIPY_TOLERANCES}
    for method, tolerance in scipy_rows.items():
        measured[method] = timed(lambda tolerance=tolerance: curvlinops_scipy(case, tolerance))
    if case.size <= DENSE_LIMIT:
        measured["dense jacrev + eigvals"] = timed(lambda: dense(case))
    reference = list(measured.values())[-1][1]
    errors = {method: relative_errors(radii, reference) for method, (_, radii, _) in measured.items()}
    close = [method for method in scipy_rows if errors[method] is not None and (errors[method] <= 0.01).all()]
    rival = measured[close[0]][0] if close else None
    rows = []
    for method, (seconds, radii, note) in measured.items():
        error = errors[method]
        known = None if error is None else error[~np.isnan(error)]
        rows.append(
            Row(
                case=case.name,
                method=method,
                seconds_per_example=None if seconds is None else seconds / case.examples,
                speedup_over_scipy=None if seconds is None or rival is None else rival / seconds,
                worst_error=None if known is None or not known.size else float(known.max()),
                within_one_percent=None if known is None else f"{int((known <= 0.01).sum())}/{case.examples}",
                note=note + (" (the reference)" if radii is reference and radii is not None else ""),
            )
        )
    return rows


def relative_errors(radii: np.ndarray | None, reference: np.ndarray | None) -> np.ndarray | None:
    return None if radii is None or reference is None else np.abs(radii - reference) / reference


def untrained(recall: str, norm: str, width: int, side: int) -> LoopedTransformer:
    config = LoopedTransformerConfig(
        recall=recall,  # type: ignore[arg-type]
        norm=norm,  # type: ignore[arg-type]
        width=width,
        heads=max(1, width // 32),
        inputs=10,
        outputs=9,
        grid=(side, side),
        attention="full",
    )
    torch.manual_seed(0)
    return LoopedTransformer(config).eval()


def make_case(name: str, model: LoopedTransformer, examples: int, iterations: int) -> Case:
    config = model.config
    assert config.grid is not None
    assert config.inputs is not None
    generator = torch.Generator().manual_seed(0)
    tokens = int(np.prod(config.grid)) or 32  # a line of any length
    digits = torch.randint(0, config.inputs, (examples, tokens), generator=generator)
    inputs = torch.nn.functional.one_hot(digits, config.inputs).float().to(subjects.device())
    model.to(subjects.device())
    with torch.no_grad():
        recalled = model.encode(inputs)
        state = iterate(model, model.start(recalled), recalled, iterations)
    return Case(name, model, state, recalled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=30, help="number of steps before J is taken")
    parser.add_argument("--recall", default="internal", help="recall of the untrained blocks")
    parser.add_argument("--norm", default="outer", help="normalization of the untrained blocks")
    parser.add_argument("--case", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--model", help="folder of a trained looped transformer, instead of the large untrained one")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    rows: list[Row] = []
    for size in args.case:
        if size == "large" and args.model:
            name, model = args.model, LoopedTransformer.from_pretrained(args.model).eval()
        else:
            width, side = SIZES[size]
            name = f"untrained {args.recall} {args.norm}, {side * side} x {width}"
            model = untrained(args.recall, args.norm, width, side)
        rows += compare(make_case(name, model, args.examples, args.iterations))
    print_results(rows, COLUMNS, setting(examples=args.examples, iterations=args.iterations), args.json)


if __name__ == "__main__":
    main()
