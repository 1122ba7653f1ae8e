"""The measured rounding of steps that round in a known way."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_fixed_points import F64, generator

import loopscope as ls
from loopscope.fixed_points import NoiseFloor, measure_noise_floor
from loopscope.fixed_points.noise_floor import RESIDUAL_PER_NOISE, ROUNDING
from loopscope.loop import iterate

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": F64}
PAIRS = [
    ("float32", "float32"),
    ("float64", "float64"),
    ("bfloat16", "float32"),
    ("float16", "float32"),
    ("float32", "float64"),
    ("bfloat16", "float64"),
]


def loop_of(step, **others):
    return ls.FunctionLoop(encode=lambda x: x, start=torch.clone, step=step, read=lambda z: z, **others)


def through(name):
    """Compute in a floating type, whatever that of the state is."""
    return lambda x: x.to(TYPES[name])


@pytest.mark.parametrize(("inside", "outside"), PAIRS)
def test_rounding_alone_has_its_closed_form(inside, outside):
    """Numbers in [1, 2) lie 2u apart, so that rounding them errs by u / sqrt(3)."""
    z = 1 + torch.rand(4, 500, generator=generator(), dtype=F64)
    state = z.to(TYPES[outside])
    loop = loop_of(lambda z, e: through(inside)(z).to(z))
    unit = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}[inside]
    expected = unit / math.sqrt(3) / float(z.square().mean().sqrt())
    found = measure_noise_floor(loop, state, state)
    assert found.noise == pytest.approx(expected, rel=0.25)
    assert found.precision == inside
    assert found.is_coarser is (inside != outside)
    assert found.residual == RESIDUAL_PER_NOISE * found.noise


STEPS = {
    "affine": lambda z, e, w: z @ w + e,
    "tanh": lambda z, e, w: torch.tanh(z @ w + e),
    "relu": lambda z, e, w: z / 2 + torch.relu(z @ w + e) @ w.T,
    "norm": lambda z, e, w: torch.nn.functional.rms_norm(z + z @ w + e, z.shape[1:]),
}


@pytest.mark.parametrize(("inside", "outside"), PAIRS)
@given(
    size=st.integers(16, 80),
    rate=st.floats(0.1, 1.5),
    name=st.sampled_from(sorted(STEPS)),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=25)
def test_a_step_that_computes_in_a_type_has_the_rounding_of_that_type(inside, outside, size, rate, name, seed):
    draw = torch.randn(size + 4, size, generator=generator(seed), dtype=F64)
    weight, shift = rate * draw[:size] / size**0.5, draw[size:]

    def step(z, e):
        low = through(inside)
        return STEPS[name](low(z), low(e), low(weight)).to(z)

    inputs = shift.to(TYPES[outside])
    found = measure_noise_floor(loop_of(step), inputs, inputs)
    assert found.precision == inside
    assert ROUNDING[inside] / 4 <= found.noise <= 16 * ROUNDING[inside]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(("inside", "outside"), PAIRS)
def test_states_of_few_numbers(size, inside, outside):
    inputs = torch.linspace(0.2, 1, 3 * size, dtype=F64).view(3, size).to(TYPES[outside])
    found = measure_noise_floor(
        loop_of(lambda z, e: (0.7 * through(inside)(z) + through(inside)(e)).to(z)), inputs, inputs
    )
    assert found.precision == inside


@pytest.mark.parametrize("inside", ["bfloat16", "float32"])
@pytest.mark.parametrize("rate", [0.3, 0.68, 0.9])
def test_residuals_level_off_at_the_floor(inside, rate):
    """On random loops of this spectral radius: none ends far above the floor, and not all of them below a hundredth of it."""
    matrix = torch.randn(64, 64, generator=generator(), dtype=F64)
    matrix = (rate * matrix / torch.linalg.eigvals(matrix).abs().max()).to(TYPES[inside])
    outside = F64 if inside == "float32" else torch.float32
    loop = loop_of(lambda z, e: (through(inside)(z) @ matrix + through(inside)(e)).to(z))
    inputs = torch.randn(4, 64, generator=generator(1)).to(outside)
    state = iterate(loop, inputs, inputs, 300)
    residuals = []
    for _ in range(50):
        after = loop.step(state, inputs)
        residuals.append((after - state).norm(dim=1) / after.norm(dim=1))
        state = after
    floor = measure_noise_floor(loop, state, inputs)
    worst = float(torch.stack(residuals).max())
    assert floor.residual / 100 <= worst <= floor.residual


def test_a_part_that_rounds_more_coarsely_counts_by_its_share():
    """A residual stream in float32 that adds a tenth of what is computed in bf16."""
    inputs = torch.randn(4, 300, generator=generator())

    def step(z, e):
        return 0.5 * z + 0.05 * torch.tanh(z).bfloat16().float() + e

    found = measure_noise_floor(loop_of(step), inputs, inputs)
    expected = 0.05 * ROUNDING["bfloat16"] * float(torch.tanh(inputs).norm() / step(inputs, inputs).norm())
    assert found.noise == pytest.approx(expected, rel=0.4)
    assert found.is_coarser


@pytest.mark.parametrize("sharpness", [1.0, 10.0, 100.0])
def test_sharp_but_smooth_steps_are_not_taken_for_rounding(sharpness):
    inputs = torch.randn(4, 64, generator=generator(), dtype=F64)
    found = measure_noise_floor(
        loop_of(lambda z, e: torch.tanh(sharpness * z) + torch.sin(sharpness * e)), inputs, inputs
    )
    assert found.noise < 1e-14


def test_jumps_and_kinks_are_not_taken_for_rounding():
    inputs = torch.randn(4, 64, 8, generator=generator())
    experts = torch.randn(4, 8, 8, generator=generator(1))

    def routed(z, e):
        chosen = experts[z[..., :4].argmax(-1)]
        return torch.einsum("btn,btnm->btm", z.abs(), chosen) / 8**0.5 + e

    found = measure_noise_floor(loop_of(routed), inputs, inputs)
    assert found.precision == "float32"
    assert found.noise < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 3e19, 1e36])
def test_the_unit_of_the_state_does_not_matter(scale):
    inputs = torch.randn(4, 100, generator=generator())
    loop = loop_of(lambda z, e: 0.7 * z + e)
    at_one = measure_noise_floor(loop, inputs, inputs).noise
    assert at_one > ROUNDING["float32"]
    assert measure_noise_floor(loop, scale * inputs, scale * inputs).noise == pytest.approx(at_one, rel=0.2)


def test_parts_of_different_sizes_are_moved_by_their_own():
    """A small part is not moved by the size of the large one, at which sin varies wildly."""
    small, large = torch.randn(2, 3, 50, generator=generator())
    state = {"small": 1e-4 * small, "large": 1e4 * large, "count": torch.zeros(3, dtype=torch.long)}

    def step(z, e):
        return {"small": torch.sin(z["small"]), "large": 1e4 * torch.sin(1e4 * z["small"]), "count": z["count"] + 1}

    assert measure_noise_floor(loop_of(step), state, small).noise < 1e-6


def test_padding_is_left_out():
    state = torch.ones(2, 6, 40)
    state[:, 3:] = math.nan
    real = torch.arange(6).expand(2, 6) < 3

    def step(z, e):
        inside = (0.5 * z + 1 / 3).bfloat16().float()
        return torch.where(real[0][:, None], inside, math.nan)

    masked = loop_of(step, padding=lambda e: torch.arange(6).expand(len(e), 6) < 3)
    assert measure_noise_floor(masked, state, state[:, 0]).precision == "bfloat16"


def test_at_zero_and_where_nothing_can_be_measured_the_rounding_of_the_state_is_taken():
    inputs = torch.randn(2, 50, generator=generator())
    assert measure_noise_floor(loop_of(lambda z, e: 0.5 * z + e), 0 * inputs, inputs).precision == "float32"
    for step in (lambda z, e: 0 * z, lambda z, e: math.nan * z):
        found = measure_noise_floor(loop_of(step), 0 * inputs, inputs)
        assert found == NoiseFloor(ROUNDING["float32"], "float32")


def test_the_models_own_state_is_left_alone_and_autocast_is_off():
    inputs = torch.randn(4, 64, generator=generator())
    weight = torch.randn(64, 64, generator=generator()) / 8
    before = inputs.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = measure_noise_floor(loop_of(lambda z, e: z @ weight + e), inputs, inputs)
    assert found.precision == "float32"
    assert torch.equal(inputs, before)
