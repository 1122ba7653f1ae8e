"""The proof: it passes what is the model, and catches each way of not being it."""

import copy

import pytest
import torch
from looped_models import (
    DoryLike,
    TinyRecursiveReasoningModel_ACTV1,
    ids,
    puzzle_batch,
    seeded,
)

import loopscope as ls
from loopscope.adapters.capture import capture
from loopscope.adapters.proof import prove
from loopscope.errors import LoopscopeError


def dory(**changed):
    """A loop written by hand around the stand-in for Dory, and the model's own forward; parts can be replaced."""
    model = seeded(DoryLike)

    def encode(inputs):
        hidden = model.embed(inputs["input_ids"])
        for layer in model.layers[:2]:
            hidden = layer(hidden, mask=inputs["attention_mask"])
        return {"z": hidden, "e": model.norm(hidden), "mask": inputs["attention_mask"]}

    def step(z, recalled):
        z = model.norm(z) + recalled["e"]
        for layer in model.layers[2:4]:
            z = layer(z, mask=recalled["mask"])
        return z

    def read(z, recalled):
        return model.head(model.norm(model.layers[4](z, mask=recalled["mask"])))

    parts = {"encode": encode, "start": lambda recalled: recalled["z"], "step": step, "read": read}
    parts |= {name: change(model, parts[name]) for name, change in changed.items()}
    return ls.FunctionLoop(**parts), lambda inputs, count: DoryLike.run(model, inputs, count)


def text():
    tokens = ids()
    mask = torch.ones_like(tokens)
    return {"input_ids": tokens, "attention_mask": mask}


def test_a_loop_that_is_the_model_is_proven_with_every_error():
    proof = prove(*dory(), text())
    assert [check.name for check in proof.checks] == [
        "forward",
        "memory",
        "alone",
        "derivative",
        "input",
        "padding",
        "readout",
    ]
    assert proof["forward"].error == 0
    assert proof["memory"].error == 0
    assert 0 < proof["derivative"].error < 1e-3
    assert 0 < proof["input"].error < 1e-3
    assert proof["padding"].error < 1e-5
    assert "J v by autograd equals a finite difference (error " in str(proof)


def without_injection(model, step):
    return lambda z, recalled: step(z, {**recalled, "e": torch.zeros_like(recalled["e"])})


def without_a_layer(model, step):
    return lambda z, recalled: model.layers[2](model.norm(z) + recalled["e"], mask=recalled["mask"])


def without_norm(model, step):
    def step_without(z, recalled):
        for layer in model.layers[2:4]:
            z = layer(z + recalled["e"] * 0, mask=recalled["mask"])
        return z

    return step_without


def without_mask(model, step):
    return lambda z, recalled: step(z, {**recalled, "mask": torch.ones_like(recalled["mask"])})


def without_mask_in_the_prelude(model, encode):
    def encode_without(inputs):
        blind = encode({**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])})
        return {**blind, "mask": inputs["attention_mask"]}

    return encode_without


def detached(model, step):
    return lambda z, recalled: step(z.detach(), recalled)


def half_detached(model, step):
    def step_half(z, recalled):
        return step(0.5 * z + 0.5 * z.detach(), recalled)

    return step_half


def injection_detached(model, step):
    return lambda z, recalled: step(z, {**recalled, "e": recalled["e"].detach()})


def injection_half_detached(model, step):
    return lambda z, recalled: step(z, {**recalled, "e": 0.5 * recalled["e"] + 0.5 * recalled["e"].detach()})


def remembering(model, step):
    """A momentum that is kept in a variable: right in order, wrong from any state."""
    kept = []

    def step_kept(z, recalled):
        after = step(z, recalled)
        bias = 1e-7 * kept[-1] if kept and kept[-1].shape == after.shape else 0
        kept.append(after.detach())
        return after + bias

    return step_kept


def smuggling(model, read):
    def read_anew(z, recalled):
        return model.head(model.norm(recalled["z"])) + 0 * z.sum()

    return read_anew


def mixing(model, step):
    return lambda z, recalled: step(z, recalled) + 1e-3 * step(z, recalled).mean(0, keepdim=True)


