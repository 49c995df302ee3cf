"""Dropout that keeps nothing: in the backward pass the same dice are thrown again."""

from typing import Any

from torch import Tensor, nn
from torch.autograd import Function

from lmft.kernels.dice import Dice, new_seed


class SeededDropout(nn.Dropout):
    """torch's dropout; on a CPU, while training, with cheaper dice."""

    def forward(self, input: Tensor) -> Tensor:
        """Values of which a share `p` is dropped and the others are scaled up; any shape."""
        if not (self.training and self.p) or input.device.type != "cpu":
            return super().forward(input)
        thinned: Tensor = ThinOut.apply(input, self.p, new_seed())  # type: ignore[no-untyped-call]
        return thinned


class ThinOut(Function):
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
