"""What an experiment found, in sentences."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from loopscope.evaluation import SETTLED
from loopscope.forecasts.forecast import TRAINED
from loopscope.forecasts.result import Forecast, Outlook
from loopscope.lab.lane import Lane, Origin, Track
from loopscope.lab.views.view import counted
from loopscope.stability.dependence.swap_test import NEAR

RULED = {
    True: ("right", "Right, and confirmed by the rules. "),
    False: ("not-right", "Not right, or not yet. "),
    None: ("", ""),
}
JUDGED = {True: "The rules confirm it.", False: "The rules refute it.", None: ""}


def agreement(lane: Lane, one: Int[Tensor, "parts"], other: Int[Tensor, "parts"]) -> str:
    """Return the parts in which two answers agree, in words that follow "in"."""
    part, same = lane.exhibit.view.part, int((one == other).sum())
    if same == len(one) == 1:
        return f"its only {part}"
    return f"all {counted(len(one), part)}" if same == len(one) else f"{same} of {counted(len(one), part)}"


def state_of(lane: Lane, iteration: int) -> tuple[str, str]:
    """Return what there is to say of the answer at an iteration, after the word for whether the rules confirm it.

    The word is right, not-right, or empty where nothing tells.
    """
    track, view = lane.at(iteration), lane.exhibit.view
    if iteration == 0 and track.origin is Origin.OWN:
        return "", "This is the problem. Press Play, or take single steps."
    orbit = track.orbit
    right = view.right(track.question, orbit.logits(iteration))
    kind, judged = RULED[right]
    residual, since = orbit.residual(iteration), orbit.last_change(iteration)
    if orbit.broken and iteration == orbit.end:
        return kind, f"{judged}The state is no longer finite: the orbit ends here."
    if residual is None:
        return kind, f"{judged}This is the state that the experiment begins with."
    kept = (
        f"The answer has been the same since iteration {since:,}."
        if since < iteration
        else "The answer is still changing."
    )
    settled = (
        "The state has settled." if residual <= SETTLED else f"This iteration changed the state by {share(residual)}."
    )
    return kind, f"{judged}{kept} {settled}"


def share(fraction: float) -> str:
    """Return a fraction as a percentage of two digits.

    Example:
        >>> share(0.1234), share(3e-6), share(25.0)
        ('12%', '0.0003%', '2500%')
    """
    percent = 100 * fraction
    if percent == 0:
        return "0%"
    return f"{percent:.0f}%" if percent >= 9.5 else f"{percent:.1g}%" if percent >= 1e-4 else f"{percent:.0e}%"


def of_push(lane: Lane, twin: Track, before: float) -> str:
    """Return whether a pushed orbit came back.

    Args:
        lane: the lane.
        twin: the pushed orbit.
        before: distance right after the push, relative to the norm of the state.
    """
    origin = lane.undisturbed(twin)
    end = min(twin.orbit.end, origin.orbit.end)
    there, here = lane.answer(origin, end), lane.answer(twin, end)
    apart, spent = lane.apart(twin, origin, end), end - twin.orbit.began
    same, near = bool((there == here).all()), apart <= NEAR * before
    took = f"after {counted(spent, 'iteration')}"
    otherwise = "from the model's own start" if twin.origin is Origin.RANDOM else "without the push"
    states = f"the state is {share(apart)} away from where it would be {otherwise} ({share(before)} at first)"
    if same and near:
        return f"It came back: {took} the answer is the same in {agreement(lane, here, there)}, and {states}."
    if same:
        return f"The answer came back in {agreement(lane, here, there)}, the state did not: {took} {states}."
    verb = "On its way back" if near else "It did not come back"
    return f"{verb}: {took} the answer is the same in {agreement(lane, here, there)}, and {states}."


def of_change(lane: Lane, twin: Track, iteration: int) -> str:
    """Return whether the answer followed a change of the question."""
    reference, old = lane.reference, twin.parent
    assert reference is not None
    assert old is not None
    end = min(twin.orbit.end, reference.orbit.end)
    here, wanted = lane.answer(twin, end), lane.answer(reference, end)
    # What the old state answers to the new problem: a state that never hears of it goes on saying that.
    before = lane.exhibit.view.answer(twin.question, old.orbit.logits(min(iteration, old.orbit.end)))
    spent = counted(end - twin.orbit.began, "iteration")
    right = JUDGED[lane.exhibit.view.right(twin.question, twin.orbit.logits(end))]
    if bool((wanted == before).all()):
        return "Both problems have the same answer here, so nothing can be told: choose another problem."
    if bool((here == wanted).all()):
        return (
            f"The answer followed: after {spent}, it matches the model's answer to the new problem from its own start in "
            f"{agreement(lane, here, wanted)}. {right}".strip()
        )
    if bool((here == before).all()):
        why = (
            " This model has no recall: after the first state it never sees a problem again."
            if lane.exhibit.recalls is False
            else ""
        )
        return f"The answer stayed: after {spent}, it still matches the old answer in {agreement(lane, here, before)}.{why}"
    why = " This model has no recall, so it cannot know of the new problem." if lane.exhibit.recalls is False else ""
    return (
        f"The answer is neither: after {spent}, it matches the model's answer to the new problem from its own start in "
        f"{agreement(lane, here, wanted)}, and the old answer in {agreement(lane, here, before)}.{why} {right}".strip()
    )


def of_forecast(found: Forecast | str) -> str:
    """Return a forecast, or the reason why there is none, as a sentence."""
    if isinstance(found, str):
        return f"No forecast: {found}."
    steps = f" (forecast from {counted(found.steps, 'step')} of the model)"
    if found.outlook is Outlook.CANNOT_TELL:
        return f"Forecast: cannot tell; {found.reason}{steps}."
    first = found.points[0].iteration
    if found.outlook is Outlook.KEEPS:
        return f"Forecast: the answer at iteration {first} will still hold at {found.horizon:,}{steps}."
    when = "" if found.collapse is None else f", about iteration {found.collapse:,.0f}"
    return f"Forecast: the answer at iteration {first} will be lost by {found.horizon:,}{when}{steps}."


def of_run(lane: Lane, found: Forecast | str) -> str:
    """Return what became of the answer at the end of a long run, and whether the forecast was right."""
    orbit = lane.own.orbit
    end = orbit.end
    if orbit.broken:
        return f"The state stopped being finite at iteration {end:,}."
    foretold = found if isinstance(found, Forecast) else None
    first = min(end, foretold.points[0].iteration if foretold else lane.exhibit.trained_iterations or TRAINED)
    then, now = lane.answer(lane.own, first), lane.answer(lane.own, end)
    kept = bool((then == now).all())
    since = orbit.last_change(end)
    said = (
        f"At iteration {end:,} the answer matches iteration {first} in {agreement(lane, now, then)}; it last changed at "
        f"iteration {since:,}."
    )
    if foretold is None or foretold.outlook is Outlook.CANNOT_TELL or end < foretold.horizon:
        return said
    return f"{said} The forecast was {'right' if kept == foretold.keeps else 'wrong'}."
