"""Dropout on a CPU that saves no mask: the backward pass draws the same mask again."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function

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


class SeededDropout(nn.Dropout):
    """torch's dropout; on a CPU, while training, with cheaper dice."""

    def forward(self, input: Tensor) -> Tensor:
        """Values of which a share `p` is dropped and the others are scaled up; any shape."""
        if not (self.training and self.p) or input.device.type != "cpu":
            return super().forward(input)
        thinned: Tensor = DropoutFunction.apply(input, self.p, new_seed())  # type: ignore[no-untyped-call]
        return thinned


class DropoutFunction(Function):
    """Dropout from a seed."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, dropout: float, seed: int) -> Tensor:
        """Thin out a copy."""
        ctx.settings = dropout, seed
        return values * Dice(dropout, seed).throw(values)

    @staticmethod
    def backward(ctx: Any, into_thinned: Tensor) -> tuple[Tensor, None, None]:
        """Thin out the gradient alike."""
        return into_thinned * Dice(*ctx.settings).throw(into_thinned), None, None
