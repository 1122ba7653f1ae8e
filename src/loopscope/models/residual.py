"""Residual rules: one class per row of the paper's normalization table (arXiv 2604.15259, architecture).

z is the state, S a sub-layer, and N_in, N_update and N_out are RMSNorms. The two sub-layers of a block share one rule,
and with it the gains of its norms and the weights of its GRU cell.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from loopscope.errors import check_choice
from loopscope.models.normalization import RMSNorm

Tokens = Float[Tensor, "batch tokens width"]
Sublayer = Callable[[Tensor], Tensor]

GATE_BIAS = 1.0
"""Initial bias of the update gate of a GRU cell, in each of its two bias vectors."""


class Pre(nn.Module):
    """z + S(N_in(z))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in = RMSNorm(width)

    def forward(self, state: Tokens, sublayer: Sublayer) -> Tokens:
        """Return the state after the update of the sub-layer."""
        return state + sublayer(self.norm_in(state))


class Peri(nn.Module):
    """z + N_update(S(N_in(z)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in = RMSNorm(width)
        self.norm_update = RMSNorm(width)

    def forward(self, state: Tokens, sublayer: Sublayer) -> Tokens:
        """Return the state after the update of the sub-layer."""
        return state + self.norm_update(sublayer(self.norm_in(state)))


class Outer(nn.Module):
    """N_out(z + S(z)): outer normalization, which follows the residual sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_out = RMSNorm(width)

    def forward(self, state: Tokens, sublayer: Sublayer) -> Tokens:
        """Return the state after the update of the sub-layer."""
        return self.norm_out(state + sublayer(state))


class Sandwich(nn.Module):
    """N_out(z + S(N_in(z)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in = RMSNorm(width)
        self.norm_out = RMSNorm(width)

    def forward(self, state: Tokens, sublayer: Sublayer) -> Tokens:
        """Return the state after the update of the sub-layer."""
        return self.norm_out(state + sublayer(self.norm_in(state)))


class Gru(nn.Module):
    """GRUCell(input = N_update(S(N_in(z))), hidden = z).

    The cell is initialized as in the paper: Xavier-uniform input weights, orthogonal hidden weights, and zero biases
    except those of the update gate. These add up to 2, so a new cell keeps sigmoid(2) = 0.88 of its state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in = RMSNorm(width)
        self.norm_update = RMSNorm(width)
        self.cell = nn.GRUCell(width, width)
        _initialize(self.cell)

    def forward(self, state: Tokens, sublayer: Sublayer) -> Tokens:
        """Return the state after the update of the sub-layer.

        The gates are written out because ``nn.GRUCell`` refuses an input and a hidden state of different precision,
        which is what autocast produces. Parameters and results are those of the cell.
        """
        update = self.norm_update(sublayer(self.norm_in(state)))
        cell = self.cell
        input_reset, input_gate, input_new = F.linear(update, cell.weight_ih, cell.bias_ih).chunk(3, dim=-1)
        state_reset, state_gate, state_new = F.linear(state, cell.weight_hh, cell.bias_hh).chunk(3, dim=-1)
        reset = torch.sigmoid(input_reset + state_reset)
        keep = torch.sigmoid(input_gate + state_gate)
        new = torch.tanh(input_new + reset * state_new)
        return new + keep * (state - new)


@torch.no_grad()
def _initialize(cell: nn.GRUCell) -> None:
    """Initialize a GRU cell as in the paper. Its parameters stack the reset gate, the update gate and the new state."""
    nn.init.xavier_uniform_(cell.weight_ih)
    nn.init.orthogonal_(cell.weight_hh)
    for bias in (cell.bias_ih, cell.bias_hh):
        _, update_gate, _ = bias.zero_().chunk(3)
        update_gate.fill_(GATE_BIAS)


RULES: dict[str, type[nn.Module]] = {"pre": Pre, "peri": Peri, "outer": Outer, "sandwich": Sandwich, "gru": Gru}
"""Residual rules by the name that a config gives them."""

BOUNDING = ("outer", "sandwich", "gru")
"""Rules that bound the state for any update, because they normalize last or mix the state with a tanh."""


def make_residual(name: str, width: int) -> nn.Module:
    """Return the residual rule called ``name`` for states of this width.

    Raises:
        LoopscopeError: there is no rule of that name.
    """
    check_choice("norm", name, RULES)
    return RULES[name](width)
