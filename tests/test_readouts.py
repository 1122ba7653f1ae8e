"""Large readouts: what is read at once, when, and that parts are the whole."""

import math

import pytest
import torch

import loopscope as ls
from loopscope import readouts
from loopscope.errors import LoopscopeError
from loopscope.loop import FunctionLoop
from loopscope.readouts import ReadingPlan, plan_readings, read_some
from loopscope.stability.orbits.trace import trace

CLASSES, TOKENS, WIDTH = 7, 5, 3


def language(steps_of=1, answers_per="token", reads=None, padding=None) -> FunctionLoop:
    """Each token turns at a pace of its own and is read by a random matrix; ``reads`` collects how many are read at once."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
    head = torch.randn(WIDTH, CLASSES, generator=generator)

    def step(z, e):
        for _ in range(steps_of):
            z = torch.tanh(z @ turn + e)
        return z

    def read(z):
        if reads is not None:
            reads.append(len(z))
        return z @ head

    return FunctionLoop(lambda x: x, torch.zeros_like, step, read, padding=padding, answers_per=answers_per)


def inputs(batch=6):
    return torch.randn(batch, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def test_operations_of_matrix_products_decide():
    """A step of one product of 3 x 3 per token, a reading of 3 x 7: 18 against 42 operations."""
    loop, x = language(), inputs()
    assert plan_readings(loop, x, x) == ReadingPlan(readouts.TOGETHER // (TOKENS * CLASSES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readouts, "LIGHT", 0)
        assert plan_readings(loop, x, x).spacing == pytest.approx(42 / 18 / readouts.SHARE)
        assert plan_readings(language(steps_of=5), x, x).every_iteration
        patch.setattr(readouts, "TOGETHER", 80)
        assert plan_readings(loop, x, x).examples == 80 // (TOKENS * CLASSES)
        still = FunctionLoop(loop.encode, loop.start, lambda z, e: z / 2 + e, loop.read)
        assert plan_readings(still, x, x).spacing == math.inf


@pytest.mark.parametrize(("spacing", "due"), [(1, [1, 2, 3, 4, 5, 6]), (2.5, [1, 3, 5]), (math.inf, [1])])
def test_readings_are_spread_evenly(spacing, due):
    plan = ReadingPlan(1, spacing)
    assert [iteration for iteration in range(1, 7) if plan.is_due(iteration)] == due
    share = sum(plan.is_due(iteration) for iteration in range(1, 1001)) / 1000
    assert share <= 1 / spacing + 0.001


def test_parts_are_the_whole():
    reads = []
    loop, x = language(reads=reads), inputs()
    found = ReadingPlan(4).in_parts(loop, [x, 2 * x], x, lambda part, states: [states[0].argmax(-1), states[1]])
    assert reads == [4, 4, 2, 2]
    torch.testing.assert_close(found[1], loop.read(2 * x))
    assert torch.equal(found[0], loop.read(x).argmax(-1))


def test_no_more_logits_are_held_at_once_than_fit(monkeypatch):
    monkeypatch.setattr(readouts, "TOGETHER", 3 * TOKENS * CLASSES)
    reads = []
    loop, x = language(reads=reads), inputs(8)
    assert len(read_some(loop, x, x)) == 3
    ls.examine(loop, x, effort="quick", iterations=20)
    ls.forecast(loop, x, horizon=60, budget=1.0)
    assert max(reads) == 3


def targets(loop, x):
    """Return what the first half of the tokens answer in the end, and something else for the others."""
    z = torch.zeros_like(x)
    for _ in range(200):
        z = loop.step(z, x)
    right = loop.read(z).argmax(-1)
    return torch.where(torch.arange(TOKENS) < TOKENS // 2, right, (right + 1) % CLASSES)


@pytest.mark.parametrize("per", ["example", "token"])
def test_readings_in_parts_say_what_readings_of_the_whole_say(monkeypatch, per):
    loop, x = language(answers_per=per), inputs()
    whole, forecast = ls.examine(loop, x, targets(loop, x), effort="quick", iterations=40), ls.forecast(loop, x)
    monkeypatch.setattr(readouts, "TOGETHER", 2 * TOKENS * CLASSES)
    parts, again = ls.examine(loop, x, targets(loop, x), effort="quick", iterations=40), ls.forecast(loop, x)
    assert parts.curves.prediction_changes == whole.curves.prediction_changes
    assert (parts.answers, parts.curves.accuracy, parts.verdict) == (
        whole.answers,
        whole.curves.accuracy,
        whole.verdict,
    )
    assert (again.points, str(again)) == (forecast.points, str(forecast))


def test_where_reading_is_expensive_the_end_is_read_all_the_same(monkeypatch):
    """Answers and accuracy at the end are those of reading every iteration; in between, what was not read is not known."""
    loop, x = language(), inputs()
    every = ls.examine(loop, x, targets(loop, x), effort="quick", iterations=40)
    monkeypatch.setattr(readouts, "LIGHT", 0)
    some = ls.examine(loop, x, targets(loop, x), effort="quick", iterations=40)
    read = [number for number, value in enumerate(some.curves.accuracy, 1) if value is not None]
    assert read[:4] == [1, 5, 10, 14]
    assert read[-1] == 40
    assert [every.curves.accuracy[number - 1] for number in read] == [some.curves.accuracy[n - 1] for n in read]
    assert some.settings.accuracy == every.settings.accuracy == 0.4
    assert [n for n, value in enumerate(some.curves.prediction_changes, 1) if value is not None] == read
    assert set(some.curves.read_residual[1]) == {None}
    assert some.reachability.answered == every.reachability.answered
    assert set(some.answers.final_at) <= {*read}, "a change is seen at the next reading"


def test_the_last_state_is_read_where_an_orbit_leaves_before_a_reading_is_due(monkeypatch):
    """Answers change at iteration 7, and orbits rest from 8 on: no reading is due between 5 and 12."""
    rest = torch.tensor([[[8.0]], [[3.0]]])
    loop = FunctionLoop(
        lambda x: x, torch.zeros_like, lambda z, e: torch.minimum(z + 1, e), lambda z: torch.cat([z - 6.5, 6.5 - z], 2)
    )
    monkeypatch.setattr("loopscope.stability.orbits.trace.plan_readings", lambda *given: ReadingPlan(8, 6.0))
    path = trace(loop, rest, iterations=100)
    assert path.iterations.tolist() == [16, 11]
    assert path.last_change.tolist() == [12, 0]
    assert path.answered.all()
    assert torch.nonzero(path.read).squeeze(1).tolist() == [0, 5, 11, *range(15, 100)]


def test_a_state_that_diverges_between_readings_answers_nothing(monkeypatch):
    loop = FunctionLoop(lambda x: x, torch.ones_like, lambda z, e: z * e, lambda z: torch.cat([z, -z], -1))
    monkeypatch.setattr("loopscope.stability.orbits.trace.plan_readings", lambda *given: ReadingPlan(8, 50.0))
    path = trace(loop, torch.tensor([[1e20], [1.0]]), iterations=30, correct=lambda logits, rows: logits[:, 0] > 0)
    assert path.diverged.tolist() == [True, False]
    assert path.answered[-1].tolist() == [False, True]
    assert path.solved is not None
    assert path.solved[-1].tolist() == [False, True]


class TestByToken:
    def test_tokens_count_one_by_one(self):
        loop, x = language(), inputs()
        by_token = ls.examine(loop, x, targets(loop, x), effort="quick", iterations=60)
        whole = ls.examine(language(answers_per="example"), x, targets(loop, x), effort="quick", iterations=60)
        assert by_token.settings.answers_per == "token"
        assert by_token.settings.accuracy == 0.4
        assert whole.settings.accuracy == 0
        assert len(by_token.answers.final_at) == 6 * TOKENS
        assert len(whole.answers.final_at) == 6
        latest = [max(by_token.answers.final_at[TOKENS * k : TOKENS * (k + 1)]) for k in range(6)]
        assert latest == whole.answers.final_at
        assert "tokens right at the end      40.0%" in str(by_token)
        assert "tokens final" in str(by_token)

    def test_padding_does_not_count(self):
        mask = torch.ones(6, TOKENS, dtype=torch.bool)
        mask[:3, 2:] = False
        loop, x = language(padding=lambda recalled: mask[: len(recalled)]), inputs()
        found = ls.examine(loop, x, targets(language(), x), effort="quick", iterations=60)
        assert len(found.answers.final_at) == int(mask.sum())
        assert found.settings.accuracy == pytest.approx((3 * 2 + 3 * 2) / int(mask.sum()))

    def test_a_forecast_says_how_many_tokens_are_the_same(self):
        """In every example three tokens of four keep their class, and one loses it at iteration 40."""
        x = torch.tensor([1.0, 1.0, 1.0, 0.0]).reshape(1, 4, 1).expand(8, 4, 1)
        loop = FunctionLoop(
            lambda e: e,
            torch.zeros_like,
            lambda z, e: z + 1 - e,
            lambda z: torch.cat([39.5 - z, z - 39.5], 2),
            answers_per="token",
        )
        said = ls.forecast(loop, x)
        assert (said.inputs, said.tokens, said.counted) == (8, 32, "32 tokens of 8 inputs")
        assert said.kept == 0.75
        assert str(said).startswith("will lose the tokens of iteration 15 at about iteration 4")
        assert str(said).endswith("75% are the same at 480")
        whole = ls.forecast(FunctionLoop(loop.encode, loop.start, loop.step, loop.read), x)
        assert (whole.kept, whole.tokens) == (0, None)
        right = ls.forecast(loop, x, torch.zeros(8, 4, dtype=torch.long))
        assert str(right).endswith("75% of its best accuracy by token is left at 480")

    def test_tokens_of_an_example_whose_leaps_fail_are_doubtful_together(self):
        rates = torch.tensor([1.05, 1.05, 0.5, 0.5]).reshape(4, 1, 1).expand(4, 2, 1)
        loop = FunctionLoop(
            lambda e: e,
            torch.ones_like,
            lambda z, e: z * rates[: len(z)],
            lambda z: torch.cat([z, -z], 2),
            answers_per="token",
        )
        said = ls.forecast(loop, torch.ones(4, 2, 1))
        assert said.rounds[-1].unchecked == 0.5
        assert "because the changes of 50% of the tokens grow" in said.reason

    def test_answers_that_stand_are_tokens(self):
        """One token of four flips at every iteration, the others stay."""
        loop = FunctionLoop(
            lambda e: e,
            lambda e: torch.tensor([1.0, 1.0, 1.0, -1.0]).reshape(1, 4, 1).expand(len(e), 4, 1),
            lambda z, e: torch.cat([z[:, :3], -z[:, 3:]], 1),
            lambda z: torch.cat([z, -z], 2),
            answers_per="token",
        )
        found = ls.examine(loop, torch.ones(4, 1), effort="quick", iterations=20)
        assert found.axes[0].numbers["fraction of answers that stand"] == 0.75
        assert "75% of the tokens never changed after iteration 10" in found.axes[0].reason

    def test_a_readout_without_tokens_is_refused(self):
        loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z, answers_per="token")
        for verb in (ls.examine, ls.forecast):
            with pytest.raises(LoopscopeError, match=r"logits of shape \(4, 3\), expected \(batch, tokens, outputs\)"):
                verb(loop, torch.ones(4, 3))

    def test_answers_and_targets_are_one_for_each_token(self):
        for verb in (ls.examine, ls.forecast):
            with pytest.raises(LoopscopeError, match=r"answers returned shape \(6,\), expected \(6, 5\), one for each"):
                verb(language(), inputs(), answers=lambda logits: logits.sum((1, 2)))
            with pytest.raises(LoopscopeError, match=r"expected torch.bool of shape \(6, 5\), which says whether each"):
                verb(language(), inputs(), lambda logits, rows: torch.ones(len(rows), dtype=torch.bool))

    @pytest.mark.usefixtures("unchecked")
    def test_a_loop_that_says_something_else_is_refused(self):
        with pytest.raises(LoopscopeError, match="answers_per of the loop is 'tokens', expected one of example, token"):
            ls.examine(language(answers_per="tokens"), inputs())


@pytest.mark.parametrize("verb", [ls.forecast, lambda loop, inputs: ls.examine(loop, inputs, effort="quick")])
def test_a_learned_first_state_can_be_read(verb):
    first, head = torch.nn.Parameter(torch.zeros(WIDTH)), torch.nn.Linear(WIDTH, CLASSES)
    loop = FunctionLoop(lambda x: x, lambda e: first.expand(len(e), -1), lambda z, e: torch.tanh(z / 2 + e), head)
    assert verb(loop, torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))) is not None
