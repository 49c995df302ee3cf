"""RMSNorm (Zhang and Sennrich 2019) in low precision on a CPU, which saves its input alone.

torch would save an fp32 copy of the input, and the normalized values too. The operations here are
those of torch in the same order, so results and gradients have the same bits.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class RMSNorm(nn.Module):
    """The norm of Llama in transformers, and of most models after it."""

    def __init__(self, weight: nn.Parameter, eps: float):
        """Use the weight (H) of another norm."""
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, values: Tensor) -> Tensor:
        """Normalize the rows of `values` (..., H)."""
        output: Tensor = RMSNormFunction.apply(values, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return output


class RMSNormFunction(Function):
    """w * x / sqrt(mean(x^2) + eps), with the mean in fp32."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,  # (..., H)
        weight: Tensor,  # (H)
        eps: float,
    ) -> Tensor:
        """Return the output (..., H)."""
        exact = values.float()
        inverse = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(values, weight, inverse)
        return exact.mul_(inverse).to(values.dtype).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and w."""
        values, weight, inverse = ctx.saved_tensors
        exact, grad_weight = values.float(), None
        if ctx.needs_input_grad[1]:
            normalized = (exact * inverse).to(values.dtype)
            grad_weight = (grad_output * normalized).sum_to_size(weight.shape)
        gradient = (grad_output * weight).float()
        grad_inverse = (gradient * exact).sum(-1, keepdim=True)
        grad_mean = -0.5 * grad_inverse * inverse.pow(3) / values.shape[-1]
        gradient.mul_(inverse).add_(exact.mul_(2).mul_(grad_mean))
        return gradient.to(values.dtype), grad_weight, None


def as_rms_norm(module: nn.Module) -> RMSNorm | None:
    """Return the norm that replaces `module`; None if its weight is in fp32, or its bits differ.

    In fp32 torch adds the gradients of the input in another order.
    """
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, nn.Parameter) or weight.dtype is torch.float32 or eps is None:
        return None
    generator = torch.Generator().manual_seed(0)
    values, other = (
        torch.randn(*rows, *weight.shape, generator=generator).to(weight.dtype)
        for rows in ([4], [])
    )
    with torch.no_grad():
        expected = torch.func.functional_call(module, {"weight": other}, (values,))
        norm = RMSNorm(nn.Parameter(other), eps)
        return RMSNorm(weight, eps) if torch.equal(norm(values), expected) else None
