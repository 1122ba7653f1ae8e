"""Examine a loop: every quantity of the framework, each axis judged, one verdict."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.checks import check_independent, check_is_loop, check_mask, check_read, check_start, check_step
from loopscope.contexts import eval_mode, random_state_kept, without_autocast
from loopscope.errors import LoopscopeError, check_count
from loopscope.fixed_points.residual import state_dtype
from loopscope.jacobian import THROUGH_ENCODE
from loopscope.loop import Loop, is_time_dependent, mask_of, outer_gain_of, readout
from loopscope.stability.advice import advise
from loopscope.stability.axes import judge_axes, left_at, radii_at_fixed_points
from loopscope.stability.dependence.distinct import distinct_fixed_points
from loopscope.stability.dependence.sensitivity import finite_input_change, input_sensitivity, start_sensitivity
from loopscope.stability.dependence.swap_test import Outcome, Swap, SwapTest, swap_test
from loopscope.stability.dependence.variance import variance_share
from loopscope.stability.distances import in_pairs, why_alone
from loopscope.stability.examination import QUANTILES, Curves, Effort, Examination, ExaminationConfig, plain
from loopscope.stability.geometry import agreement, gradient_norms, radial_mode
from loopscope.stability.orbits.arrival import follow
from loopscope.stability.orbits.basin import basin, fraction
from loopscope.stability.orbits.classify import Orbit, Orbits, classify
from loopscope.stability.orbits.normalized import normalized
from loopscope.stability.orbits.portrait import portrait
from loopscope.stability.orbits.trace import Answers, Trajectory, quantiles, trace
from loopscope.stability.spectrum.contradiction import contradicted
from loopscope.stability.spectrum.eigenvalues import spectral_radius, top_eigenvalues
from loopscope.stability.spectrum.singular_values import lipschitz, power_norms, resolvent_norm
from loopscope.stability.starts import first_state
from loopscope.stability.targets import Targets, check_targets, rule_of
from loopscope.stability.verdict import Axis, is_provisional, verdict
from loopscope.trees import Tree, batch_size, device_of, flatten, floating_leaves, norms, select


@dataclass(frozen=True)
class _Budget:
    """How much an effort spends.

    Args:
        orbits: inputs whose orbits are followed.
        swapped: inputs that take part in swaps, counts and gradients.
        jacobians: inputs whose Jacobian, basin and variance are looked at.
        radii: relative radii of the basin's perturbations.
        starts: random starts per input for the share of the variance; 0 leaves it out.
        window: further iterations that tell orbits apart.
        eigenvalues: eigenvalues of the first input's Jacobian beyond the dominant ones; 0 leaves them out.
        solves: whether the sensitivity, the resolvent and transient growth are taken.
        tolerance: relative, on singular values.
    """

    orbits: int
    swapped: int
    jacobians: int
    radii: tuple[float, ...]
    starts: int
    window: int
    eigenvalues: int
    solves: bool
    tolerance: float


BUDGETS: dict[str, _Budget] = {
    "quick": _Budget(12, 8, 2, (0.1,), 0, 64, 0, False, 0.1),
    "standard": _Budget(64, 16, 8, (0.01, 0.03, 0.1, 0.3, 1.0), 4, 256, 8, True, 0.05),
    "thorough": _Budget(256, 64, 32, (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), 8, 1024, 16, True, 0.01),
}
"""What each effort spends."""


SHOWN_TOKENS = 8
"""Examples whose tokens' settling is kept for the page."""


SPARE = 2.0
"""Secondary orbits may take this many times what the slowest of the primary ones took to arrive."""


FEWEST = 50
"""Iterations that a secondary orbit may always take, within the budget."""


