"""Any module as a loop: what is found out about it, and that it is the model exactly."""

import copy
from collections import Counter

import pytest
import torch
from looped_models import (
    TOKENS,
    WIDTH,
    Block,
    DoryLike,
    DTNet,
    GRULoop,
    HierarchicalReasoningModel_ACTV1,
    OuroForCausalLM,
    Parcae,
    RavenForCausalLM,
    Secretive,
    Small,
    Sotaku,
    TinyRecursiveReasoningModel_ACTV1,
    ids,
    puzzle_batch,
    seeded,
)
from torch import nn

import loopscope as ls
from loopscope.adapters.capture import capture
from loopscope.adapters.captured import DirectLoop, RerunLoop
from loopscope.jacobian import in_precision, step_jacobian
from loopscope.trees import batch_size, detached, flatten, join, select

PROVEN = (1, 2, 3, 5)
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def text(**options):
    tokens = ids(**options)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def steps(model, inputs, iterations):
    return model(**inputs, num_steps=iterations)


def iterations(model, inputs, iterations):
    return model(inputs, iterations)


def logits_after(loop, inputs, count):
    """Return what a loop reads after a number of the model's iterations."""
    with torch.no_grad():
        recalled = loop.encode(inputs)
        state = loop.start(recalled)
        for _ in range(count - loop.iterations_before):
            state = loop.step(state, recalled)
        return loop.read(state, recalled)


def assert_is_the_model(loop, inputs, run):
    """Start, steps and read give the model's own logits exactly, for each number of iterations."""
    for count in PROVEN:
        with torch.no_grad():
            wanted = run(loop.model, inputs, count)
        assert torch.equal(logits_after(loop, inputs, count), wanted), count


