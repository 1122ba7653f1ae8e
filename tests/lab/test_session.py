"""The experiments on loops whose outcome is known, and on the models that ship."""

from __future__ import annotations

import gc

import pytest
import torch
from lab_loops import RATE, affine, counting, exploding, inputs, letters, rotating, with_recall

from loopscope.errors import LoopscopeError
from loopscope.lab import exhibit
from loopscope.lab.exhibits import open_exhibit
from loopscope.lab.lane import MOST_TWINS, Lane, Origin
from loopscope.lab.orbit import Orbit
from loopscope.lab.session import AFTER_SETTLING, BEFORE_CHANGE, STEADY, WATCHED, Session, Sessions
from loopscope.lab.stage import stage


def session_of(*made, **options):
    return Session([exhibit(*made, **options)])


def done(frames):
    """Run an action to its end, and return the number of its pictures."""
    return sum(1 for _ in frames)


def pair():
    """Return a session with the affine loop beside one without recall."""
    given = ((True, "with"), (False, "without"))
    session = Session([exhibit(affine(recall), inputs(), name=name, recalls=recall) for recall, name in given])
    session.compare("without")
    return session


def test_play_stops_where_the_state_has_settled():
    session = session_of(*with_recall())
    pictures = done(session.play())
    lane = session.lanes[0]
    assert pictures == session.iteration == lane.end
    assert lane.settled(session.iteration)
    assert not lane.settled(session.iteration - 1)
    assert lane.exhibit.view.right(lane.own.question, lane.snapshot(session.iteration).logits) is True
    assert done(session.play()) == AFTER_SETTLING  # pressed again, it goes on a little


def test_play_stops_where_the_answer_is_steady_though_the_state_is_not():
    loop = affine(rate=0.9999)
    session = session_of(loop, inputs())
    done(session.play())
    assert not session.lanes[0].settled(session.iteration)
    assert session.iteration == STEADY + session.lanes[0].own.orbit.last_change(session.iteration)


def test_a_push_is_as_large_as_asked_and_shrinks_as_the_loop_contracts():
    session = session_of(*with_recall())
    done(session.play())
    lane, at = session.lanes[0], session.iteration
    action = session.push(0.8)
    next(action)
    twin = lane.shown
    assert lane.apart(twin, lane.own, at) == pytest.approx(0.8, rel=1e-4)
    before = twin.orbit.state(at) - lane.own.orbit.state(at)
    for later in range(1, 8):
        next(action)
        after = twin.orbit.state(at + later) - lane.own.orbit.state(at + later)
        torch.testing.assert_close(after, before * RATE**later, rtol=1e-3, atol=1e-6)
    done(action)
    (said,) = session.found["push"]
    assert said.startswith("It came back: after ")
    assert "in all 3 tokens" in said
    assert "(80% at first)" in said


def test_a_push_along_fixed_points_does_not_come_back():
    session = pair()
    done(session.play())
    done(session.push(3.0))
    with_, without = session.found["push"]
    assert with_.startswith("It came back")
    assert not without.startswith("It came back")
    assert "away from where it would be without the push" in without


def test_a_push_cannot_be_nothing():
    with pytest.raises(LoopscopeError, match="fraction is 0, expected a number above 0"):
        done(session_of(*with_recall()).push(0))


def test_a_random_start_finds_the_one_fixed_point():
    session = session_of(*with_recall())
    done(session.start_at_random())
    lane = session.lanes[0]
    assert lane.shown.origin is Origin.RANDOM
    assert lane.shown.orbit.began == 0
    assert lane.own.orbit.end >= BEFORE_CHANGE
    assert session.found["push"][0].startswith("It came back")
    assert "from the model's own start" in session.found["push"][0]


def test_a_random_start_after_a_change_is_compared_with_the_new_question():
    session = session_of(*with_recall())
    done(session.change("2"))
    done(session.start_at_random())
    assert session.found["push"][0].startswith("It came back")
    done(session.push(0.5))
    done(session.push(0.5))
    done(session.push(0.5))  # the orbit that began with the change is no longer kept
    done(session.start_at_random())
    lane = session.lanes[0]
    assert lane.shown.question.text == "2"
    assert Origin.CHANGED not in {one.origin for one in lane.twins}
    assert session.found["push"][0].startswith("It came back")


