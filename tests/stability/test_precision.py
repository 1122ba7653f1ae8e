"""Precisions compared: emulated arithmetic against formulas, growth and predictions against known exponents, warnings."""

import json
import math

import pytest
import torch
from torch import nn

import loopscope as ls
from loopscope.contexts import exact_products
from loopscope.errors import LoopscopeWarning
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.stability.precision.arithmetic import ARITHMETICS, round_to_int8
from loopscope.stability.precision.compare import _differ_from, _every_iteration, _growth
from loopscope.stability.precision.error_growth import Course, predict_difference
from loopscope.stability.precision.spoiled import spoiled_by
from loopscope.stability.precision.tf32 import emulated_tf32, round_to_tf32, rounds_products

LOW = ("float32", "tf32", "bf16", "int8")


# The arithmetic.


def test_tf32_keeps_ten_bits_of_mantissa():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(20_000, generator=generator) * (10 * torch.randn(20_000, generator=generator)).exp()
    mantissa, exponent = torch.frexp(numbers.double())
    nearest = torch.ldexp(mantissa.sign() * (mantissa.abs() * 2**11 + 0.5).floor() / 2**11, exponent)
    assert torch.equal(round_to_tf32(numbers).double(), nearest)
    special = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])
    assert torch.equal(round_to_tf32(special).nan_to_num(nan=7.0), special.nan_to_num(nan=7.0))
    assert round_to_tf32(numbers.double()) is not None
    assert torch.equal(round_to_tf32(numbers.double()), numbers.double())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_products_have_rounded_factors_and_sums_in_float32(mode):
    tokens, weight, bias = torch.randn(3, 5, 16), nn.Parameter(torch.randn(8, 16)), torch.randn(8)
    rounded, columns = round_to_tf32(tokens).double(), round_to_tf32(weight.detach()).double().T
    with mode(), emulated_tf32():
        linear = nn.functional.linear(tokens, weight, bias).detach()
        batched = torch.einsum("bij,bkj->bik", tokens, tokens)
        mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
    assert torch.allclose(linear.double(), rounded @ columns + bias.double(), atol=1e-5)
    assert torch.allclose(batched.double(), rounded @ rounded.mT, atol=1e-5)
    plain = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
    assert 1e-5 < float((mixed - plain).abs().max()) < 1e-1
    assert not torch.allclose(linear, nn.functional.linear(tokens, weight, bias), atol=1e-5)


def test_products_of_backward_passes_are_rounded_too():
    tokens, weight = torch.randn(7, 16), nn.Parameter(torch.randn(8, 16))
    with emulated_tf32():
        nn.functional.linear(tokens, weight).sum().backward()
    assert torch.allclose(weight.grad, round_to_tf32(tokens).sum(0).expand(8, -1), atol=1e-5)


def test_int8_rounds_each_row_to_its_own_levels():
    weight = torch.tensor([[254.0, -3.1, 0.9], [0.127, 0.0011, -0.0604]])
    assert torch.allclose(round_to_int8(weight), torch.tensor([[254.0, -4.0, 0.0], [0.127, 0.001, -0.060]]))
    assert torch.equal(round_to_int8(torch.tensor([0.3, 0.7])), torch.tensor([0.3, 0.7]))


# Loops whose exponents are known.


def orthogonal(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0].float()


class Linear(nn.Module):
    """z <- c + A (z - c), with c = x, or c = 0; starts at ``offset`` x beyond c."""

    def __init__(self, matrix: torch.Tensor, center: float, offset: float) -> None:
        super().__init__()
        self.matrix, self.center, self.offset = nn.Parameter(matrix), center, offset

    def encode(self, inputs):
        return inputs

    def start(self, recalled):
        return (self.center + self.offset) * recalled

    def step(self, state, recalled):
        return self.center * recalled + (state - self.center * recalled) @ self.matrix.T

    def read(self, state):
        return state


class Driven(Linear):
    """z <- A z + x, from zero."""

    def start(self, recalled):
        return torch.zeros_like(recalled)

    def step(self, state, recalled):
        return state @ self.matrix.T + recalled


class Logistic(nn.Module):
    """Independent maps z <- r z (1 - z): the exponent is log 2 at r = 4."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(4.0))

    def encode(self, inputs):
        return inputs

    def start(self, recalled):
        return torch.sigmoid(recalled)

    def step(self, state, recalled):
        return self.rate * state * (1 - state)

    def read(self, state):
        return state


class Settling(nn.Module):
    """z <- tanh(W z) + x, whose Jacobian at the fixed point is known in full."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 12, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(0.95 * orthogonal(12, 5))

    def encode(self, inputs):
        return inputs

    def start(self, recalled):
        return torch.zeros_like(recalled)

    def step(self, state, recalled):
        return torch.tanh(self.layer(state)) + recalled

    def read(self, state):
        return state