def examine(
    loop: Loop,
    inputs: Tree,
    targets: Targets | None = None,
    trained_iterations: int | None = None,
    effort: Effort = "standard",
    seed: int = 0,
    *,
    iterations: int = 500,
    tolerance: float = 1e-4,
    prediction: bool = False,
    time_limit: float | None = None,
    on_part: Callable[[str], None] | None = None,
    answers: Answers | None = None,
) -> Examination:
    """Examine a looped model on a batch of inputs.

    A module's mode, its gradients and the global random state are left as they were. Work is in the state's own
    precision (float32 or float64), without autocast.

    Args:
        loop: any loop: a model of this package, or a ``FunctionLoop`` around one's own.
        inputs: what ``loop.encode`` takes, batch first; at least two inputs for the swap test.
        targets: class indices of the shape of the logits without their last dimension (0 and 1 where that has a single
            logit, by its sign), padding being ignored, or a function (logits, rows) -> which of these rows are right.
            Without them the best verdict is "keeps its answer".
        trained_iterations: most iterations in training; needed for prediction, shown in the report otherwise.
        effort: quick, standard or thorough.
        seed: of every random start and direction.
        iterations: budget of every orbit.
        tolerance: relative residual within which a state may count as arrived.
        prediction: forecast: no orbit goes beyond ``trained_iterations``, swapped and perturbed ones included.
        time_limit: seconds after which orbits end where they are and no further part is begun; what is left out is
            named in ``unknown``.
        on_part: called with the name of each part as it begins.
        answers: what a readout predicts, one row per input, to tell whether an answer stands. If left out, each largest
            logit's place, or a single one's sign.

    Raises:
        LoopscopeError: an option out of range, targets of another shape, no loop, a random step, a step that
            writes over its state or changes its structure or shapes, a mask that fits no part of the state, or a readout
            without outputs.
    """
    check_is_loop(loop)
    config = ExaminationConfig(effort, batch_size(inputs), iterations, tolerance, prediction, seed, time_limit)
    if prediction and trained_iterations is None:
        raise LoopscopeError("prediction needs trained_iterations: the most iterations that training ran")
    if trained_iterations is not None:
        check_count(trained_iterations=trained_iterations)
    check_targets(targets, config.examples)
    with eval_mode(loop), without_autocast(), random_state_kept(device_of(inputs)):
        return _Examiner(loop, inputs, targets, trained_iterations, config, on_part, answers).examine()


def _swap_counts(swap: Swap) -> dict[str, int]:
    counts = Counter(swap.outcomes)
    return {outcome.value: counts[outcome] for outcome in Outcome}