def test_the_answer_follows_the_question_with_recall_and_stays_without():
    session = pair()
    done(session.change("2"))
    with_, without = session.found["change"]
    assert with_.startswith("The answer followed: ")
    assert "all 3 tokens" in with_
    assert without.startswith("The answer stayed: ")
    assert without.endswith("This model has no recall: after the first state it never sees a problem again.")
    for lane in session.lanes:
        assert lane.shown.orbit.began == BEFORE_CHANGE  # it was run first, so that there was something to keep
        assert lane.shown.question.text == "2"
        assert lane.at(BEFORE_CHANGE - 1).question.text == "1"
    assert torch.equal(session.lanes[1].answer(session.lanes[1].shown, session.iteration), inputs()[0].argmax(-1))


def test_a_state_that_stays_is_watched_for_a_while():
    session = session_of(affine(recall=False), inputs(), recalls=False)
    done(session.change("2"))
    assert session.iteration == BEFORE_CHANGE + WATCHED
    assert session.found["change"][0].startswith(f"The answer stayed: after {WATCHED} iterations")


def test_leaps_that_lead_to_infinity_are_not_drawn():
    session = session_of(*exploding())
    done(session.run_on(100, with_leaps=True))
    assert len(session.lanes[0].landings) < 4
    assert "inf" not in stage(session).replace("no longer finite", "").replace("being finite", "")


def test_problems_with_one_answer_tell_nothing():
    given = torch.stack([inputs()[0], 2 * inputs()[0]])
    session = session_of(affine(), given)
    done(session.change("2"))
    assert session.found["change"] == [
        "Both problems have the same answer here, so nothing can be told: choose another problem."
    ]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("1", "the other problem is the one that is shown"),
        ("9", "problem '9' is not among the inputs: expected a number from 1 to 4"),
        ("", "problem '' is not among the inputs"),
    ],
)
def test_a_change_to_no_other_problem_is_refused_in_one_line(text, refusal):
    session = session_of(*with_recall())
    with pytest.raises(LoopscopeError, match=refusal):
        done(session.change(text))
    assert session.iteration == 0
    assert session.lanes[0].twins == []


def test_a_problem_of_another_size_is_refused_before_anything_is_run():
    session = Session([letters()])
    with pytest.raises(LoopscopeError, match=r"needs a state of shape \(3, 9\), the present one has \(9, 9\)"):
        done(session.change("bad"))
    assert session.iteration == 0


def test_a_long_run_is_forecast_first_and_the_forecast_is_held_against_it():
    session = session_of(*with_recall())
    action = session.run_on(500, with_leaps=True)
    next(action)
    assert session.iteration == 0
    assert session.found["run"][0].startswith(
        "Forecast: the answer at iteration 10 will still hold at 500 (forecast from "
    )
    done(action)
    assert session.iteration == session.lanes[0].end == 500
    assert session.found["run"][0].endswith("The forecast was right.")
    assert [landing.iteration for landing, _ in session.lanes[0].landings] == [15, 48, 152, 480]
    torch.testing.assert_close(session.lanes[0].landings[-1][0].state, inputs()[:1], atol=1e-4, rtol=0)


def test_a_loop_that_depends_on_time_is_run_without_extrapolation_and_leaps_are_refused():
    session = session_of(*counting())
    done(session.run_on(100))
    assert session.found["run"][0].startswith("Forecast: cannot tell")
    assert "the step changes with the iteration" in session.found["run"][0]
    assert "At iteration 100 the answer matches iteration 15" in session.found["run"][0]
    with pytest.raises(LoopscopeError, match="the state carries a counter"):
        done(session.run_on(200, with_leaps=True))


def test_a_state_that_stops_being_finite_is_said_and_ends_the_run():
    session = session_of(*exploding())
    done(session.play())
    assert session.lanes[0].shown.orbit.broken
    assert session.iteration == 5
    done(session.run_on(100))
    assert "stopped being finite at iteration 5" in session.found["run"][0]
    assert "no longer finite" in stage(session)


def test_too_many_iterations_are_refused():
    with pytest.raises(LoopscopeError, match="1,000,000 iterations were asked for, expected at most 20,000"):
        done(session_of(*with_recall()).run_on(1_000_000))


def test_one_goes_back_in_time_and_an_experiment_starts_from_there():
    session = session_of(*rotating())
    session.step(30)
    session.show(7)
    assert session.iteration == 7
    assert session.end == 30
    next(session.push(0.1))
    assert session.lanes[0].shown.orbit.began == 7
    assert session.lanes[0].at(6) is session.lanes[0].own
    session.show(1000)
    assert session.iteration == session.end


