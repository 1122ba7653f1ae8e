"""Families of loops other than Loopscope's transformer: each is a module with encode, start, step and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from experiments.forecasts.tasks import CELLS, NODES, SIDE, TASKS, Task
from loopscope.trees import Tree

WIDTH = 24


class Strings(nn.Module, ABC):
    """Base class. Tokens are embedded once; the state has one vector per token and is read token by token."""

    def __init__(self, task: Task, width: int = WIDTH) -> None:
        super().__init__()
        self.embed = nn.Linear(task.features, width)
        self.head = nn.Linear(width, task.classes)

    def encode(self, inputs: Tensor) -> Tree:
        return self.embed(inputs)

    def start(self, recalled: Tree, generator: torch.Generator | None = None) -> Tree:
        return torch.zeros_like(recalled)

    @abstractmethod
    def step(self, state: Tree, recalled: Tree) -> Tree:
        """Return the next state."""

    def read(self, state: Tree) -> Tensor:
        return self.head(state)


def _along(convolution: nn.Conv1d, tokens: Float[Tensor, "batch tokens width"]) -> Tensor:
    return convolution(tokens.mT).mT


class ConvolutionalRecall(Strings):
    """Deep Thinking networks: convolutions of the state and the recalled input, added to the state and rectified."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.first = nn.Conv1d(2 * WIDTH, WIDTH, 3, padding=1)
        self.second = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        inner = _along(self.first, torch.cat([state, recalled], dim=2)).relu()
        return (state + _along(self.second, inner)).relu()


class GRU(Strings):
    """A GRU cell that sees the same input at every step."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.cell = nn.GRUCell(WIDTH, WIDTH)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        return self.cell(recalled.flatten(0, 1), state.flatten(0, 1)).view_as(state)


class Tanh(Strings):
    """z <- tanh(W z + e), the simplest equilibrium model."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.inner = nn.Linear(WIDTH, WIDTH, bias=False)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        return (self.inner(state) + recalled).tanh()


class ResidualPerceptron(Strings):
    """A perceptron with one hidden layer, added to an unbounded state."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.first = nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.second = nn.Linear(2 * WIDTH, WIDTH)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        return state + self.second(self.first(torch.cat([state, recalled], dim=2)).relu())


class NormedConvolution(Strings):
    """Convolutions added to a state that is then normalized. The input is the first state and is not recalled."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.first = nn.Conv1d(WIDTH, 2 * WIDTH, 3, padding=1)
        self.second = nn.Linear(2 * WIDTH, WIDTH)

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return recalled

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        return rms_norm(state + self.second(_along(self.first, state).relu()), (WIDTH,))