@dataclass
class _Examiner:
    """One examination on its way: what the parts share, and what they could not do."""

    loop: Loop
    inputs: Tree
    targets: Targets | None
    trained: int | None
    config: ExaminationConfig
    on_part: Callable[[str], None] | None
    answers: Answers | None
    unknown: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def late(self) -> bool:
        """Return whether the time limit has passed."""
        return self.config.time_limit is not None and time.perf_counter() - self.began > self.config.time_limit

    def _note_cut(self, trajectory: Trajectory) -> None:
        """Keep that orbits ended where they were, once the time limit has passed."""
        if self.late():
            self.unknown["orbits"] = f"{self._over} after {int(trajectory.iterations.max())} iterations"

    def part(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a part; where it cannot be done, or the time is over, keep the reason and go on."""
        if self.late():
            self.unknown[name] = self._over
            return {}
        if self.on_part is not None:
            self.on_part(name)
        began = time.perf_counter()
        try:
            return plain(work())
        except (LoopscopeError, RuntimeError) as error:
            self.unknown[name] = " ".join(str(error).split())[:300]
            return {}
        finally:
            self.seconds[name] = round(time.perf_counter() - began, 3)

    @property
    def budget(self) -> _Budget:
        return BUDGETS[self.config.effort]

    @property
    def iterations(self) -> int:
        return self.trained if self.config.prediction and self.trained else self.config.iterations

    @property
    def _over(self) -> str:
        return f"the time limit of {self.config.time_limit:g} s had passed"

    def examine(self) -> Examination:
        began = self.began
        rows = slice(0, self.budget.orbits)
        self.inputs = select(self.inputs, rows)
        targets = self.targets[rows] if isinstance(self.targets, Tensor) else self.targets
        if self.on_part is not None:
            self.on_part("orbits")
        with torch.no_grad():
            recalled = self.loop.encode(self.inputs)
            start = first_state(self.loop, recalled, self.config.seed)
            check_start(start, batch_size(self.inputs))
            check_read(readout(self.loop, start, recalled), batch_size(self.inputs))
        state_dtype(start)
        check_mask(self.loop, start, recalled)
        check_step(self.loop, start, recalled)
        with torch.no_grad():
            first = self.loop.step(start, recalled)
            check_independent(self.loop, first, self.loop.step(first, recalled), recalled)
        trajectory = trace(
            self.loop,
            recalled,
            iterations=self.iterations,
            start=start,
            tolerance=self.config.tolerance,
            correct=rule_of(targets, mask_of(self.loop, recalled)),
            stop=self.late,
            answers=self.answers,
        )
        self._note_cut(trajectory)
        window = 0 if self.config.prediction or self.late() else self.budget.window
        orbits = classify(
            self.loop, recalled, trajectory, window=window, at_most=self.budget.jacobians, seed=self.config.seed
        )
        self.seconds["orbits"] = round(time.perf_counter() - began, 3)

        parts = self._axes_parts(recalled, start, trajectory)
        reachability = _reachability(trajectory, orbits)
        accuracy = None if trajectory.solved is None else float(trajectory.solved[-1].double().mean())
        axes = judge_axes(trajectory, orbits, parts)
        normalized_axes = self._of_directions(trajectory, orbits)
        first = int(trajectory.arrived.int().argmax())
        picture = self.part(
            "portrait", lambda: portrait(self.loop, recalled, start, first, self.iterations, self.config)
        )
        decided = verdict(*axes, accuracy)
        self.seconds["total"] = round(time.perf_counter() - began, 3)
        return Examination(
            verdict=decided,
            provisional=is_provisional(*axes, easy_accuracy=accuracy),
            advice=advise(
                decided,
                axes,
                reachability,
                self.trained,
                accuracy,
                self.config.prediction,
                self.unknown,
            ),
            axes=axes,
            normalized_axes=normalized_axes,
            settings=self._settings(trajectory, accuracy),
            curves=_curves(trajectory),
            reachability=reachability,
            spectrum=parts["spectrum"],
            basin=parts["basin"],
            input_dependence=parts["input-dependence"],
            geometry=parts["geometry"],
            tokens=trajectory.token_settled[:SHOWN_TOKENS].tolist(),
            portrait=picture,
            unknown=self.unknown,
            seconds=self.seconds,
        )

    def _settings(self, trajectory: Trajectory, accuracy: float | None) -> dict[str, Any]:
        budget = self.budget
        return {
            "effort": self.config.effort,
            "inputs": len(trajectory.arrived),
            "given": self.config.examples,
            "swapped": min(budget.swapped, len(trajectory.arrived)),
            "jacobians": min(budget.jacobians, len(trajectory.arrived)),
            "iterations": self.iterations,
            "tolerance": self.config.tolerance,
            "prediction": self.config.prediction,
            "trained_iterations": self.trained,
            "seed": self.config.seed,
            "dtype": str(floating_leaves(trajectory.state)[0].dtype).removeprefix("torch."),
            "numbers_per_state": flatten(select(trajectory.state, slice(0, 1))).shape[1],
            "accuracy": accuracy,
        }

    def _axes_parts(self, recalled: Tree, start: Tree, trajectory: Trajectory) -> dict[str, dict[str, Any]]:
        """Return what axes 2 and 3, the spectrum and the basin need beyond the orbits."""
        # Arrived examples first: what is taken at a fixed point should be one.
        arrived, others = (torch.nonzero(chosen).squeeze(1) for chosen in (trajectory.arrived, ~trajectory.arrived))
        order = torch.cat([in_pairs(arrived, recalled, mask_of(self.loop, recalled)), others])
        near, far = order[: self.budget.jacobians], order[: self.budget.swapped]
        limit = _secondary_budget(trajectory, self.iterations)
        if is_time_dependent(self.loop, start, recalled):
            reason = "the state carries a counter: only residuals and orbits are defined for such a loop"
            names = ("input-dependence", "basin", "spectrum", "geometry")
            self.unknown.update(dict.fromkeys(names, reason))
            return {name: {} for name in names}
        dependence = self._input_dependence(recalled, start, trajectory, far, near, limit)
        found = self.part("basin", lambda: self._basin(recalled, trajectory, near, limit))
        spectrum = self.part("spectrum", lambda: self._spectrum(recalled, trajectory, near))
        return {
            "input-dependence": dependence,
            "basin": found,
            "spectrum": spectrum,
            "geometry": self._geometry(recalled, trajectory, far, near, spectrum),
        }

    def _input_dependence(
        self, recalled: Tree, start: Tree, trajectory: Trajectory, far: Tensor, near: Tensor, limit: int
    ) -> dict[str, Any]:
        common = {"iterations": limit, "tolerance": self.config.tolerance}
        fixed, recall, first = trajectory.take(far), select(recalled, far), select(start, far)

        test: SwapTest | None = None

        def swaps() -> dict[str, Any]:
            nonlocal test
            test = swap_test(self.loop, recall, fixed, **common)  # type: ignore[arg-type]
            if alone := why_alone(test.partner, recall, mask_of(self.loop, recall)):
                self.unknown["swaps"] = alone
            return {
                "recall_swap": _swap_counts(test.recall),
                "start_swap": _swap_counts(test.start),
                "moved": test.recall.fraction_moved,
                "shared": test.recall.fraction_shared,
            }

        def counts() -> dict[str, Any]:
            growth = distinct_fixed_points(self.loop, recall, fixed, first, **common)  # type: ignore[arg-type]
            shared = {} if test is None else {"shared": test.fraction_shared(growth.common_cluster)}
            return {"distinct_own": growth.own, "distinct_common": growth.common, **shared}

        def share() -> dict[str, Any]:
            found = variance_share(
                self.loop,
                select(recalled, near),
                select(trajectory.state, near),
                starts=self.budget.starts,
                seed=self.config.seed,
                known=trajectory.take(near),
                **common,  # type: ignore[arg-type]
            )
            return {"variance": vars(found)}

        def sensitivity() -> dict[str, Any]:
            return {"sensitivity": self._sensitivity(recalled, start, trajectory, near, limit)}

        found = self.part("swaps", swaps)
        if bool(trajectory.arrived.any()):
            found |= self.part("distinct fixed points", counts)
            if self.budget.starts:
                found |= self.part("variance", share)
            if self.budget.solves:
                found |= self.part("sensitivity", sensitivity)
        else:
            self.unknown["distinct fixed points"] = "no orbit arrived"
        return found

    def _sensitivity(
        self, recalled: Tree, start: Tree, trajectory: Trajectory, near: Tensor, limit: int
    ) -> dict[str, Any]:
        fixed, recall, inputs = trajectory.take(near), select(recalled, near), select(self.inputs, near)
        linear = input_sensitivity(self.loop, recall, fixed, inputs=inputs, seed=self.config.seed)
        common = {"iterations": limit, "tolerance": self.config.tolerance}
        check = finite_input_change(self.loop, recall, fixed, linear, inputs=inputs, **common)  # type: ignore[arg-type]
        first = select(start, near)
        through_start = start_sensitivity(self.loop, recall, first, seed=self.config.seed, known=fixed, **common)  # type: ignore[arg-type]
        return {
            "path": linear.path,
            "gain": linear.gain[0],
            "relative": linear.relative[0],
            "disagreement": check.disagreement,
            "start_gain": through_start.gain,
        }

    def _basin(self, recalled: Tree, trajectory: Trajectory, near: Tensor, limit: int) -> dict[str, Any]:
        found = basin(
            self.loop,
            select(recalled, near),
            trajectory.take(near),
            iterations=limit,
            radii=self.budget.radii,
            tolerance=self.config.tolerance,
            seed=self.config.seed,
        )
        returned, known = fraction(found.perturbed)

        def whole(starts: Tensor) -> dict[str, float]:
            flat = starts.reshape(1, -1)
            back, seen = fraction(flat) if flat.numel() else (torch.tensor([math.nan]), torch.tensor([0.0]))
            return {"returned": float(back[0]), "known": float(seen[0])}

        return {
            "rows": near,
            "radii": list(found.radii),
            "returned": returned,
            "known": known,
            "random": whole(found.random),
            "foreign": whole(found.foreign),
        }

    def _spectrum(self, recalled: Tree, trajectory: Trajectory, near: Tensor) -> dict[str, Any]:
        state, recall = select(trajectory.state, near), select(recalled, near)
        found = spectral_radius(self.loop, state, recall, seed=self.config.seed)
        arrived = trajectory.arrived[near]
        wrong = contradicted(
            self.loop, state, recall, trajectory.residual[:, near], arrived, found, seed=self.config.seed
        )
        others: Any = []
        if self.budget.eigenvalues:
            one = slice(0, 1)
            several = top_eigenvalues(
                self.loop, select(state, one), select(recall, one), self.budget.eigenvalues, seed=self.config.seed
            )
            others = several.eigenvalues[0]
        return {
            "rows": near,
            "eigenvalue": torch.view_as_real(found.eigenvalue),
            "radius": found.radius,
            "error": found.error,
            "converged": found.converged,
            "defective": found.defective,
            "at_fixed_point": arrived,
            "rate": trajectory.rate[near],
            "rate_error": trajectory.rate_error[near],
            "contradicted": wrong,
            "others": torch.view_as_real(others) if isinstance(others, Tensor) else others,
        }

    def _geometry(
        self, recalled: Tree, trajectory: Trajectory, far: Tensor, near: Tensor, spectrum: Mapping[str, Any]
    ) -> dict[str, Any]:
        state, recall = select(trajectory.state, near), select(recalled, near)
        length = self.trained or min(30, self.iterations)
        precision: dict[str, Any] = {"tolerance": self.budget.tolerance, "seed": self.config.seed}

        def gradients() -> dict[str, Any]:
            found = gradient_norms(self.loop, select(recalled, far), length, seed=self.config.seed)
            radii = [math.nan if one is None else one for one in radii_at_fixed_points(spectrum)]
            radius = torch.tensor(radii).to(found.slope)
            return {
                "gradient_rows": far,
                "gradient_norms": quantiles(found.norms.T, QUANTILES).T,
                "gradient_growth": found.slope.exp(),
                "gradient_agreement": agreement(found.slope[: len(radius)], radius),
                "gradient_label": dict(Counter(found.label)),
            }

        def radial() -> dict[str, Any]:
            found = radial_mode(self.loop, state, recall, outer_gain_of(self.loop))
            return {"radial_gain": _token_median(found.gain, mask_of(self.loop, recall))}

        def smoothness() -> dict[str, Any]:
            found = lipschitz(self.loop, state, recall, inputs, **precision)
            size = norms(inputs, mask) if found.path == THROUGH_ENCODE else norms(recall, mask)
            return {
                "lipschitz": found.value,
                "lipschitz_error": found.error,
                "lipschitz_converged": found.converged,
                "lipschitz_path": found.path,
                "relative_lipschitz": found.value * size / norms(state, mask),
            }

        def inverse() -> dict[str, Any]:
            found = resolvent_norm(self.loop, state, recall, **precision)
            return {"resolvent": found.value, "resolvent_error": found.error, "resolvent_converged": found.converged}

        def transient() -> dict[str, Any]:
            found = power_norms(self.loop, state, recall, **precision)
            return {"powers": list(found.powers), "power_norms": found.norms.T}

        result: dict[str, Any] = {}
        result |= self.part("gradients", gradients)
        result |= self.part("radial mode", radial)
        near = near[trajectory.arrived[near]]
        state, recall, inputs = select(trajectory.state, near), select(recalled, near), select(self.inputs, near)
        mask = mask_of(self.loop, recall)
        result["rows"] = near.tolist()
        if not len(near):
            reason = "no orbit arrived: it is defined at a fixed point"
            self.unknown.update({"smoothness": reason, "resolvent": reason, "transient growth": reason})
            return result
        result |= self.part("smoothness", smoothness)
        if self.budget.solves:
            result |= self.part("resolvent", inverse)
            result |= self.part("transient growth", transient)
        return result

    def _of_directions(self, trajectory: Trajectory, orbits: Orbits) -> tuple[Axis, Axis, Axis] | None:
        """Judge the axes on states normalized per token, where most orbits drift (framework, axis 1)."""
        drifting = torch.tensor([label is Orbit.DRIFT for label in orbits.labels])
        if 2 * int(drifting.sum()) <= len(drifting):
            return None
        if self.late():
            self.unknown["directions"] = self._over
            return None
        rows = torch.nonzero(drifting).squeeze(1)[: self.budget.swapped]
        inputs = select(self.inputs, rows)
        # Sizes are taken early: after a drift of t iterations a direction contracts by no more than 1 - 1/t per step.
        early = min(self.iterations, self.trained or FEWEST)
        with torch.no_grad():
            recalled = self.loop.encode(inputs)
            start = first_state(self.loop, recalled, self.config.seed)
            ends = follow(self.loop, recalled, start, iterations=early, tolerance=self.config.tolerance)
        wrapped, problem = normalized(self.loop, inputs, ends.state)
        inner = _Examiner(wrapped, problem, None, self.trained, self.config, None, self.answers, began=self.began)
        try:
            with torch.no_grad():
                recalled = wrapped.encode(problem)
            found = trace(
                wrapped,
                recalled,
                iterations=self.iterations,
                start=ends.state,
                tolerance=self.config.tolerance,
                stop=self.late,
                answers=self.answers,
            )
            inner._note_cut(found)
            labels = classify(wrapped, recalled, found, window=0, at_most=0, seed=self.config.seed)
            axes = judge_axes(found, labels, inner._axes_parts(recalled, ends.state, found))
        except (LoopscopeError, RuntimeError) as error:
            self.unknown["directions"] = " ".join(str(error).split())[:300]
            return None
        self.unknown |= {f"directions: {name}": reason for name, reason in inner.unknown.items()}
        return axes


def _token_median(values: Float[Tensor, "batch tokens"], mask: Tensor | None) -> Float[Tensor, "batch"]:
    """Return the median over an example's tokens, padding left out."""
    if mask is not None and mask.flatten(1).shape == values.shape:
        values = values.masked_fill(~mask.flatten(1), math.nan)
    return values.nanmedian(1).values


def _secondary_budget(trajectory: Trajectory, iterations: int) -> int:
    """Return the iterations that swapped and perturbed orbits may take."""
    needed = trajectory.iterations_to_tolerance[trajectory.arrived]
    slowest = float(needed.max()) if len(needed) else FEWEST
    return min(iterations, max(FEWEST, math.ceil(SPARE * slowest)))


def _reachability(trajectory: Trajectory, orbits: Orbits) -> dict[str, Any]:
    needed = trajectory.iterations_to_tolerance.double()
    return plain(
        {
            "arrived": trajectory.arrived,
            "iterations_to_tolerance": torch.where(needed > 0, needed, math.nan),
            "rate": trajectory.rate,
            "rate_error": trajectory.rate_error,
            "radius": trajectory.radius,
            "norm": trajectory.norm[-1],
            "start_norm": trajectory.start_norm,
            "labels": [label.value for label in orbits.labels],
            "reasons": list(orbits.reasons),
            "period": orbits.period,
            "lyapunov": orbits.lyapunov,
            "lyapunov_error": orbits.lyapunov_error,
            "growth": orbits.growth,
            "left_at": left_at(trajectory),
            "counts": dict(Counter(label.value for label in orbits.labels)),
        }
    )


def _curves(trajectory: Trajectory) -> Curves:
    def over_examples(values: Float[Tensor, "iterations batch"]) -> list[list[float | None]]:
        result: list[list[float | None]] = plain(quantiles(values, QUANTILES))
        return result

    solved = trajectory.solved
    return Curves(
        residual=over_examples(trajectory.residual),
        norm=over_examples(trajectory.norm),
        read_residual=over_examples(trajectory.read_residual),
        prediction_changes=plain(trajectory.prediction_changes.nanmean(1)),
        accuracy=None if solved is None else plain(solved.double().mean(1)),
    )
