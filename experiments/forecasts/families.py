"""Families of loops other than Loopscope's transformer: each is a module with encode, start, step and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from experiments.forecasts.tasks import CELLS, NODES, TASKS, Task
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
        deciding: whether the claim is tested on this family. The forecast was developed on the others.
    """

    name: str
    task: str
    build: Callable[[Task], Strings]
    iterations: int
    updates: int
    rates: tuple[float, float]
    deciding: bool

    def untrained(self, seed: int) -> Strings:
        """Return a loop with weights drawn from a seed."""
        torch.manual_seed(seed)
        return self.build(TASKS[self.task])


FAMILIES = (
    Family("convolutional recall", "flood", ConvolutionalRecall, 10, 250, (3e-3, 1e-2), deciding=False),
    Family("GRU cell", "xor", GRU, 6, 400, (3e-3, 1e-2), deciding=False),
    Family("tanh cell", "xor", Tanh, 8, 400, (3e-3, 1e-2), deciding=False),
    Family("residual perceptron", "xor", ResidualPerceptron, 6, 400, (1e-3, 4e-3), deciding=False),
    Family("pre-norm mixer", "prefix max", PreNormMixer, 8, 300, (3e-3, 1e-2), deciding=False),
    Family("normed convolution", "nearest", NormedConvolution, 10, 250, (3e-3, 1e-2), deciding=False),
    Family("LSTM cell", "xor", LSTM, 6, 400, (3e-3, 1e-2), deciding=True),
    Family("two states", "flood", TwoState, 6, 250, (8e-3, 1.2e-2), deciding=True),
    Family("softmax feedback", "sorting", SoftmaxFeedback, 6, 300, (2e-3, 6e-3), deciding=True),
    Family("neural GPU", "addition", NeuralGPU, 16, 300, (3e-3, 1e-2), deciding=True),
    Family("cellular automaton", "nearest", Automaton, 10, 300, (2e-3, 6e-3), deciding=True),
    Family("message passing", "reach", MessagePassing, 8, 300, (3e-3, 1e-2), deciding=True),
)