class PreNormMixer(Strings):
    """Pre-norm residual mixing of tokens and features. The state is unbounded and is read through a norm."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.tokens = nn.Linear(CELLS, CELLS)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        state = state + self.tokens(rms_norm(state + recalled, (WIDTH,)).mT).mT
        return state + self.mlp(rms_norm(state, (WIDTH,)))

    def read(self, state: Tensor) -> Tensor:
        return self.head(rms_norm(state, (WIDTH,)))


class LSTM(Strings):
    """An LSTM cell that sees the same input at every step. The state is a pair, one part of which is unbounded."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.cell = nn.LSTMCell(WIDTH, WIDTH)

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(recalled), torch.zeros_like(recalled)

    def step(self, state: tuple[Tensor, Tensor], recalled: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = self.cell(recalled.flatten(0, 1), tuple(part.flatten(0, 1) for part in state))
        return hidden.view_as(recalled), cell.view_as(recalled)

    def read(self, state: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(state[0])


class TwoState(Strings):
    """A low and a high state, as in hierarchical reasoning models: two updates of the low state, then one of the high state."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.mix = nn.Conv1d(WIDTH, 2 * WIDTH, 3, padding=1)
        self.out = nn.Linear(2 * WIDTH, WIDTH)

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return torch.ones_like(recalled), torch.ones_like(recalled)

    def _update(self, state: Tensor, other: Tensor) -> Tensor:
        change = self.out(nn.functional.silu(_along(self.mix, state + other)))
        return rms_norm(state + change, (WIDTH,))

    def step(self, state: tuple[Tensor, Tensor], recalled: Tensor) -> tuple[Tensor, Tensor]:
        low, high = state
        for _ in range(2):
            low = self._update(low, high + recalled)
        return low, self._update(high, low)

    def read(self, state: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(state[1])


class SoftmaxFeedback(Strings):
    """A transformer whose state holds hidden vectors and the softmax of its predictions; the input enters only at the start."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.place = nn.Parameter(0.5 * torch.randn(32, WIDTH))
        self.feedback = nn.Linear(task.classes, WIDTH)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.merge = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def encode(self, inputs: Tensor) -> Tensor:
        return self.embed(inputs) + self.place[: inputs.shape[1]]

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return recalled, self.head(rms_norm(recalled, (WIDTH,))).softmax(2)

    def step(self, state: tuple[Tensor, Tensor], recalled: Tensor) -> tuple[Tensor, Tensor]:
        hidden, answer = state
        hidden = hidden + self.feedback(answer)
        query, key, value = (
            part.unflatten(2, (2, WIDTH // 2)).transpose(1, 2)
            for part in self.project(rms_norm(hidden, (WIDTH,))).chunk(3, dim=2)
        )
        seen = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = hidden + self.merge(seen)
        hidden = hidden + self.mlp(rms_norm(hidden, (WIDTH,)))
        return hidden, self.read((hidden, answer)).softmax(2)

    def read(self, state: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(rms_norm(state[0], (WIDTH,)))


class NeuralGPU(Strings):
    """A convolutional gated unit. The input is its first state and is not recalled."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.gates = nn.Conv1d(WIDTH, 2 * WIDTH, 3, padding=1)
        self.candidate = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return recalled

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        update, reset = (_along(self.gates, state) + 0.5).sigmoid().chunk(2, dim=2)
        return update * state + (1 - update) * _along(self.candidate, reset * state).tanh()


class Automaton(Strings):
    """A neural cellular automaton: each cell adds the output of a small network of its neighbourhood. No recall."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.perceive = nn.Conv1d(WIDTH, 2 * WIDTH, 3, padding=1)
        self.update = nn.Linear(2 * WIDTH, WIDTH)
        with torch.no_grad():
            self.update.weight *= 0.3

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return recalled

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        return state + self.update(_along(self.perceive, state).relu())


class MessagePassing(Strings):
    """Message passing: each node sums messages from its neighbours. The graph and the node features are recalled."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.embed = nn.Linear(1, WIDTH)
        self.message = nn.Linear(WIDTH, WIDTH)
        self.own = nn.Linear(WIDTH, WIDTH)

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs[..., :NODES], self.embed(inputs[..., NODES:])

    def start(self, recalled: tuple[Tensor, Tensor], generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros_like(recalled[1])

    def step(self, state: Tensor, recalled: tuple[Tensor, Tensor]) -> Tensor:
        links, features = recalled
        heard = links @ self.message(state).relu()
        return 0.5 * state + (self.own(state) + heard + features).tanh()


class Rectified(Strings):
    """z <- relu(W z + e), with W the identity at first."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.inner = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.eye_(self.inner.weight)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        return (self.inner(state) + recalled).relu()


class Momentum(Strings):
    """A second-order loop: the state is a point and its velocity, which a small network accelerates."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.first = nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.second = nn.Linear(2 * WIDTH, WIDTH)

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(recalled), torch.zeros_like(recalled)

    def step(self, state: tuple[Tensor, Tensor], recalled: Tensor) -> tuple[Tensor, Tensor]:
        point, velocity = state
        force = self.second(self.first(torch.cat([point, recalled], dim=2)).tanh())
        velocity = 0.8 * velocity + 0.3 * (force - 0.3 * point)
        return point + velocity, velocity

    def read(self, state: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(state[0])


class Highway(Strings):
    """A highway layer of convolutions: a gate mixes the state with a new one; the input is recalled."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.gate = nn.Conv1d(2 * WIDTH, WIDTH, 3, padding=1)
        self.new = nn.Conv1d(2 * WIDTH, WIDTH, 3, padding=1)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        both = torch.cat([state, recalled], dim=2)
        gate = _along(self.gate, both).sigmoid()
        return gate * state + (1 - gate) * _along(self.new, both).relu()


class GatedConvolution(Strings):
    """A gated linear unit of convolutions with recall, normalized at the end of each iteration."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.inner = nn.Conv1d(WIDTH, 4 * WIDTH, 3, padding=1)
        self.outer = nn.Linear(2 * WIDTH, WIDTH)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        change = self.outer(nn.functional.glu(_along(self.inner, state + recalled), dim=2))
        return rms_norm(state + change, (WIDTH,))


class DeepSet(Strings):
    """Elements of a set that see the mean of all states; the input is recalled."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.own = nn.Linear(WIDTH, WIDTH)
        self.shared = nn.Linear(WIDTH, WIDTH, bias=False)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        return 0.5 * state + (self.own(state) + self.shared(state.mean(1, keepdim=True)) + recalled).tanh()


class WithPlaces(Strings):
    """The parts of a transformer on strings: places, the projections of attention, and a perceptron."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.place = nn.Parameter(0.5 * torch.randn(8, WIDTH))
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def encode(self, inputs: Tensor) -> Tensor:
        return self.embed(inputs) + self.place


class LinearAttention(WithPlaces):
    """Attention without a softmax, and a perceptron, both residual under a norm; the input is recalled."""

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        query, key, value = self.project(rms_norm(state + recalled, (WIDTH,))).chunk(3, dim=2)
        query, key = nn.functional.elu(query) + 1, nn.functional.elu(key) + 1
        seen = query @ (key.mT @ value) / (query @ key.sum(1).unsqueeze(2))
        return state + seen + self.mlp(rms_norm(state + seen, (WIDTH,)))

    def read(self, state: Tensor) -> Tensor:
        return self.head(rms_norm(state, (WIDTH,)))


class GridConvolution(Strings):
    """A convolutional recurrent net on a square grid, with recall and a leaky state."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.first = nn.Conv2d(2 * WIDTH, WIDTH, 3, padding=1)
        self.second = nn.Linear(WIDTH, WIDTH)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        square = torch.cat([state, recalled], dim=2).mT.unflatten(2, (SIDE, SIDE))
        inner = self.first(square).relu().flatten(2).mT
        return 0.7 * state + self.second(inner)


class Memory(Strings):
    """A modern Hopfield network: the state moves towards stored patterns that it resembles, and is recalled the input."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.keys = nn.Linear(WIDTH, 32)
        self.values = nn.Linear(32, WIDTH, bias=False)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        return 0.5 * state + 0.5 * (self.values(self.keys(state + recalled).softmax(2)) + recalled)


class Mixture(Strings):
    """Two tanh cells whose results a softmax gate of the state and the recalled input mixes."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.cells = nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.gate = nn.Linear(2 * WIDTH, 2)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        both = torch.cat([state, recalled], dim=2)
        cells = self.cells(both).tanh().unflatten(2, (2, WIDTH))
        return (self.gate(both).softmax(2).unsqueeze(3) * cells).sum(2)


class EnergyDescent(Strings):
    """Steps down the gradient of a learned energy: half the squared state, less log cosh of its features, less its recall."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.features = nn.Linear(WIDTH, 2 * WIDTH)
        self.context = nn.Linear(WIDTH, 2 * WIDTH)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        active = (self.features(state) + self.context(recalled)).tanh()
        return state - 0.4 * (state - active @ self.features.weight - recalled)


class Proximal(Strings):
    """An unrolled proximal step with learned matrices: a linear step, then shrinkage by a threshold."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.outer = nn.Linear(WIDTH, WIDTH)
        self.threshold = nn.Parameter(torch.full((WIDTH,), 0.1))

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        moved = state - 0.5 * self.outer(self.inner(state).relu()) + 0.5 * recalled
        return moved.sign() * (moved.abs() - self.threshold.abs()).relu()


class Rotating(Strings):
    """An orthogonal matrix, made of reflections, turns the state; its length is then squashed below one."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.mirrors = nn.Parameter(torch.randn(4, WIDTH))

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        for mirror in nn.functional.normalize(self.mirrors, dim=1):
            state = state - 2 * (state @ mirror).unsqueeze(2) * mirror
        moved = (state + recalled).relu()
        return moved / (1 + moved.square().mean(2, keepdim=True)).sqrt()


class Spiking(Strings):
    """Leaky units that fire at a soft threshold and are reset; the state holds potentials and traces of the firing."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.inner = nn.Linear(WIDTH, WIDTH)

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(recalled), torch.zeros_like(recalled)

    def step(self, state: tuple[Tensor, Tensor], recalled: Tensor) -> tuple[Tensor, Tensor]:
        potential, trace = state
        fired = (4 * (potential - 1)).sigmoid()
        return 0.7 * potential * (1 - fired) + self.inner(trace) + recalled, 0.7 * trace + 0.3 * fired

    def read(self, state: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(4 * state[1])


class GatedDiffusion(Strings):
    """Diffusion on a graph: each node moves towards the largest of its neighbours, feature by feature, through a gate."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.embed = nn.Linear(1, WIDTH)
        self.gate = nn.Linear(2 * WIDTH, WIDTH)
        self.new = nn.Linear(2 * WIDTH, WIDTH)

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs[..., :NODES], self.embed(inputs[..., NODES:])

    def start(self, recalled: tuple[Tensor, Tensor], generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros_like(recalled[1])

    def step(self, state: Tensor, recalled: tuple[Tensor, Tensor]) -> Tensor:
        links, features = recalled
        heard = (links.unsqueeze(3) * state.unsqueeze(1)).amax(2)
        both = torch.cat([state + features, heard], dim=2)
        return state + self.gate(both).sigmoid() * (self.new(both) - state)


class AttentiveLSTM(Strings):
    """An LSTM cell whose input is what each token attends to among all hidden states, beside the recalled input."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.cell = nn.LSTMCell(2 * WIDTH, WIDTH)

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(recalled), torch.zeros_like(recalled)

    def step(self, state: tuple[Tensor, Tensor], recalled: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = self.project(state[0] + recalled).chunk(3, dim=2)
        seen = nn.functional.scaled_dot_product_attention(query, key, value)
        inner = torch.cat([seen, recalled], dim=2).flatten(0, 1)
        hidden, cell = self.cell(inner, tuple(part.flatten(0, 1) for part in state))
        return hidden.view_as(recalled), cell.view_as(recalled)

    def read(self, state: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(state[0])


class TopK(Strings):
    """A leaky state to which convolutions add a sparse code: only the largest features of each token pass."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.inner = nn.Conv1d(2 * WIDTH, 2 * WIDTH, 3, padding=1)
        self.outer = nn.Linear(2 * WIDTH, WIDTH)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        code = _along(self.inner, torch.cat([state, recalled], dim=2)).relu()
        least = code.topk(WIDTH // 2, dim=2).values[..., -1:]
        return 0.6 * state + self.outer(code * (code >= least))


class CausalTransformer(Strings):
    """A transformer block in which tokens see only those before them, with layer norms after each part, and recall."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        query, key, value = self.project(state + recalled).chunk(3, dim=2)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        state = self.norms[0](state + seen)
        return self.norms[1](state + self.mlp(state))


class PostNormMixer(Strings):
    """A mixer of tokens and features with a single norm at the end of each iteration, and recall."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.tokens = nn.Sequential(nn.Linear(CELLS, 2 * CELLS), nn.GELU(), nn.Linear(2 * CELLS, CELLS))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        state = state + recalled
        state = state + self.tokens(state.mT).mT
        return rms_norm(state + self.mlp(state), (WIDTH,))


class StateSpace(Strings):
    """A diagonal state space: each feature decays at its own rate and is driven by a layer of the rectified state."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.decay = nn.Parameter(torch.linspace(-1, 2, WIDTH))
        self.drive = nn.Linear(WIDTH, WIDTH)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        return self.decay.sigmoid() * state + 0.5 * self.drive(nn.functional.silu(state + recalled))


class FourierMixer(Strings):
    """Tokens and features mixed by the real part of their Fourier transform, then a perceptron, under a norm; with recall."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        mixed = torch.fft.fft2(state + recalled, norm="ortho").real
        return rms_norm(state + self.mlp(mixed + recalled), (WIDTH,))


class Phases(Strings):
    """Coupled phase oscillators, each pulled by the sines of its differences from the others and by the recalled input."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.coupling = nn.Linear(WIDTH, WIDTH, bias=False)
        self.place = nn.Parameter(torch.randn(WIDTH))

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        pull = self.coupling(state.sin()) * state.cos() - self.coupling(state.cos()) * state.sin()
        return state + 0.3 * (pull + recalled * (self.place - state).sin())

    def read(self, state: Tensor) -> Tensor:
        return self.head(state.cos())


class Replicator(Strings):
    """Replicator dynamics: shares that grow by how fit they are, where fitness is a layer of the shares and the input."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.fitness = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.Tanh(), nn.Linear(2 * WIDTH, WIDTH))

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.full_like(recalled, 1 / WIDTH)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        return (state.clamp_min(1e-12).log() + 0.5 * self.fitness(WIDTH * state + recalled)).softmax(2)

    def read(self, state: Tensor) -> Tensor:
        return self.head(WIDTH * state)


class Bilinear(Strings):
    """A leaky cell driven by the product of two layers of the state and the recalled input."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.layers = nn.Linear(2 * WIDTH, 2 * WIDTH)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        first, second = self.layers(torch.cat([state, recalled], dim=2)).chunk(2, dim=2)
        return 0.6 * state + 0.4 * first * second


class MaxPlus(Strings):
    """A convolution in max-plus algebra: the largest of the input and of the neighbours' features plus learned weights."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.weights = nn.Parameter(-0.5 + 0.1 * torch.randn(2, WIDTH))

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return recalled

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        around = nn.functional.pad(state, (0, 0, 1, 1), value=-10.0)
        return torch.stack([recalled, around[:, :-2] + self.weights[0], around[:, 2:] + self.weights[1]]).amax(0)


class FastWeights(Strings):
    """A tanh cell with a second, fast matrix in its state, to which outer products of the cell are added and which decays."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.slow = nn.Linear(WIDTH, WIDTH)

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(recalled), recalled.new_zeros(*recalled.shape, WIDTH)

    def step(self, state: tuple[Tensor, Tensor], recalled: Tensor) -> tuple[Tensor, Tensor]:
        cell, fast = state
        cell = (self.slow(cell) + (fast @ cell.unsqueeze(3)).squeeze(3) + recalled).tanh()
        return cell, 0.9 * fast + 0.05 * cell.unsqueeze(3) * cell.unsqueeze(2)

    def read(self, state: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(state[0])


class SqueezedConvolution(Strings):
    """Convolutions whose features are weighted by a gate of the mean over all cells, added to a leaky state; with recall."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.first = nn.Conv1d(2 * WIDTH, WIDTH, 3, padding=1)
        self.gate = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        inner = _along(self.first, torch.cat([state, recalled], dim=2)).relu()
        return 0.8 * state + self.second(inner * (2 * self.gate(inner.mean(1, keepdim=True))).sigmoid())


class SinkhornAttention(WithPlaces):
    """Attention whose weights sum to one over queries and over keys, and a perceptron, both residual under a norm."""

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        query, key, value = self.project(state + recalled).chunk(3, dim=2)
        weights = query @ key.mT / WIDTH**0.5
        for _ in range(3):
            weights = weights.log_softmax(2).log_softmax(1)
        state = rms_norm(state + weights.exp() @ value, (WIDTH,))
        return rms_norm(state + self.mlp(state), (WIDTH,))


class Delayed(Strings):
    """A tanh cell that sees itself one and three steps ago. The state holds the last three."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.now = nn.Linear(WIDTH, WIDTH, bias=False)
        self.before = nn.Linear(WIDTH, WIDTH, bias=False)

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(recalled), torch.zeros_like(recalled), torch.zeros_like(recalled)

    def step(self, state: tuple[Tensor, Tensor, Tensor], recalled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        last, middle, first = state
        return (self.now(last) + self.before(first) + recalled).tanh(), last, middle

    def read(self, state: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return self.head(state[0])


Role = Literal["development", "first test", "second test", "third test", "fourth test"]
"""What a family is for: the forecast was developed on it, or it tested a version; each test's families were developed on
after it, so that only those of the last test say anything about the present version."""


@dataclass(frozen=True)
class Family:
    """Loops of one kind, and how they are trained.

    Args:
        name: the kind.
        task: name of the task that they learn.
        build: task -> an untrained loop.
        iterations: number of iterations in training.
        updates: number of optimizer updates.
        rates: learning rates.
        role: what it is for.
    """

    name: str
    task: str
    build: Callable[[Task], Strings]
    iterations: int
    updates: int
    rates: tuple[float, ...]
    role: Role

    def untrained(self, seed: int) -> Strings:
        """Return a loop with weights drawn from a seed."""
        torch.manual_seed(seed)
        return self.build(TASKS[self.task])


FAMILIES = (
    Family("convolutional recall", "flood", ConvolutionalRecall, 10, 250, (3e-3, 1e-2), "development"),
    Family("GRU cell", "xor", GRU, 6, 400, (3e-3, 1e-2), "development"),
    Family("tanh cell", "xor", Tanh, 8, 400, (3e-3, 1e-2), "development"),
    Family("residual perceptron", "xor", ResidualPerceptron, 6, 400, (1e-3, 4e-3), "development"),
    Family("pre-norm mixer", "prefix max", PreNormMixer, 8, 300, (3e-3, 1e-2), "development"),
    Family("normed convolution", "nearest", NormedConvolution, 10, 250, (3e-3, 1e-2), "development"),
    Family("LSTM cell", "xor", LSTM, 6, 400, (3e-3, 1e-2), "first test"),
    Family("two states", "flood", TwoState, 6, 250, (8e-3, 1.2e-2), "first test"),
    Family("softmax feedback", "sorting", SoftmaxFeedback, 6, 300, (2e-3, 6e-3), "first test"),
    Family("neural GPU", "addition", NeuralGPU, 16, 300, (3e-3, 1e-2), "first test"),
    Family("cellular automaton", "nearest", Automaton, 10, 300, (2e-3, 6e-3), "first test"),
    Family("message passing", "reach", MessagePassing, 8, 300, (3e-3, 1e-2), "first test"),
    Family("rectified cell", "xor", Rectified, 6, 400, (3e-3,), "second test"),
    Family("momentum", "xor", Momentum, 10, 600, (4e-3,), "second test"),
    Family("highway convolution", "nearest", Highway, 10, 250, (8e-3,), "second test"),
    Family("gated convolution", "flood", GatedConvolution, 10, 250, (6e-3,), "second test"),
    Family("deep set", "above mean", DeepSet, 6, 300, (5e-3,), "second test"),
    Family("linear attention", "sorting", LinearAttention, 6, 400, (5e-3,), "second test"),
    Family("grid convolution", "grid flood", GridConvolution, 10, 400, (8e-3,), "second test"),
    Family("memory", "xor", Memory, 8, 400, (1e-2,), "second test"),
    Family("mixture of cells", "xor", Mixture, 6, 400, (1e-2,), "third test"),
    Family("energy descent", "xor", EnergyDescent, 8, 400, (5e-3,), "third test"),
    Family("proximal step", "xor", Proximal, 8, 400, (5e-3,), "third test"),
    Family("rotating cell", "xor", Rotating, 6, 600, (1e-2,), "third test"),
    Family("spiking cell", "xor", Spiking, 10, 400, (1e-2,), "third test"),
    Family("gated diffusion", "reach", GatedDiffusion, 8, 300, (5e-3,), "third test"),
    Family("LSTM with attention", "above mean", AttentiveLSTM, 6, 300, (5e-3,), "third test"),
    Family("top-k convolution", "nearest", TopK, 10, 250, (5e-3,), "third test"),
    Family("causal transformer", "prefix max", CausalTransformer, 6, 300, (5e-3,), "third test"),
    Family("post-norm mixer", "prefix max", PostNormMixer, 6, 300, (5e-3,), "third test"),
    Family("state space", "xor", StateSpace, 8, 700, (5e-3,), "fourth test"),
    Family("Fourier mixer", "above mean", FourierMixer, 6, 300, (5e-3,), "fourth test"),
    Family("coupled phases", "xor", Phases, 10, 400, (1e-2,), "fourth test"),
    Family("replicator", "xor", Replicator, 8, 1000, (1e-2,), "fourth test"),
    Family("bilinear cell", "xor", Bilinear, 8, 400, (1e-2,), "fourth test"),
    Family("max-plus convolution", "nearest", MaxPlus, 10, 250, (3e-2,), "fourth test"),
    Family("fast weights", "xor", FastWeights, 8, 700, (1e-2,), "fourth test"),
    Family("squeezed convolution", "flood", SqueezedConvolution, 10, 250, (8e-3,), "fourth test"),
    Family("Sinkhorn attention", "sorting", SinkhornAttention, 6, 400, (5e-3,), "fourth test"),
    Family("delayed cell", "xor", Delayed, 9, 400, (5e-3,), "fourth test"),
)