def settled_exponent(loop: Settling, inputs: torch.Tensor) -> float:
    """Return the median over the first four inputs of the log of the spectral radius at the fixed point."""
    weight = loop.layer.weight.detach().double()
    radii = []
    for one in inputs[:4].double():
        state = torch.zeros_like(one)
        for _ in range(500):
            state = torch.tanh(weight @ state) + one
        jacobian = (1 - torch.tanh(weight @ state) ** 2)[:, None] * weight
        radii.append(float(torch.linalg.eigvals(jacobian).abs().max().log()))
    return float(torch.tensor(radii).quantile(0.5))


TURN = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
KNOWN = {
    "contraction": (Driven(0.9 * orthogonal(16, 1), 0.0, 0.0), 16, math.log(0.9), 0.001),
    "rotation": (Linear(orthogonal(16, 2), 0.0, 1.0), 16, 0.0, 0.001),
    "spiral": (Linear(1.03 * TURN, 1.0, 1e-3), 2, math.log(1.03), 0.001),
    "chaos": (Logistic(), 24, math.log(2), 0.1),
    "settling": (Settling(), 12, None, 0.01),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_error_after_many_iterations_is_predicted_from_the_exponents(name):
    loop, size, exponent, tolerance = KNOWN[name]
    inputs = 0.3 * torch.randn(6, size, generator=torch.Generator().manual_seed(7))
    found = ls.precision(loop, inputs, iterations=200)
    assert not found.unknown
    assert found.known == 50
    exponent = settled_exponent(loop, inputs) if exponent is None else exponent
    assert found.exponent == pytest.approx(exponent, abs=tolerance)
    for low in LOW:
        result = found[low]
        assert 0.5 < result.predicted / result.measured < 2, (low, result.predicted, result.measured)


def test_a_difference_grows_as_the_exponent_says_until_it_is_large():
    loop, size, exponent, _ = KNOWN["chaos"]
    found = ls.precision(loop, torch.randn(6, size, generator=torch.Generator().manual_seed(1)), iterations=60)
    assert math.log(found["float32"].growth) == pytest.approx(exponent, abs=0.15)
    middle = found["float32"].difference[1]
    assert middle[1] < 1e-5
    assert middle[-1] > 0.1


def test_growth_is_fitted_while_differences_are_small_only():
    time = torch.arange(60.0, dtype=torch.float64)[:, None]
    exact = 1e-6 * 1.5**time
    assert _growth(exact.clamp_max(0.5)) == pytest.approx(1.5)
    assert _growth(torch.zeros(30, 2).double()) is None
    assert _growth(torch.full((30, 2), 0.4).double()) is None


@pytest.mark.parametrize(("coherent", "expected"), [(True, 200.0), (False, math.sqrt(200))])
def test_errors_that_agree_add_up_and_others_add_their_squares(coherent, expected):
    steps = torch.arange(51.0, dtype=torch.float64)
    differences = (steps if coherent else steps.sqrt())[:, None]
    neutral = Course(torch.zeros(200, 1).double(), torch.zeros(1).double())
    found = predict_difference(differences, torch.ones(201, 1).double(), neutral)
    assert float(found) == pytest.approx(expected, rel=0.02)


def test_sizes_between_samples_are_interpolated_on_a_logarithmic_scale():
    samples = {0: torch.tensor([1.0]), 4: torch.tensor([16.0]), 6: torch.tensor([16.0])}
    found = _every_iteration({place: size.double() for place, size in samples.items()}, 8)
    assert found[:, 0].tolist() == pytest.approx([1, 2, 4, 8, 16, 16, 16, 16])


def test_answers_differ_from_the_iteration_after_which_they_are_rarely_the_same():
    same = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 1], [0, 1, 0, 1]], dtype=torch.bool)
    assert _differ_from(same) == [1, None, 0, None]


def test_floors_are_those_of_the_precisions():
    loop, size, *_ = KNOWN["settling"]
    inputs = 0.5 * torch.randn(4, size, generator=torch.Generator().manual_seed(0))
    found = ls.precision(loop, inputs, iterations=200)
    floors = {result.name: result.floor for result in found.results}
    assert floors["float64"] < 1e-12 < floors["float32"] < 3e-6 < floors["bf16"] < 0.05
    assert 1e-6 < floors["tf32"] < 2e-3
    assert floors["int8"] < 3e-6  # other weights have another fixed point, which is reached as closely


