"""Encoding of positions and moves as integers, oriented by the side to move and its king (paper, data).

Squares are numbered a1 = 0, b1 = 1, ..., h8 = 63 after turning and mirroring: the side to move plays upwards and its king
stands on files e to h. Both are exact symmetries of the twelve piece planes, which show neither castling rights nor the en
passant square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8, Int16, Integer, UInt64
from torch import Tensor

SQUARES = 64
PIECES = "PNBRQKpnbrqk"
"""Piece ``PIECES[c - 1]`` has code c. Upper case is the side to move, lower case the opponent. Code 0 is empty."""
PLANES = len(PIECES)
PROMOTIONS = ("", "n", "b", "r", "q")
"""Piece of each promotion code, as in UCI."""


def move_code(origin: int, target: int, promotion: int = 0) -> int:
    """Return a move as one 16-bit integer."""
    return origin | target << 6 | promotion << 12


def unpack_boards(
    bitboards: UInt64[np.ndarray, "positions 6"],
    own: UInt64[np.ndarray, "positions"],
    flip: Int8[np.ndarray, "positions"],
) -> Int8[np.ndarray, "positions 64"]:
    """Return piece codes per square.

    Args:
        bitboards: squares of pawns, knights, bishops, rooks, queens and kings.
        own: squares of the side to move.
        flip: mask to combine with the number of a square by exclusive or: 56 turns the board, 7 mirrors it.
    """
    codes = np.zeros((len(own), SQUARES), np.int8)
    for kind in range(bitboards.shape[1]):
        codes += _bits(bitboards[:, kind]) * np.int8(kind + 1)
    codes[(codes > 0) & ~_bits(own).astype(bool)] += PLANES // 2
    for flipped in np.unique(flip):
        rows = flip == flipped
        codes[rows] = codes[rows][:, np.arange(SQUARES) ^ int(flipped)]
    return codes


def _bits(bitboards: UInt64[np.ndarray, "positions"]) -> Int8[np.ndarray, "positions 64"]:
    """Return the bits of each number, lowest first."""
    octets = bitboards.astype("<u8").view(np.uint8).reshape(-1, 8)
    return np.unpackbits(octets, axis=1, bitorder="little").view(np.int8)


def planes(problems: Integer[Tensor, "batch 64"]) -> Float[Tensor, "batch 64 12"]:
    """Return one plane per kind of piece, 1 on its squares."""
    kinds = torch.arange(1, PLANES + 1, device=problems.device, dtype=problems.dtype)
    return (problems.unsqueeze(-1) == kinds).float()


@dataclass(frozen=True)
class Answers:
    """The answers to a batch of puzzles. A packed row is ``accepted`` followed by ``moves``.

    Args:
        accepted: number of moves that count as right: one, or all mating moves if the answer mates.
        moves: codes (``move_code``) of all legal moves: the puzzle's answer, then other accepted moves, then the rest,
            padded with -1.
    """

    accepted: Int16[Tensor, "batch"]
    moves: Int16[Tensor, "batch moves"]

    def pack(self) -> Int16[Tensor, "batch columns"]:
        """Return one row per puzzle."""
        return torch.cat([self.accepted.unsqueeze(1), self.moves], dim=1)

    @classmethod
    def unpack(cls, answers: Int16[Tensor, "batch columns"]) -> Answers:
        """Return the answers from the output of ``pack``."""
        return cls(answers[:, 0], answers[:, 1:])

    @property
    def origins(self) -> Int[Tensor, "batch moves"]:
        """The origin squares of the moves; 63 in the padding."""
        return (self.moves & 63).long()

    @property
    def targets(self) -> Int[Tensor, "batch moves"]:
        """The target squares of the moves; 63 in the padding."""
        return (self.moves >> 6 & 63).long()

    @property
    def promotions(self) -> Int[Tensor, "batch moves"]:
        """Indices into ``PROMOTIONS``; 7 in the padding."""
        return (self.moves >> 12 & 7).long()

    @property
    def legal(self) -> Bool[Tensor, "batch moves"]:
        """Which entries are moves rather than padding."""
        return self.moves >= 0

    @property
    def right(self) -> Bool[Tensor, "batch moves"]:
        """Which moves are accepted."""
        return torch.arange(self.moves.shape[1], device=self.moves.device) < self.accepted.unsqueeze(1)

    def totals(self, scores: Float[Tensor, "batch 64"]) -> Float[Tensor, "batch moves"]:
        """Return the sum of the scores of each move's two squares; -inf for padding and underpromotions."""
        playable = self.legal & ((self.promotions == 0) | (self.promotions == PROMOTIONS.index("q")))
        return (scores.gather(1, self.origins) + scores.gather(1, self.targets)).masked_fill(~playable, float("-inf"))


def pack_ragged(
    accepted: Integer[np.ndarray, "positions"],
    counts: Integer[np.ndarray, "positions"],
    moves: Int16[np.ndarray, "all"],
) -> Int16[Tensor, "positions columns"]:
    """Pack answers whose moves are concatenated in one array, ``counts`` moves per position."""
    rows = np.full((len(counts), 1 + int(counts.max(initial=1))), -1, np.int16)
    rows[:, 0] = accepted
    rows[:, 1:][np.arange(rows.shape[1] - 1) < counts[:, None]] = moves
    return torch.from_numpy(rows)