@pytest.mark.parametrize(
    ("part", "fault", "message"),
    [
        ("step", without_injection, "start, 1, 2, 3, 5 steps and read equal the model's own forward"),
        ("step", without_a_layer, "start, 1, 2, 3, 5 steps and read equal the model's own forward"),
        ("step", without_norm, "start, 1, 2, 3, 5 steps and read equal the model's own forward"),
        ("step", without_mask, "start, 1, 2, 3, 5 steps and read equal the model's own forward"),
        ("encode", without_mask_in_the_prelude, "start, 1, 2, 3, 5 steps and read equal the model's own forward"),
        ("step", half_detached, "J v by autograd equals a finite difference.*let derivatives through the whole step"),
        ("step", injection_half_detached, "the derivative in the recalled input equals a finite difference"),
        ("step", remembering, "a step depends on nothing that an earlier call has left.*switch caches off"),
        ("read", smuggling, "equal the model's own forward"),
        ("step", mixing, "equal the model's own forward"),
    ],
)
def test_a_seeded_fault_is_caught(part, fault, message):
    with pytest.raises(LoopscopeError, match=f"the loop is not the model: expected that .*{message}"):
        prove(*dory(**{part: fault}), text())


@pytest.mark.parametrize(("fault", "variable"), [(detached, "the state"), (injection_detached, "the recalled input")])
def test_a_step_without_any_gradient_is_refused_by_its_cause(fault, variable):
    message = rf"changes with {variable} but carries no gradient to it; remove torch\.no_grad, detach"
    with pytest.raises(LoopscopeError, match=message):
        prove(*dory(step=fault), text())


def test_the_message_says_by_how_much_and_what_to_do():
    with pytest.raises(
        LoopscopeError, match=r"but the error is \d\.\de-?\+?\d+ \(allowed 1\.0e-05\); name another call"
    ):
        prove(*dory(step=without_injection), text())


def test_faults_that_the_model_itself_has_are_caught_beside_its_forward():
    """A model whose own forward lets examples or padding mix, or answers from its inputs, is no loop over examples."""
    for change, message in [
        (lambda logits, inputs: logits + logits.mean(0, keepdim=True), "an example alone gives"),
        (lambda logits, inputs: logits + logits.mean(1, keepdim=True), "padding does not matter"),
        (
            lambda logits, inputs: logits * 1e-6 + torch.nn.functional.one_hot(inputs["input_ids"], 13),
            "another example's",
        ),
    ]:
        loop, own = dory()
        read = loop.read
        changed = ls.FunctionLoop(
            encode=lambda inputs, loop=loop: {**loop.encode(inputs), "input_ids": inputs["input_ids"]},
            start=loop.start,
            step=loop.step,
            read=lambda z, recalled, read=read, change=change: change(read(z, recalled), recalled),
        )
        with pytest.raises(LoopscopeError, match=message):
            prove(changed, lambda inputs, n, own=own, change=change: change(own(inputs, n), inputs), text())


class RoundsByShape(DoryLike):
    """In half precision, kernels round differently for other shapes; this model exaggerates that."""

    def forward(self, input_ids, attention_mask=None):
        logits = super().forward(input_ids, attention_mask)
        return logits * (1 + 2**-8 * sum(input_ids.shape)) if logits.dtype == torch.bfloat16 else logits


def test_rounding_that_differs_between_shapes_is_no_fault_of_a_model_in_half_precision():
    proof = capture(seeded(RoundsByShape).bfloat16(), "layers.3", text(), DoryLike.run).proof
    assert proof["alone"].error < 1e-5
    assert proof["padding"].error < 1e-5


def test_a_leak_smaller_than_the_rounding_of_half_precision_is_caught():
    def leaking(mean):
        class Leaking(DoryLike):
            def forward(self, input_ids, attention_mask=None):
                logits = super().forward(input_ids, attention_mask)
                return logits + 0.002 * mean(logits)

        return seeded(Leaking).bfloat16()

    for mean, message in [
        (lambda logits: logits.mean(0, keepdim=True), "an example alone gives"),
        (lambda logits: logits.mean(1, keepdim=True), "padding does not matter"),
    ]:
        with pytest.raises(LoopscopeError, match=message):
            capture(leaking(mean), "layers.3", text(), DoryLike.run)


