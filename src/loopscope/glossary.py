"""The glossary: the words of reports, commands and documentation, each with one meaning.

Pages quote it (``loopscope.reports.kit.words``), and the glossary of the documentation is the same table.
"""

from __future__ import annotations

MEANINGS: dict[str, str] = {
    "accuracy retained": "accuracy at the last iteration divided by the best accuracy on the way",
    "answer retention": "the fraction of the answers of one iteration, the last one of training, that remain at later ones",
    "arrived": "an orbit that has reached a fixed point: its residual is within the tolerance and still shrinks by a"
    " factor below 1, and the remaining distance is small; or its residual is at rounding level",
    "autonomous loop": "a loop whose step depends on the state and the recalled input alone",
    "basin of attraction": "the starts from which a loop returns to the same fixed point",
    "borderline": "an axis whose deciding number lies between the value at which it holds and the value at which it "
    "fails",
    "collapse": "the fall of accuracy below half of its best on the way, after further iterations; in "
    "forecasts, below 90% of it",
    "common random numbers": "the same draw of the noise for two orbits, so that their difference is what the step makes of it",
    "confidence": "the softmax probability of a whole answer: the smallest, over tokens, of the largest probability",
    "coverage": "the fraction of answers that is accepted",
    "cycle": "an orbit that repeats after a fixed number of iterations, its period",
    "drift": "an orbit whose direction settles while its norm grows",
    "early exit": "stopping an example before the last iteration, by a rule",
    "effort": "how much an examination computes: quick, standard or thorough",
    "error growth": "the factor by which an iteration multiplies small errors along an orbit: the exponential of the largest"
    " exponent",
    "exponents": "growth per iteration of small errors along an orbit, as natural logarithms: those of the product "
    "J_t ... J_1 of its Jacobians",
    "external recall": "the input is mixed into the state once, at the beginning of every iteration; the paper also calls "
    "it standard",
    "extrapolation": "solving harder problems than those of training with more iterations than training had",
    "fixed depth": "a transformer with distinct blocks and a single pass, for comparison; it does not iterate",
    "fixed point": "a state that an iteration does not change: f(z, e) = z",
    "forecast": "what is expected at hundreds of iterations, from a few: keeps its answers, collapses, or cannot tell",
    "fraction moved": "in the swap test, the fraction of states that go to the fixed point of the newly recalled input",
    "fraction shared": "in the swap test, the fraction of pairs of inputs that have the same fixed point",
    "fragile": "a verdict: states arrive at their own fixed points, but the points repel or are not smooth",
    "geometry": "the third axis: is the fixed point smooth in the input, and can gradients pass?",
    "gradient growth": "the factor by which a gradient grows on its way back through one iteration; above 1 it explodes",
    "GRU normalization": "a gated recurrent unit in place of the sum mixes each update into the state, so its size stays "
    "bounded",
    "input-dependence": "the second axis: does the fixed point depend on the problem?",
    "input-independent": "a verdict: states arrive, but inputs share their fixed points, from their own starts and from a "
    "common one",
    "internal recall": "the input enters every sub-layer (attention, then MLP) of every iteration",
    "iteration": "one pass of the block: one evaluation of `step`",
    "Jacobian": "J = df/dz, the derivative of one iteration in the state, per example",
    "leap": "a jump over many iterations at once: an orbit's slow modes are fitted to its last changes and "
    "extrapolated",
    "Lipschitz constant": "how far the fixed point moves at most, to first order, for a small change of the input",
    "loop": "a model as four functions: `encode`, `start`, `step`, `read`",
    "never settles but keeps its answer": "a verdict: states do not arrive, but at least 90% of the answers stand and at "
    "least 90% are known to be right",
    "no recall": "the input sets the first state only; later iterations do not see it. The paper calls such a model "
    "autonomous",
    "noise floor": "the smallest residual that an orbit can reach, given the rounding inside the step, or the random "
    "numbers that it draws",
    "normalization": "where an RMSNorm stands in a sub-layer: pre, peri, outer or sandwich; or a GRU cell instead",
    "orbit": "the sequence of states z₀, z₁, z₂, ... of one example",
    "outer normalization": "the state is normalized after each sub-layer's update, so its size stays bounded; the code of "
    "the paper calls it post",
    "path-dependent": "a verdict: states arrive, but an input has several fixed points, and the start chooses among them, so "
    "the answer can be relied on from the loop's own start only",
    "peri normalization": "like pre, but what a sub-layer adds is normalized too; the size of the state is not bounded",
    "pre normalization": "each sub-layer reads a normalized state and adds to the state itself, whose size is not bounded",
    "prediction mode": "an examination that takes no orbit beyond the trained number of iterations",
    "prior": "a threshold set by reasoning, not yet fitted on trained models",
    "provisional": "a verdict that rests on at least one prior",
    "reachability": "the first axis: does the iteration arrive at a fixed point?",
    "recall": "how the input re-enters the loop: none, external (once per iteration) or internal (in each sub-layer)",
    "recalled input": "e = `encode(inputs)`: everything that stays the same over iterations",
    "residual": "‖f(z) − z‖ divided by the larger of ‖z‖ and ‖f(z)‖",
    "risk": "the fraction of accepted answers that is wrong",
    "sandwich normalization": "the state is normalized both before and after each sub-layer, so its size stays bounded",
    "settled": "a state whose residual is within the tolerance (1e-4 by default)",
    "spectral radius": "the largest modulus of the Jacobian's eigenvalues",
    "stable": "a verdict: all three axes hold; the answers are not known to be right",
    "stable and accurate": "a verdict: all three axes hold, and at least 90% of the answers are known to be right",
    "stands": "an answer that never changed in the last half of its orbit",
    "state": "z, the tensors that an iteration turns into the next state",
    "stochastic loop": "a loop whose step draws random numbers, from the `generator` that it takes",
    "swap test": "keep a settled state and recall another input: does the state follow?",
    "time-dependent loop": "a loop whose step changes with the iteration: it takes `iteration`, or the state carries a "
    "counter, a part that is not a floating-point tensor and changes from step to step",
    "undecided": "a verdict: a number that decides is unknown or lies between two thresholds",
    "unstable": "a verdict: states do not arrive, or leave again; without a fixed point: answers do not last",
    "verdict": "the conclusion from all three axes, in a few words",
    "watch": "measures a loop while it trains",
}
"""The meaning of each word, in a clause, in alphabetical order. Meanings may hold Markdown's marks for code."""
RECALLS = {"internal": "internal recall", "external": "external recall", "none": "no recall"}
"""The word for each recall of a config."""
NORMS = {
    "outer": "outer normalization",
    "pre": "pre normalization",
    "gru": "GRU normalization",
    "sandwich": "sandwich normalization",
    "peri": "peri normalization",
}
"""The word for each normalization of a config."""


def as_markdown() -> str:
    """Return the glossary as a table in Markdown, as the documentation shows it."""
    rows = (f"| **{word}** | {meaning} |" for word, meaning in MEANINGS.items())
    return "\n".join(["| word | meaning |", "|---|---|", *rows]) + "\n"
