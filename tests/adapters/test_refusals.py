"""What cannot be a loop is refused in one line: what was seen, and what to name or give instead."""

import pytest
import torch
from looped_models import (
    Growing,
    Halting,
    Historic,
    Inferring,
    InPlace,
    Mixing,
    Noisy,
    OpenMythos,
    Pooled,
    Reader,
    Remembering,
    Shared,
    Small,
    Supervised,
    TimeDependent,
    ToldTheTime,
    Uninitialized,
    ids,
    seeded,
)
from torch.utils.checkpoint import checkpoint

from loopscope.adapters.capture import capture
from loopscope.errors import LoopscopeError

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
REPEATED = r"it calls repeatedly: iterate: 5 calls, each fed by the one before, returns \(4, 16\)$"


def refused(model, at="cell", inputs=X, **options):
    with pytest.raises(LoopscopeError) as caught:
        capture(model, at, inputs, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            TimeDependent,
            "iteration 5 is not the map that iteration 2 is.*it also takes others, which changes from call to call",
        ),
        (ToldTheTime, "it also takes t, which changes from call to call. A loop that depends on time"),
        (Noisy, "two runs of one iteration from the same state differ: it draws random numbers"),
        (InPlace, r"add_ changes what the iteration before made \(add_\) in place.*z = z \+ x instead of z \+= x"),
        (
            Growing,
            r"changes its form from iteration to iteration: \(4, 2, 16\), \(4, 3, 16\), \(4, 4, 16\).*switch caches off",
        ),
        (Uninitialized, r"the first state is uninitialized memory \(torch.empty\): give run="),
        (Historic, "iteration 5 is not the map that iteration 2 is.*or on more than the last state"),
        (Reader, r"the readout takes what earlier iterations made \(cell\), not the last state alone"),
        (Remembering, "iteration 5 is not the map that iteration 2 is"),
        (Mixing, "an example alone gives what it gives in the batch.*must be per example"),
        (Pooled, "an example alone gives what it gives in the batch.*must be per example"),
        (Inferring, "torch.inference_mode, which no derivative passes: use torch.no_grad there"),
        (
            Supervised,
            "does not run on these inputs: TypeError: .*missing 1 required positional argument: 'labels'.*run=",
        ),
    ],
)
def test_a_model_that_is_no_loop(kind, message):
    with pytest.raises(LoopscopeError, match=message):
        capture(seeded(kind), "cell", X)


def test_a_number_of_iterations_that_depends_on_the_data():
    assert "the number of iterations depends on the data; give run=" in refused(seeded(Halting))

    class OfTheBatch(Small):
        def forward(self, x):
            z = self.begin(x)
            for _ in range(3 + len(x)):
                z = self.cell(z, x)
            return self.head(z)

    assert "cell is called 7 times for 4 inputs and 4 times for one of them" in refused(seeded(OfTheBatch))


def test_a_name_that_is_wrong_or_called_too_rarely_lists_what_is_repeated():
    for name, message in [
        ("nonsense", "has no submodule or method 'nonsense'"),
        ("cell.nonsense", "has no submodule or method 'cell.nonsense'"),
        ("iterations", "has no submodule or method 'iterations'"),
        ("head", "head is called 1 times, expected at least 3"),
        ("dropout", "dropout is called 0 times, expected at least 3"),
    ]:
        with pytest.raises(LoopscopeError, match=f"{message}; {REPEATED}"):
            capture(seeded(Small), name, X)


def test_a_model_that_runs_too_few_iterations_by_itself():
    message = refused(seeded(lambda: Small(iterations=2)))
    assert "cell is called 2 times, expected at least 3: let the model run more iterations, or give run=" in message


def test_every_and_offset_that_do_not_fit_the_calls():
    assert "cell is called 5 times, expected 2 for each of at least 3 iterations" in refused(seeded(Small), every=2)
    assert "expected at least 3 after the first 3" in refused(seeded(Small), offset=3)
    assert "offset is -1, expected a whole number, 0 or more" in refused(seeded(Small), offset=-1)
    assert "every is 0, expected a whole number above 0" in refused(seeded(Small), every=0)


