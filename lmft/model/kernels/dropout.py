"""Dropout on a CPU that saves no mask: the backward pass draws the same mask again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function

LEVELS = 2**16  # of a random integer: the dropout rate is exact to 1 / 131,072


def new_seed() -> int:
    """Draw a seed for dropout masks from torch's global generator."""
    return int(torch.randint(2**62, ()))


class DropoutMask:
    """Dropout masks from one seed: the same sequence of draws gives the same masks."""

    def __init__(self, dropout: float, seed: int):
        self._dropped = round(dropout * LEVELS)
        self._scale = LEVELS / (LEVELS - self._dropped)  # keeps the expected value
        self._generator = np.random.SFC64(seed)

    def draw(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Draw factors of this shape, 0 where a value is dropped."""
        mask = torch.empty(shape, dtype=dtype)
        words = self._generator.random_raw(-(-mask.numel() // 4))
        levels = torch.from_numpy(words.view(np.int16))[: mask.numel()].view(shape)
        torch.ge(levels, self._dropped - LEVELS // 2, out=mask)
        return mask.mul_(self._scale)


class SeededDropout(nn.Dropout):
    """torch's dropout; in training on a CPU, with a cheaper random generator and no saved mask."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop a share `p` of the values and scale up the others; any shape."""
        if not (self.training and self.p) or not input.is_cpu:
            return super().forward(input)
        output: Tensor = DropoutFunction.apply(input, self.p, new_seed())  # type: ignore[no-untyped-call]
        return output


class DropoutFunction(Function):
    """Dropout whose mask is drawn from a seed, in the forward and again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, dropout: float, seed: int) -> Tensor:
        """Apply the mask to a copy."""
        ctx.dropout_and_seed = dropout, seed
        return values * DropoutMask(dropout, seed).draw(values.shape, values.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        """Apply the same mask to the gradient."""
        mask = DropoutMask(*ctx.dropout_and_seed).draw(grad_output.shape, grad_output.dtype)
        return grad_output * mask, None, None