def test_the_oldest_orbits_of_experiments_go_first():
    session = session_of(*with_recall())
    session.step(5)
    for _ in range(MOST_TWINS + 2):
        session.show(5)
        done(session.push(0.5))
    assert len(session.lanes[0].twins) == MOST_TWINS
    assert session.lanes[0].shown is session.lanes[0].twins[-1]


def test_a_refused_problem_leaves_the_session_as_it_was():
    session = session_of(*with_recall())
    session.step(3)
    for refused in (lambda: session.ask("17"), lambda: session.choose("nobody"), lambda: session.compare("nobody")):
        with pytest.raises(LoopscopeError):
            refused()
    assert session.iteration == 3
    assert session.text == "1"


@pytest.fixture
def nothing_older():
    """Hide what earlier tests have left from the garbage collector, which may free it at any time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("nothing_older")
def test_a_hundred_clicks_leave_memory_flat():
    session = session_of(*rotating())

    def clicks(most):
        for number in range(most):
            session.ask(str(1 + number % 2))
            session.step(20)
            next(session.push(0.5))
            next(session.change(str(2 - number % 2)))
            session.step()
            stage(session)

    def living():
        """Count the tensors and orbits that are alive; what they hold is bounded, see the tests of orbits."""
        gc.collect()
        # By type: isinstance would wake lazy modules among all objects.
        return sum(type(one) in (torch.Tensor, Orbit, Lane) for one in gc.get_objects())

    clicks(2)
    few = living()
    clicks(24)
    assert few > 0
    assert living() == few


def test_sessions_are_few_and_the_one_that_was_used_longest_ago_goes():
    sessions = Sessions([exhibit(*with_recall())], most=2)
    first = sessions.of("a")
    second = sessions.of("b")
    assert sessions.of("a") is first
    sessions.of("c")
    assert len(sessions) == 2
    assert sessions.of("a") is first
    assert sessions.of("b") is not second
    sessions.drop("a")
    sessions.drop("a")
    assert len(sessions) == 1


def test_the_latest_action_wins_and_one_that_fails_is_over():
    session = session_of(*with_recall())
    session.begin(session.play())
    session.proceed()
    assert session.busy
    session.begin(session.run_on(1_000_000))
    with pytest.raises(LoopscopeError, match="1,000,000 iterations"):
        session.proceed()
    assert not session.busy
    session.proceed()
    assert session.iteration == 1
    session.begin(session.play())
    while session.busy:
        session.proceed()
    assert session.lanes[0].settled(session.iteration)
    session.begin(session.play())
    session.stop()
    assert not session.busy


SHIPPED = {
    "sudoku": ("cells", None),
    "chess": ("squares", None),
    "prefix-sums": ("bits", None),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_solves_comes_back_and_follows(name):
    shown = open_exhibit(name)
    session = Session([shown])
    done(session.play())
    lane = session.lanes[0]
    assert shown.view.right(lane.own.question, lane.snapshot(session.iteration).logits) is True
    done(session.push(0.3))
    assert session.found["push"][0].startswith("It came back: ")
    session.restart()
    done(session.change(list(shown.examples)[1]))
    assert session.found["change"][0].startswith("The answer followed: ")
    assert session.found["change"][0].endswith("The rules confirm it.")


def test_the_shipped_pair_differs_in_whether_the_answer_follows():
    session = Session([open_exhibit("prefix-sums"), open_exhibit("prefix-sums-without-recall")])
    session.compare("prefix-sums-without-recall")
    done(session.play())
    for lane in session.lanes:
        logits = lane.snapshot(min(session.iteration, lane.end)).logits
        assert lane.exhibit.view.right(lane.own.question, logits) is True
    done(session.change("011010011001"))
    with_, without = session.found["change"]
    assert with_.startswith("The answer followed")
    assert without.startswith("The answer stayed")


def test_a_stride_leaves_out_pictures_and_no_iteration():
    every, few = session_of(*with_recall()), session_of(*with_recall())
    few.show_every(5)
    pictures = list(every.play()), list(few.play())
    assert every.iteration == few.iteration == len(pictures[0])
    assert len(pictures[1]) == every.iteration // 5
    assert every.lanes[0].own.orbit.residuals() == few.lanes[0].own.orbit.residuals()
    done(every.push(0.5))
    done(few.push(0.5))
    assert every.found == few.found
    with pytest.raises(LoopscopeError, match="stride is 0"):
        few.show_every(0)
