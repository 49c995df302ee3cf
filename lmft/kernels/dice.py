"""Dropout's dice, four to a random word: several times as quick as torch's own on a CPU."""

import torch
from torch import Tensor

LEVELS = 2**16  # of a die: a rate is met to 1 / 131,072


def new_seed() -> int:
    """For dice to be thrown now, and once more in the backward pass; from torch's own generator."""
    return int(torch.randint(2**62, ()))


class Dice:
    """Those of one seed; thrown in the same order they fall the same."""

    def __init__(self, dropout: float, seed: int):
        self._dropped = round(dropout * LEVELS)
        self._scale = LEVELS / (LEVELS - self._dropped)  # what is kept makes up for what is not
        self._generator = torch.Generator().manual_seed(seed)

    def thin_out(self, values: Tensor) -> Tensor:
        """Drop and scale up `values` in place; returns what each was multiplied with."""
        words = torch.empty((values.numel() + 3) // 4, dtype=torch.int64)
        words.random_(-(2**63), None, generator=self._generator)
        dice = words.view(torch.int16)[: values.numel()].view(values.shape)
        kept = (dice >= self._dropped - LEVELS // 2).to(values.dtype).mul_(self._scale)
        values.mul_(kept)
        return kept