def test_targets_answers_and_padding_count():
    class Padded(Settling):
        def mask(self, recalled):
            return torch.arange(12).expand(len(recalled), 12) < 9

    inputs = torch.randn(5, 12, generator=torch.Generator().manual_seed(3))
    targets = torch.zeros(5, dtype=torch.long)
    found = ls.precision(Padded(), inputs, targets, iterations=12)
    exact = inputs.double()
    loop = Padded().double()
    state = torch.zeros_like(exact)
    for _ in range(12):
        state = loop.step(state, exact)
    assert found["float64"].accuracy[-1] == pytest.approx(float((state.argmax(1) == 0).double().mean()))
    alone = ls.precision(Padded(), inputs, iterations=12, precisions=["bf16"], answers=lambda logits: logits[:, :1] > 9)
    assert alone["bf16"].same == [1.0] * 13


def test_a_random_start_is_the_same_in_every_precision():
    class Drawn(Settling):
        def start(self, recalled, generator):
            return torch.randn(recalled.shape, generator=generator, dtype=recalled.dtype)

    found = ls.precision(Drawn(), torch.randn(3, 12), iterations=5)
    assert found["float32"].difference[1][0] == 0
    assert found["bf16"].difference[1][0] < 0.01


def test_the_loop_and_the_random_state_stay_as_they_were():
    loop = Settling().train()
    before, state = loop.layer.weight.clone(), torch.get_rng_state()
    ls.precision(loop, torch.randn(3, 12, generator=torch.Generator().manual_seed(0)), iterations=3)
    assert torch.equal(loop.layer.weight, before)
    assert loop.layer.weight.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    assert loop.training


def test_a_precision_in_which_the_loop_does_not_run_is_left_out():
    class Picky(Settling):
        def step(self, state, recalled):
            if state.dtype == torch.bfloat16:
                raise RuntimeError("not implemented for 'BFloat16'")
            return super().step(state, recalled)

    found = ls.precision(Picky(), torch.randn(3, 12), iterations=4)
    assert [result.name for result in found.results] == ["float64", "float32", "tf32", "int8"]
    assert found.unknown == {"bf16": "the loop does not run in this precision: not implemented for 'BFloat16'"}


def test_a_loop_with_a_clock_has_no_prediction():
    class Counting(Settling):
        def start(self, recalled):
            return {"z": torch.zeros_like(recalled), "t": torch.zeros(len(recalled), dtype=torch.long)}

        def step(self, state, recalled):
            return {"z": super().step(state["z"], recalled), "t": state["t"] + 1}

        def read(self, state):
            return state["z"]

    found = ls.precision(Counting(), torch.randn(3, 12), iterations=4)
    assert "depends on time" in found.unknown["exponents"]
    assert found.exponent is None
    assert found["bf16"].predicted is None
    assert found["bf16"].difference[1][-1] > 0


def test_a_step_may_take_the_iteration_but_no_random_numbers():
    layer = nn.Linear(6, 6)

    def at(state, recalled, iteration):
        return torch.tanh(layer(state)) + recalled / (1 + iteration)

    def noisy(state, recalled, generator):
        return torch.tanh(layer(state)) + torch.randn(state.shape, generator=generator)

    timed, random = (
        ls.FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z, module=layer) for step in (at, noisy)
    )
    inputs = torch.randn(3, 6)
    found = ls.precision(timed, inputs, iterations=6)
    assert 0 < found["float32"].difference[1][-1] < found["bf16"].difference[1][-1] < 0.1
    with pytest.raises(ls.LoopscopeError, match="the step draws random numbers, which differ from one precision"):
        ls.precision(random, inputs, iterations=6)


