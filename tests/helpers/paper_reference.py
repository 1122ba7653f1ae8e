"""The architecture of the paper a second time, in plain float64 operations: the reference that models are tested against."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from loopscope.models import LoopedTransformerConfig

RECALLS = ("none", "external", "internal")
NORMS = ("pre", "peri", "outer", "sandwich", "gru")
LINE = {"grid": (0,), "attention": "local", "kernel_size": 5}
CAUSAL = {"grid": (0,), "attention": "causal"}
GRID = {"grid": (3, 4), "attention": "full"}


def config(**options) -> LoopedTransformerConfig:
    return LoopedTransformerConfig(**{"width": 16, "heads": 2, "inputs": 3, "outputs": 4, **GRID, **options})


def scrambled(model, seed: int = 0):
    """Give every parameter its own random values, gains and biases too: at their defaults, mix-ups would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.double().parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.25 * noise + (parameter == 1))
    return model


def inputs_for(model, tokens: int = 12) -> Tensor:
    return torch.randn(2, tokens, model.config.inputs, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def neighbourhood(token: int, length: int, kernel_size: int) -> list[int]:
    """Return the positions that a token sees: the kernel around it, shifted inward at the ends of the line."""
    first = max(0, min(token - kernel_size // 2, length - kernel_size))
    return list(range(first, min(first + kernel_size, length)))


@dataclass
class Plain:
    """The architecture of the paper in plain tensor operations on the raw weights."""

    weights: dict[str, Tensor]
    config: LoopedTransformerConfig
    block: int = 0

    def rms(self, features: Tensor, name: str) -> Tensor:
        return features / (features.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weights[f"{name}.weight"]

    def linear(self, features: Tensor, name: str) -> Tensor:
        return features @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def gelu(self, features: Tensor) -> Tensor:
        return features * (1 + torch.erf(features / math.sqrt(2))) / 2

    def positions(self, tokens: int) -> list[tuple[int, ...]]:
        if self.config.grid == (0,):
            return [(i,) for i in range(tokens)]
        rows, columns = self.config.grid
        return [(i, j) for i in range(rows) for j in range(columns)]

    def rotary(self, features: Tensor) -> Tensor:
        """Multiply feature pairs (i, i + half), as complex numbers, by exp(i angle)."""
        pairs = features.shape[-1] // 2
        positions = self.positions(features.shape[1])
        per_axis = pairs // len(positions[0])
        angles = torch.tensor(
            [
                [axis * self.config.rope_base ** (-k / per_axis) for axis in where for k in range(per_axis)]
                for where in positions
            ],
            dtype=torch.float64,
        )
        # The model keeps its table in float32; everything else here is float64.
        turns = torch.complex(angles.cos().float().double(), angles.sin().float().double())
        turned = torch.complex(features[..., :pairs], features[..., pairs:]) * turns[:, None]
        return torch.cat([turned.real, turned.imag], -1)

    def attention(self, tokens: Tensor) -> Tensor:
        name, heads = f"blocks.{self.block}.attention", self.config.heads
        batch, length, width = tokens.shape
        query, key, value = (
            part.reshape(batch, length, heads, width // heads)
            for part in self.linear(tokens, f"{name}.query_key_value").split(width, -1)
        )
        query = self.rms(self.rotary(query), f"{name}.query_norm")
        key = self.rms(self.rotary(key), f"{name}.key_norm")
        scores = torch.einsum("bihc,bjhc->bhij", query, key) / math.sqrt(width // heads)
        if self.config.attention == "causal":
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        if self.config.attention == "local":
            seen = torch.zeros(length, length, dtype=torch.bool)
            for token in range(length):
                seen[token, neighbourhood(token, length, self.config.kernel_size)] = True
            scores = scores.masked_fill(~seen, -math.inf)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        return self.linear(torch.einsum("bhij,bjhc->bihc", weights, value).reshape(batch, length, width), f"{name}.out")

    def mlp(self, tokens: Tensor) -> Tensor:
        name = f"blocks.{self.block}.mlp"
        return self.linear(self.gelu(self.linear(tokens, f"{name}.0")), f"{name}.2")

    def norm_in(self, features: Tensor) -> Tensor:
        return self.rms(features, f"blocks.{self.block}.residual.norm_in")

    def norm_update(self, features: Tensor) -> Tensor:
        return self.rms(features, f"blocks.{self.block}.residual.norm_update")

    def norm_out(self, features: Tensor) -> Tensor:
        return self.rms(features, f"blocks.{self.block}.residual.norm_out")

    def gru(self, update: Tensor, hidden: Tensor) -> Tensor:
        name = f"blocks.{self.block}.residual.cell"
        w, u, b, c = (self.weights[f"{name}.{part}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        width = hidden.shape[-1]
        r, g, n = (slice(i * width, (i + 1) * width) for i in range(3))
        reset = torch.sigmoid(update @ w[r].T + b[r] + hidden @ u[r].T + c[r])
        keep = torch.sigmoid(update @ w[g].T + b[g] + hidden @ u[g].T + c[g])
        new = torch.tanh(update @ w[n].T + b[n] + reset * (hidden @ u[n].T + c[n]))
        return (1 - keep) * new + keep * hidden

    def recall(self, state: Tensor, embedding: Tensor) -> Tensor:
        injected = embedding @ self.weights["recall.input.weight"].T + self.weights["recall.input.bias"]
        return state @ self.weights["recall.state.weight"].T + injected

    def iteration(self, state: Tensor, embedding: Tensor) -> Tensor:
        if self.config.recall == "external":
            state = self.recall(state, embedding)
        for block in range(self.config.blocks):
            self.block = block
            for sublayer in (self.attention, self.mlp):
                state = EQUATIONS[self.config.norm, self.config.recall](self, state, sublayer, embedding)
        return state

    def forward(self, inputs: Tensor, free: int, gradient: int) -> Tensor:
        embedding = self.linear(inputs, "embedding")
        state = embedding
        with torch.no_grad():
            for _ in range(free):
                state = self.iteration(state, embedding)
        for _ in range(gradient):
            state = self.iteration(state, embedding)
        return self.read(state)

    def read(self, state: Tensor) -> Tensor:
        return self.linear(self.gelu(self.linear(self.rms(state, "readout.0"), "readout.1")), "readout.3")


# One sub-layer S on the state z (paper, normalization table; N is this object's norms, R(a, e) its recall).
WITHOUT_RECALL = {
    "pre": lambda n, z, S, e: z + S(n.norm_in(z)),
    "peri": lambda n, z, S, e: z + n.norm_update(S(n.norm_in(z))),
    "outer": lambda n, z, S, e: n.norm_out(z + S(z)),
    "sandwich": lambda n, z, S, e: n.norm_out(z + S(n.norm_in(z))),
    "gru": lambda n, z, S, e: n.gru(n.norm_update(S(n.norm_in(z))), z),
}
INTERNAL = {
    "pre": lambda n, z, S, e: z + S(n.recall(n.norm_in(z), e)),
    "peri": lambda n, z, S, e: z + n.norm_update(S(n.recall(n.norm_in(z), e))),
    "outer": lambda n, z, S, e: n.norm_out(z + S(n.recall(z, e))),
    "sandwich": lambda n, z, S, e: n.norm_out(z + S(n.recall(n.norm_in(z), e))),
    "gru": lambda n, z, S, e: n.gru(n.norm_update(S(n.recall(n.norm_in(z), e))), z),
}
EQUATIONS = {
    (norm, recall): (INTERNAL if recall == "internal" else WITHOUT_RECALL)[norm] for norm in NORMS for recall in RECALLS
}


def plain(model) -> Plain:
    return Plain(dict(model.state_dict()), model.config)