def computed(model, function):
    """Return how often each submodule of the first level (or of a list there) computes."""
    counts = Counter()

    def counting(name, original):
        def forward(*args, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        return forward

    named = {name: module for name, module in model.named_modules() if name and name.count(".") < 2}
    for name, module in named.items():
        module.forward = counting(name, module.forward)
    try:
        function()
    finally:
        for module in named.values():
            del module.forward
    return dict(counts)


class TestBothWays:
    def test_what_the_model_does_around_a_call_is_run_within_its_own_forward(self):
        model, inputs = seeded(DoryLike), text()
        loop = capture(model, "layers.3", inputs, DoryLike.run)
        assert isinstance(loop, RerunLoop)
        assert loop.iterations_before == 0
        assert_is_the_model(loop, inputs, DoryLike.run)

    def test_a_call_that_is_fed_by_itself_alone_is_the_step(self):
        model, inputs = seeded(Parcae), {"input_ids": ids()}
        loop = capture(model, "core_block_forward", inputs, steps)
        assert isinstance(loop, DirectLoop)
        assert_is_the_model(loop, inputs, steps)

    @pytest.mark.parametrize("other", [text(batch=1), text(batch=5, tokens=4, seed=3)])
    def test_other_numbers_of_examples_and_tokens_are_the_same_loop(self, other):
        loop = capture(seeded(DoryLike), "layers.3", text(), DoryLike.run)
        assert_is_the_model(loop, other, DoryLike.run)

    def test_one_example_is_enough(self):
        loop = capture(seeded(DoryLike), "layers.3", text(batch=1), DoryLike.run)
        assert_is_the_model(loop, text(batch=4), DoryLike.run)

    def test_neither_the_prelude_nor_what_is_replaced_is_computed_in_a_step(self):
        """An iteration's own calls, each once, in both ways; the readout calls what follows the loop."""
        model, inputs = seeded(DoryLike), text()
        loop = capture(model, "layers.3", inputs, DoryLike.run)
        recalled = loop.encode(inputs)
        state = loop.start(recalled)
        assert computed(model, lambda: loop.start(recalled)) == {}
        assert computed(model, lambda: loop.step(state, recalled)) == {
            "norm": 1,
            **{f"layers.{k}": 1 for k in (2, 3)},
        }
        assert computed(model, lambda: loop.read(state, recalled)) == {"layers.4": 1, "norm": 1, "head": 1}

        model, inputs = seeded(Parcae), {"input_ids": ids()}
        loop = capture(model, "core_block_forward", inputs, steps)
        recalled = loop.encode(inputs)
        state = loop.start(recalled)
        made = computed(model, lambda: loop.step(state, recalled))
        assert {name: n for name, n in made.items() if "." not in name} == {"inject": 1, "core": 1}

    def test_a_shared_norm_before_the_loop_is_told_apart_from_that_within(self):
        """The first of its calls makes the injected input, which is recalled; the second belongs to the iteration."""
        loop = capture(seeded(DoryLike), "layers.3", text(), DoryLike.run)
        recalled = loop.encode(text())
        model = loop.model
        hidden = model.layers[1](model.layers[0](model.embed(ids())))
        assert set(recalled["recalled"]) == {"norm"}
        assert torch.equal(recalled["recalled"]["norm"], model.norm(hidden))
        assert torch.equal(loop.start(recalled), hidden)

    def test_the_model_is_left_as_it_was(self):
        model = seeded(DoryLike)
        before = copy.deepcopy(model.state_dict())
        loop = capture(model, "layers.3", text(), DoryLike.run)
        loop.read(loop.start(loop.encode(text())), loop.encode(text()))
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert not any("forward" in module.__dict__ for module in model.modules())


class TestState:
    def test_a_second_state_in_a_local_variable_is_found(self):
        loop = capture(seeded(Secretive), "cell", X)
        recalled = loop.encode(X)
        assert set(loop.start(recalled)) == {"sin", "cell"}
        assert torch.equal(logits_after(loop, X, 5), loop.model(X))

    def test_the_calls_of_one_module_for_both_states_are_told_apart(self):
        def run(model, inputs, iterations):
            model.inner.config.H_cycles = iterations
            return model(model.initial_carry(inputs), inputs)[1]["logits"]

        loop = capture(seeded(TinyRecursiveReasoningModel_ACTV1), "inner.L_level", puzzle_batch(), run, every=3)
        assert list(loop.start(loop.encode(puzzle_batch()))) == ["inner.L_level (call 2)", "inner.L_level (call 3)"]
        assert_is_the_model(loop, puzzle_batch(5), run)

    def test_a_dataclass_is_carried_and_what_is_answered_beside_it(self):
        """The first pass resets the carry, which is uninitialized memory, so the first state is the one after it."""

        def run(model, inputs, iterations):
            carry = model.initial_carry(inputs)
            for _ in range(iterations):
                carry, outputs = model(carry, inputs)
            return outputs["logits"]

        model = seeded(TinyRecursiveReasoningModel_ACTV1)
        model.config.halt_max_steps = 16
        loop = capture(model, "forward", puzzle_batch(), run)
        assert loop.iterations_before == 1
        assert list(loop.start(loop.encode(puzzle_batch()))) == [
            "carry.inner_carry.z_H",
            "carry.inner_carry.z_L",
            "forward[1].logits",
        ]
        assert_is_the_model(loop, puzzle_batch(4), run)

    def test_a_state_with_the_batch_second_is_turned(self):
        loop = capture(seeded(GRULoop), "gru", X, iterations)
        recalled = loop.encode(X)
        assert loop.start(recalled).shape == (4, 2, WIDTH)
        assert_is_the_model(loop, X, iterations)

    def test_predictions_fed_back_are_part_of_the_state_where_the_named_call_makes_them(self):
        for at, parts in [("head", {"norm", "head"}), ("norm", None)]:
            loop = capture(seeded(Sotaku), at, ids(), iterations)
            state = loop.start(loop.encode(ids()))
            assert (set(state) if isinstance(state, dict) else None) == parts
            assert_is_the_model(loop, ids(), iterations)

    def test_a_first_state_without_a_batch_is_broadcast(self):
        class Learned(Small):
            def __init__(self):
                super().__init__()
                self.initial = nn.Parameter(torch.randn(WIDTH))

            def begin(self, x):
                return self.initial

        loop = capture(seeded(Learned), "cell", X)
        assert loop.start(loop.encode(X)).shape == (4, WIDTH)
        assert torch.equal(logits_after(loop, X, 5), loop.model(X))

    def test_a_learned_first_state_is_examined_and_forecast(self):
        class Expanded(Small):
            def __init__(self):
                super().__init__()
                self.initial = nn.Parameter(torch.randn(WIDTH))

            def begin(self, x):
                return self.initial.expand(len(x), -1)

        loop = capture(seeded(Expanded), "cell", X)
        assert ls.examine(loop, X, effort="quick", iterations=40).curves.residual[1][-1] < 1
        assert ls.forecast(loop, X, trained_iterations=5).points

    def test_a_random_first_state_is_drawn_from_the_generator(self):
        model, inputs = seeded(RavenForCausalLM), {"input_ids": ids()}
        loop = capture(
            model, "core_block_forward", inputs, lambda model, inputs, n: model(**inputs, num_steps=n)["logits"]
        )
        recalled = loop.encode(inputs)
        before = torch.get_rng_state()
        one, same, other = (loop.start(recalled, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(5)
        from_global = loop.start(recalled)
        torch.manual_seed(5)
        assert torch.equal(from_global, torch.randn_like(from_global))

    def test_a_counter_that_makes_no_difference_is_context(self):
        """Huginn's count of blocks is handed on as an integer tensor, but only names entries of an unused cache."""
        model, inputs = seeded(RavenForCausalLM), {"input_ids": ids()}
        loop = capture(
            model, "core_block_forward", inputs, lambda model, inputs, n: model(**inputs, num_steps=n)["logits"]
        )
        assert isinstance(loop.start(loop.encode(inputs)), torch.Tensor)

    def test_the_first_iteration_may_differ(self):
        loop = capture(seeded(OuroForCausalLM), "model.norm", text())
        assert loop.iterations_before == 1
        assert torch.equal(logits_after(loop, text(), 4), loop.model(**text(), use_cache=False)["logits"])

    def test_outputs_of_every_iteration_in_one_tensor_leave_the_state_alone(self):
        images = torch.randn(3, 1, 5, 5, generator=torch.Generator().manual_seed(0))
        run = lambda model, inputs, n: model(inputs, n)[:, -1]  # noqa: E731
        loop = capture(seeded(DTNet), "recur_block", images, run)
        assert loop.start(loop.encode(images)).shape == (3, 6, 5, 5)
        assert_is_the_model(loop, images, run)


class TestRecalled:
    def test_rows_follow_their_examples(self):
        loop = capture(seeded(DoryLike), "layers.3", text(), DoryLike.run)
        inputs = text(batch=4)
        recalled, rows = loop.encode(inputs), torch.tensor([3, 1])
        some, own = select(recalled, rows), loop.encode(select(inputs, rows))
        assert batch_size(some) == 2
        assert torch.equal(loop.step(loop.start(some), some), loop.step(loop.start(own), own))
        both = join([some, select(recalled, torch.tensor([0]))])
        assert torch.equal(loop.start(both), loop.start(recalled)[[3, 1, 0]])

    def test_lengths_do_not_get_mixed_up(self):
        """Tables that depend on the length, not on the examples, are kept with what is recalled, not with the loop."""

        class Rotated(DoryLike):
            def __init__(self):
                super().__init__()
                self.tables = Tables()

            def forward(self, input_ids, attention_mask=None):
                tables = self.tables(input_ids)
                hidden = self.embed(input_ids)
                for _ in range(self.loops):
                    hidden = self.norm(self.layers[0](hidden + tables, mask=attention_mask))
                return self.head(hidden)

        class Tables(nn.Module):
            def forward(self, input_ids):
                return torch.arange(input_ids.shape[1])[None, :, None] * torch.ones(WIDTH)

        loop = capture(seeded(Rotated), "norm", text(), DoryLike.run)
        long, short = loop.encode(text()), loop.encode(text(tokens=3))
        assert loop.step(loop.start(short), short).shape == (3, 3, WIDTH)
        assert loop.step(loop.start(long), long).shape == (3, TOKENS, WIDTH)
        assert_is_the_model(loop, text(tokens=3), DoryLike.run)

    def test_the_embeddings_are_recalled_where_inputs_are_tokens(self):
        """In both ways; the derivative of the step in them is not zero."""
        for model, at, run in [(DoryLike, "layers.3", DoryLike.run), (Parcae, "core_block_forward", None)]:
            inputs = text() if model is DoryLike else {"input_ids": ids()}
            loop = capture(seeded(model), at, inputs, run)
            recalled = loop.encode(inputs)
            numbers = {name: leaf.detach().requires_grad_() for name, leaf in recalled["recalled"].items()}
            after = loop.step(loop.start(recalled), {**recalled, "recalled": numbers})
            (gradient,) = torch.autograd.grad(after.sum(), list(numbers.values()))
            assert gradient.shape[:2] == (3, TOKENS)
            assert float(gradient.abs().max()) > 0

    def test_derivatives_in_floating_inputs_go_through_encode(self):
        loop = capture(seeded(GRULoop), "gru", X, iterations)
        x = X.clone().requires_grad_()
        recalled = loop.encode(x)
        (gradient,) = torch.autograd.grad(loop.step(loop.start(recalled), recalled).sum(), x)
        assert float(gradient.abs().max()) > 0

    def test_none_and_numbers_among_the_inputs_are_context(self):
        inputs = {"input_ids": ids(), "attention_mask": None}
        loop = capture(seeded(DoryLike), "layers.3", inputs, DoryLike.run)
        assert_is_the_model(loop, inputs, DoryLike.run)
        inputs = {"input_ids": ids(), "num_steps": 4}
        loop = capture(seeded(Parcae), "core_block_forward", inputs)
        assert torch.equal(logits_after(loop, inputs, 4), loop.model(ids(), 4))

    def test_caches_are_switched_off(self):
        """The stand-in for Ouro refuses to run with one, and has one by default."""
        capture(seeded(OuroForCausalLM), "model.norm", text())


class TestPadding:
    def test_the_mask_among_the_inputs_is_the_loops(self):
        inputs = text()
        inputs["attention_mask"][0, -2:] = 0
        loop = capture(seeded(DoryLike), "layers.3", inputs, DoryLike.run)
        assert torch.equal(loop.mask(loop.encode(inputs)), inputs["attention_mask"] > 0)

    def test_a_mask_that_fits_no_state_is_no_mask_unless_it_says_something(self):
        class Prefixed(DoryLike):
            """A token of its own stands before the others, so the state has one more than the mask."""

            def forward(self, input_ids, attention_mask=None):
                hidden = self.embed(torch.cat([torch.ones_like(input_ids[:, :1]), input_ids], 1))
                for _ in range(self.loops):
                    hidden = self.norm(self.layers[0](hidden))
                return self.head(hidden)

        loop = capture(seeded(Prefixed), "norm", {"input_ids": ids()}, DoryLike.run)
        assert loop.mask(loop.encode(text())) is None
        inputs = text()
        inputs["attention_mask"][0, -1] = 0
        with pytest.raises(Exception, match="no tensor of the state has as many"):
            loop.mask(loop.encode(inputs))


class TestPrecision:
    @pytest.mark.parametrize("kind", [TinyRecursiveReasoningModel_ACTV1, HierarchicalReasoningModel_ACTV1])
    def test_a_model_that_computes_in_half_precision_shows_its_state_in_float32(self, kind):
        def run(model, inputs, iterations):
            model.inner.config.H_cycles = iterations
            return model(model.initial_carry(inputs), inputs)[1]["logits"]

        at, every = ("inner.L_level", 3) if kind is TinyRecursiveReasoningModel_ACTV1 else ("inner.H_level", 1)
        loop = capture(seeded(kind, forward_dtype="bfloat16"), at, puzzle_batch(), run, every=every)
        state = loop.start(loop.encode(puzzle_batch()))
        assert {part.dtype for part in state.values()} == {torch.float32}
        assert torch.equal(logits_after(loop, puzzle_batch(), 3), run(loop.model, puzzle_batch(), 3).float())

    def test_half_precision_weights_are_proven_as_they_are(self):
        model, inputs = seeded(DoryLike).bfloat16(), text()
        loop = capture(model, "layers.3", inputs, DoryLike.run)
        assert loop.start(loop.encode(inputs)).dtype == torch.float32
        assert loop.in_half_precision
        assert torch.equal(logits_after(loop, inputs, 3), DoryLike.run(model, inputs, 3).float())

    def test_a_loop_can_be_copied_into_another_precision(self):
        loop = capture(seeded(DoryLike), "layers.3", text(), DoryLike.run)
        recalled = detached(loop.encode(text()))
        state = detached(loop.start(recalled))
        fine, state64, recalled64 = in_precision(loop, state, recalled, torch.float64)
        after = fine.step(state64, recalled64)
        assert after.dtype == torch.float64
        assert torch.allclose(after.float(), loop.step(state, recalled), atol=1e-5)
        assert next(loop.model.parameters()).dtype == torch.float32


class TestWholeGradients:
    """``no_grad``, ``detach`` and asserts on ``requires_grad`` hide most of a step; its Jacobian is the whole step's."""

    def full_jacobian(self, function, state):
        flat = flatten(state)
        return torch.autograd.functional.jacobian(lambda point: function(point), flat[0])

    def columns(self, loop, inputs):
        with torch.no_grad():
            recalled = loop.encode(inputs)
            state = loop.step(loop.start(recalled), recalled)
        fine, state, recalled = in_precision(loop, detached(state), detached(recalled), torch.float64)
        jacobian = step_jacobian(fine, state, recalled)
        units = torch.eye(jacobian.size, dtype=torch.float64)
        return torch.stack([jacobian.jvp(unit[None])[0] for unit in units], 1), fine, state

    @pytest.mark.parametrize("kind", [TinyRecursiveReasoningModel_ACTV1, HierarchicalReasoningModel_ACTV1])
    def test_of_nested_cycles(self, kind):
        def run(model, inputs, iterations):
            model.inner.config.H_cycles = iterations
            return model(model.initial_carry(inputs), inputs)[1]["logits"]

        at, every = ("inner.L_level", 3) if kind is TinyRecursiveReasoningModel_ACTV1 else ("inner.H_level", 1)
        inputs = select(puzzle_batch(), slice(0, 1))
        found, fine, state = self.columns(capture(seeded(kind), at, inputs, run, every=every), inputs)
        inner = fine.model.inner
        embeddings = inner.embedded(inputs).double().detach()
        high = inner.H_level if hasattr(inner, "H_level") else inner.L_level
        first = next(iter(state.values())).numel()

        def by_hand(point):
            z_L, z_H = point[:first].view(1, TOKENS + 1, WIDTH), point[first:].view(1, TOKENS + 1, WIDTH)
            for _ in range(2):
                z_L = inner.L_level(z_L, z_H + embeddings)
            return torch.cat([z_L.flatten(), high(z_H, z_L).flatten()])

        expected = self.full_jacobian(by_hand, state)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)
        assert float(torch.linalg.eigvals(expected).abs().max()) > 0.05

    def test_of_a_method_that_runs_without_gradients(self):
        inputs = {"input_ids": ids(batch=1)}
        loop = capture(
            seeded(RavenForCausalLM),
            "core_block_forward",
            inputs,
            lambda model, inputs, n: model(**inputs, num_steps=n)["logits"],
        )
        found, fine, state = self.columns(loop, inputs)
        model = fine.model
        embeddings = loop.encode(inputs)["recalled"]["embeddings"].double().detach()

        def by_hand(point):
            x = model.ln_f(model.adapter(torch.cat([point.view(state.shape), embeddings], -1)))
            for block in model.core_block:
                x = block(x)
            return x.flatten()

        torch.testing.assert_close(found, self.full_jacobian(by_hand, state), atol=1e-10, rtol=1e-8)

    @pytest.mark.parametrize(
        "hide",
        [
            lambda z: z.detach(),
            lambda z: z.data,
            lambda z: torch.no_grad()(lambda: z * 1)(),
            lambda z: torch.tensor(1.0) * z.clone().detach_(),
        ],
    )
    def test_however_a_part_is_hidden(self, hide):
        class Hiding(Small):
            def iterate(self, z, x, t):
                hidden = hide(z)
                assert not hidden.requires_grad
                return self.cell(hidden, x) + 0.1 * z

        loop = capture(seeded(Hiding), "iterate", X)
        found, fine, state = self.columns(loop, X[:1])
        expected = self.full_jacobian(
            lambda point: (fine.model.cell(point[None], X[:1].double()) + 0.1 * point).flatten(), state
        )
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)

    @pytest.mark.parametrize("unhidden", [1, 2])
    def test_of_a_model_whose_last_iterations_alone_have_a_gradient(self, unhidden):
        """As in deep equilibrium models: the last ones begin at a detached state, which the others do not."""

        class Unhidden(Small):
            def forward(self, x):
                z = self.begin(x)
                with torch.no_grad():
                    for _ in range(5 - unhidden):
                        z = torch.tanh(self.cell(z, x))
                z = z.detach().requires_grad_()
                for _ in range(unhidden):
                    z = torch.tanh(self.cell(z, x))
                return self.head(z.data if unhidden == 1 else z)

        loop = capture(seeded(Unhidden), "cell", X)
        assert torch.equal(logits_after(loop, X, 5), loop.model(X))
        found, fine, state = self.columns(loop, X[:1])
        expected = self.full_jacobian(
            lambda point: fine.model.cell(torch.tanh(point)[None], X[:1].double()).flatten(), state
        )
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)

    def test_outside_of_the_loop_the_model_hides_as_before(self):
        model = seeded(HierarchicalReasoningModel_ACTV1)
        capture(
            model, "inner.H_level", puzzle_batch(), lambda model, inputs: model(model.initial_carry(inputs), inputs)[1]
        )
        logits = model(model.initial_carry(puzzle_batch()), puzzle_batch())[1]["logits"]
        assert logits.requires_grad
        assert not logits.detach().requires_grad


def test_a_method_or_a_module_under_two_names_can_be_named():
    class Aliased(Small):
        def __init__(self):
            super().__init__()
            self.alias = nn.ModuleDict({"inner": self.cell})

    for at in ("cell", "alias.inner", "iterate", "cell.forward"):
        loop = capture(seeded(Aliased), at, X)
        assert torch.equal(logits_after(loop, X, 5), loop.model(X)), at


def test_a_functional_prelude_is_run_again_and_still_right():
    """What stands between calls before the loop is not skipped; only calls are answered from what is recalled."""

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.block = nn.Parameter(torch.randn(13, WIDTH)), Block()
            self.head = nn.Linear(WIDTH, 5)

        def forward(self, tokens):
            e = torch.nn.functional.embedding(tokens, self.table) * 2
            z = torch.zeros_like(e)
            for _ in range(4):
                z = torch.tanh(self.block(z) + e)
            return self.head(z)

    loop = capture(seeded(Functional), "block", ids())
    assert torch.equal(logits_after(loop, ids(seed=1), 4), loop.model(ids(seed=1)))