def test_a_module_used_for_other_ends():
    message = refused(seeded(Shared), "norm")
    assert "iterations differ: embed.2 is called 1x in iteration 3 and 0x in iteration 2; name a call" in message


def test_calls_that_do_not_feed_each_other():
    class Parallel(Small):
        def forward(self, x):
            return self.head(sum(self.cell(torch.full((len(x), 16), float(k)), x) for k in range(4)))

    assert "no call of cell depends on an earlier one, so nothing is iterated" in refused(seeded(Parallel))


def test_a_readout_of_all_iterations_together():
    """The head is called after every iteration, but not before the first one ends."""

    class Averaging(Small):
        def forward(self, x):
            z, outputs = self.begin(x), []
            for _ in range(4):
                z = self.cell(z, x)
                outputs.append(self.head(z))
            return torch.stack(outputs).mean(0)

    assert "the readout takes what earlier iterations made (head)" in refused(seeded(Averaging))


def test_a_state_that_is_handed_on_out_of_sight():
    class InAttribute(Small):
        def iterate(self, z, x, t):
            self.z = self.cell(self.z, x)

        def forward(self, x):
            self.z = self.begin(x)
            for t in range(4):
                self.iterate(None, x, t)
            return self.head(self.z)

    class WrittenOver(InAttribute):
        def iterate(self, z, x, t):
            self.z.copy_(self.cell(self.z, x))

    for kind in (InAttribute, WrittenOver):
        message = refused(seeded(kind), "iterate")
        assert (
            "or hand on its state in an attribute or in place: name a call that takes the state and returns it"
            in message
        )


def test_a_model_in_training_mode():
    assert "in training mode, where dropout makes every iteration random: call model.eval()" in refused(
        seeded(Small).train()
    )


@pytest.mark.usefixtures("unchecked")
def test_something_that_is_no_module():
    assert "the model is of type function, expected a torch.nn.Module" in refused(lambda x: x)


def test_a_forward_that_returns_no_logits():
    labels = torch.zeros(4, dtype=torch.long)
    assert "returned a tensor of shape ()" in refused(seeded(Supervised), inputs={"x": X, "labels": labels})
    message = refused(seeded(Small), run=lambda model, x: {"nothing": model(x).sum()})
    assert "the model returned dict, expected logits" in message


def test_a_readout_of_the_inputs():
    """The answer is the inputs', whatever the state: the proof finds that it does not move."""

    class Smuggler(Small):
        def forward(self, x):
            return super().forward(x) * 1e-6 + x[:, :2]

    assert "another example's state moves the readout" in refused(seeded(Smuggler))


def test_no_examples_at_all():
    assert "the batch is empty (shapes [(0, 3)]): expected at least one example" in refused(seeded(Small), inputs=X[:0])


def test_a_step_that_derivatives_do_not_pass():
    class ThroughNumPy(Small):
        def iterate(self, z, x, t):
            return torch.from_numpy(self.cell(torch.tanh(z), x).detach().numpy())

    class Checkpointed(Small):
        def iterate(self, z, x, t):
            return checkpoint(lambda z: self.cell(torch.tanh(z), x), z, use_reentrant=False)

    for kind, at in ((ThroughNumPy, "iterate"), (Checkpointed, "cell")):
        assert refused(seeded(kind), at).endswith(
            "derivatives pass neither gradient checkpointing nor NumPy: switch them off inside an iteration"
        )


def test_first_states_that_are_not_finite():
    assert "the first state holds NaN or infinite numbers" in refused(
        seeded(Small), inputs=torch.full_like(X, torch.nan)
    )


def test_a_time_dependent_family():
    message = refused(
        seeded(OpenMythos),
        "recurrent.block",
        {"input_ids": ids()},
        run=lambda model, inputs, n: model(**inputs, n_loops=n),
    )
    assert "is not the map that iteration 2 is" in message