def test_the_result_is_printed_and_goes_to_json():
    found = ls.precision(Settling(), torch.randn(3, 12), iterations=12)
    text = str(found)
    assert text.splitlines()[0].startswith("3 inputs, 12 iterations against float64")
    assert [line.split()[0] for line in text.splitlines()[3:]] == list(ARITHMETICS)
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [one["name"] for one in values["results"]] == list(ARITHMETICS)
    with pytest.raises(
        ls.LoopscopeError, match=r"'bfloat16' was not compared, expected one of .* \(did you mean float64"
    ):
        found["bfloat16"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"precisions": ["fp8"]}, "precision is 'fp8', expected one of float64, float32, tf32, bf16, int8"),
        ({"targets": torch.zeros(2)}, "expected 3 as the first dimension, one entry per input"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(ls.LoopscopeError, match=said):
        ls.precision(Settling(), torch.randn(3, 12), **options)


def test_a_function_loop_that_does_not_name_its_model_is_refused_with_the_remedy():
    layer = nn.Linear(12, 12)
    loop = ls.FunctionLoop(
        lambda x: x, lambda x: torch.zeros_like(x), lambda z, x: torch.tanh(layer(z)) + x, lambda z: z
    )
    with pytest.raises(ls.LoopscopeError, match=r"does not run in float64 .* FunctionLoop\(\.\.\., module=model\)"):
        ls.precision(loop, torch.randn(3, 12))


# What a precision spoils.


def pre_norm_loop() -> tuple[LoopedTransformer, dict[str, torch.Tensor], torch.Tensor]:
    """Return a pre-norm transformer with random weights, and where it is after 16 iterations, with what it recalls."""
    torch.manual_seed(0)
    shape = {"inputs": 10, "outputs": 10, "grid": (4, 4), "attention": "full", "recall": "none"}
    model = LoopedTransformer(LoopedTransformerConfig(width=32, heads=4, norm="pre", **shape)).requires_grad_(False)
    recalled = model.encode(torch.randn(1, 16, 10))
    state = model.start(recalled)
    for _ in range(16):
        state = model.step(state, recalled)
    return model, recalled, state


def radius_by_differences(model, state, recalled, size: float = 1e-3, iterations: int = 40) -> float:
    """Return the spectral radius by power iteration on finite differences of the step."""
    generator = torch.Generator().manual_seed(1)
    vector = torch.randn(state.shape, generator=generator, dtype=torch.float64).to(state)
    vector = vector / vector.norm()
    here = model.step(state, recalled)
    for _ in range(iterations):
        difference = (model.step(state + size * vector, recalled) - here) / size
        vector = difference / difference.norm()
    return float(difference.norm())


def test_under_tf32_a_radius_by_finite_differences_is_mostly_rounding():
    model, recalled, state = pre_norm_loop()
    exact = float(ls.spectral_radius(model, state, recalled, dtype=torch.float64).radius)
    fine = model.double()
    wide = {name: value.double() for name, value in recalled.items()}
    in_double = radius_by_differences(fine, state.double(), wide)
    model.float()
    with emulated_tf32():
        rounded = radius_by_differences(model, state, recalled)
        products = float(ls.spectral_radius(model, state, recalled).radius)
    assert in_double == pytest.approx(exact, rel=0.05)
    assert rounded > 2 * exact
    # Exact products with the Jacobian lose three digits in TF32, not all of them.
    assert products == pytest.approx(exact, rel=0.03)


def test_examining_under_tf32_warns():
    model, *_ = pre_norm_loop()
    inputs = torch.randn(2, 16, 10)
    ls.examine(model, inputs, effort="quick", iterations=4)
    with emulated_tf32(), pytest.warns(LoopscopeWarning, match=r"rounded to less than float32 here \(TF32\)"):
        ls.examine(model, inputs, effort="quick", iterations=4)


def test_autocast_inside_the_step_is_named_and_autocast_around_is_not():
    layer = nn.Linear(8, 8)

    def step(state, recalled):
        with torch.autocast("cpu", torch.bfloat16):
            return torch.tanh(layer(state)).float() + recalled

    inputs = torch.randn(2, 8)
    inside = ls.FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z, module=layer)
    with torch.no_grad():
        assert "the step multiplies in bfloat16" in spoiled_by(inside, inputs, inputs)
        around = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, x: layer(z) + x, lambda z: z, module=layer)
        with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
            assert spoiled_by(around, inputs, inputs) is None


def test_weights_in_half_precision_are_not_a_setting():
    layer = nn.Linear(8, 8).bfloat16()
    loop = ls.FunctionLoop(
        lambda x: x, torch.zeros_like, lambda z, x: layer(z.bfloat16()).float() + x, lambda z: z, module=layer
    )
    assert spoiled_by(loop, torch.zeros(1, 8), torch.zeros(1, 8)) is None


def test_exact_products_are_set_and_set_back():
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul)
    torch.set_float32_matmul_precision("high")
    try:
        before = [backend.fp32_precision for backend in backends]
        with exact_products():
            assert [backend.fp32_precision for backend in backends] == ["ieee"] * 3
            assert not rounds_products(torch.device("cpu"))
        assert [backend.fp32_precision for backend in backends] == before
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