def test_a_model_that_computes_in_half_precision_whatever_its_weights_may_round_by_shape():
    def run(model, inputs, iterations):
        model.inner.config.H_cycles = iterations
        logits = model(model.initial_carry(inputs), inputs)[1]["logits"]
        return logits * (1 + 2**-8 * len(logits))

    model = seeded(TinyRecursiveReasoningModel_ACTV1, forward_dtype="bfloat16")
    proof = capture(model, "inner.L_level", puzzle_batch(), run, every=3).proof
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 1e-4 < proof["alone"].error < proof["alone"].allowed == 0.1


def test_a_captured_loop_with_another_models_weights_is_refused():
    """What the adapter left out is the fault; what the model does is right by definition."""
    loop = capture(seeded(DoryLike), "layers.3", text(), DoryLike.run)
    loop.prove(text())
    other = copy.deepcopy(loop)
    torch.nn.init.normal_(other.model.layers[3].mlp[1].weight)
    with pytest.raises(LoopscopeError, match="equal the model's own forward"):
        prove(other, lambda inputs, n: DoryLike.run(loop.model, inputs, n), text())


def test_a_step_that_jumps_beside_a_state_has_its_derivative_on_the_other_side():
    """A mixture of experts takes another expert where a score crosses a limit; here, just beside the state of input 0."""
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    limit = float(torch.tanh(x)[0].sum()) + 1e-6

    def step(z, e):
        return torch.tanh(0.5 * z + e + 0.3 * (z.sum(1, keepdim=True) > limit))

    def model(inputs, iterations):
        z = torch.zeros_like(inputs)
        for _ in range(iterations):
            z = step(z, inputs)
        return z

    assert prove(ls.FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z), model, x)["derivative"].error < 1e-3
    half = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: step(0.5 * z + 0.5 * z.detach(), e), lambda z: z)
    with pytest.raises(LoopscopeError, match="J v by autograd equals a finite difference"):
        prove(half, model, x)


def test_a_step_that_cannot_run_is_refused_in_one_line():
    def broken(model, step):
        def raise_error(z, recalled):
            raise RuntimeError("shapes do not match\nand more")

        return raise_error

    with pytest.raises(LoopscopeError, match=r"where its forward is checked: RuntimeError: shapes do not match$"):
        prove(*dory(step=broken), text())


def test_two_states_under_no_grad_are_proven_whole():
    def run(model, inputs, iterations):
        model.inner.config.H_cycles = iterations
        return model(model.initial_carry(inputs), inputs)[1]["logits"]

    loop = capture(seeded(TinyRecursiveReasoningModel_ACTV1), "inner.L_level", puzzle_batch(), run, every=3)
    proof = loop.prove(puzzle_batch(5))
    assert proof["forward"].error == 0
    assert proof["padding"].error is None
    assert "not applicable, the inputs have no mask" in str(proof["padding"])


def test_where_the_run_cannot_be_told_the_iterations_its_own_number_is_proven():
    proof = capture(seeded(DoryLike), "layers.3", text()).prove(text())
    assert "start, 4 steps and read" in proof["forward"].claim


# Loops whose step is told the iteration


def annealed(inputs, iterations):
    """A model whose step depends on time, and whose readout is the mean of its states."""
    z, total = torch.zeros_like(inputs), torch.zeros_like(inputs)
    for t in range(iterations):
        z = torch.tanh(z / (1 + t) + inputs)
        total = total + z
    return total / iterations


def annealed_loop(step):
    return ls.with_history(
        ls.FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z),
        begin=lambda z, x: (torch.zeros_like(z), torch.zeros(len(z), 1)),
        update=lambda carried, z, x: (carried[0] + z, carried[1] + 1),
        read=lambda carried, x: carried[0] / carried[1],
    )


def test_a_time_dependent_loop_with_a_history_is_proven():
    loop = annealed_loop(lambda z, x, iteration: torch.tanh(z / (1 + iteration) + x))
    proof = prove(loop, annealed, torch.randn(3, 4))
    assert proof["forward"].error < 1e-6
    assert proof["derivative"].holds


def test_a_loop_that_ignores_the_iteration_is_caught():
    loop = annealed_loop(lambda z, x, iteration: torch.tanh(z + x))
    with pytest.raises(LoopscopeError, match="start, 1, 2, 3, 5 steps and read equal the model's own forward"):
        prove(loop, annealed, torch.randn(3, 4))
