"""Dropout's dice, four to a random word: several times as quick as torch's own on a CPU."""

import numpy as np
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
        self._words = np.random.SFC64(seed)

    def throw(self, values: Tensor) -> Tensor:
        """What each of `values` is to be multiplied with: 0 where it is dropped; same shape."""
        words = self._words.random_raw(-(-values.numel() // 4))
        dice = torch.from_numpy(words.view(np.int16))[: values.numel()].view(values.shape)
        kept = torch.empty(values.shape, dtype=values.dtype)
        torch.ge(dice, self._dropped - LEVELS // 2, out=kept)
        return kept.mul_(self._scale)
