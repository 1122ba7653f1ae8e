"""Prefix sums modulo 2: the i-th answer is the parity of the first i bits (paper, data)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError, check_positive
from loopscope.tasks.task import Split, TaskShape

VALIDATION_SHARE = 0.2

KERNEL_SIZE = 5
"""Kernel size of local attention (arXiv 2604.15259, architecture): every token sees five positions."""


def prefix_sums(bits: Int[Tensor, "examples length"]) -> Int[Tensor, "examples length"]:
    """Return the running parity of each string."""
    return bits.cumsum(1) % 2


def distinct_strings(count: int, length: int, generator: torch.Generator) -> Int[Tensor, "count length"]:
    """Return ``count`` distinct random bit strings.

    Raises:
        LoopscopeError: there are fewer than ``count`` strings of this length.
    """
    if length < 20 and 2**length < count:
        raise LoopscopeError(
            f"{count} strings of {length} bits were requested, but only {2**length} exist: use fewer strings or more bits"
        )
    strings = torch.empty(0, length, dtype=torch.int64)
    while len(strings) < count:
        drawn = torch.randint(0, 2, (count, length), generator=generator)
        strings = torch.unique(torch.cat([strings, drawn]), dim=0)
    return strings[torch.randperm(len(strings), generator=generator)[:count]]


@dataclass(frozen=True)
class PrefixSums:
    """The prefix-sums task: train on short strings, test on long ones.

    Args:
        train_bits: length of the training strings.
        test_bits: lengths of the evaluation splits. The first is the easy one.
        strings: number of distinct strings of the training length. One fifth is for validation.
        test_strings: number of strings of every other length.
        seed: seed of the strings, independent of the seed of training.

    Example:
        >>> import loopscope as ls
        >>> task = ls.PrefixSums(train_bits=8, test_bits=(8, 16), strings=50, test_strings=10)
        >>> len(task.training_split()), {name: len(split) for name, split in task.evaluation_splits().items()}
        (40, {'8 bits': 10, '16 bits': 10})
    """

    train_bits: int = 32
    test_bits: tuple[int, ...] = (32, 128, 512)
    strings: int = 10_000
    test_strings: int = 10_000
    seed: int = 0

    name: ClassVar[str] = "prefix-sums"

    def __post_init__(self) -> None:
        check_positive(train_bits=self.train_bits, strings=self.strings, test_strings=self.test_strings)
        if not self.test_bits or min(self.test_bits) < 1:
            raise LoopscopeError(f"test_bits is {list(self.test_bits)}, expected lengths such as [32, 128, 512]")

    @property
    def shape(self) -> TaskShape:
        """One bit in and two logits out, on a line of any length.

        Attention is local with kernel size 5, as in the paper (arXiv 2604.15259, architecture).
        """
        return TaskShape(inputs=1, outputs=2, grid=(0,), attention="local", kernel_size=KERNEL_SIZE)

    def _training_strings(self) -> tuple[Tensor, Tensor]:
        """Return the strings for training and those for validation, without overlap."""
        strings = distinct_strings(self.strings, self.train_bits, self._generator(self.train_bits))
        validation = max(1, round(VALIDATION_SHARE * self.strings))
        return strings[validation:], strings[:validation]

    def _generator(self, length: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * self.seed + length)

    def training_split(self) -> Split:
        """Return the strings for training."""
        bits, _ = self._training_strings()
        return Split(bits, prefix_sums(bits))

    def evaluation_splits(self) -> dict[str, Split]:
        """Return one split per length, named after it. No string is also in the training split."""
        splits = {}
        for length in self.test_bits:
            if length == self.train_bits:
                _, bits = self._training_strings()
            else:
                bits = distinct_strings(self.test_strings, length, self._generator(length))
            splits[f"{length} bits"] = Split(bits, prefix_sums(bits))
        return splits

    def inputs(self, problems: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens 1"]:
        """Return the bits minus one half."""
        return problems.unsqueeze(-1).float() - 0.5

    def augment(
        self, problems: Int[Tensor, "batch tokens"], answers: Int[Tensor, "batch tokens"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]:
        """Return the batch unchanged, because the paper does not augment strings."""
        return problems, answers

    def loss(
        self, logits: Float[Tensor, "batch tokens outputs"], answers: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, ""]:
        """Return the mean cross-entropy over all bits, in nats."""
        return F.cross_entropy(logits.float().flatten(0, 1), answers.flatten())

    def correct(
        self,
        logits: Float[Tensor, "batch tokens outputs"],
        problems: Int[Tensor, "batch tokens"],
        answers: Int[Tensor, "batch tokens"],
    ) -> Bool[Tensor, "batch tokens"]:
        """Return which bits are right."""
        return logits.argmax(-1) == answers

    def other_rules(
        self,
        logits: Float[Tensor, "batch tokens outputs"],
        problems: Int[Tensor, "batch tokens"],
        answers: Int[Tensor, "batch tokens"],
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return no rules: a string is right only if all its bits are."""
        return {}
