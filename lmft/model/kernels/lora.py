"""The linear map of a LoRA layer (Hu et al. 2021) on a CPU, in few passes over its output.

peft adds scale * (x A^T) B^T to the output of the base in three passes, and torch adds up the
gradients of the input in two. Here each product is added to the other while it is computed.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

ADAPTER = "default"  # peft's name of the adapter that lmft attaches


def replace_lora(module: Any) -> None:
    """Replace the forward pass of a LoRA layer of peft: one without dropout, bias and DoRA."""
    base = module.get_base_layer()
    is_frozen = not any(weight.requires_grad for weight in base.parameters())
    has_dropout = type(module.lora_dropout[ADAPTER]) is not nn.Identity
    is_plain = not (has_dropout or module.lora_bias[ADAPTER] or module.lora_variant)
    if type(base) in (nn.Linear, Conv1D) and is_frozen and is_plain:
        module.forward = partial(forward_lora, module)


def forward_lora(module: Any, values: Tensor) -> Tensor:
    """Apply the base and the adapter to `values` (..., I); return (..., O)."""
    base, scale = module.get_base_layer(), module.scaling[ADAPTER]
    weight = base.weight.T if isinstance(base, Conv1D) else base.weight
    down, up = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    output: Tensor = LoraMap.apply(values, weight, base.bias, down, up, scale)  # type: ignore[no-untyped-call]
    return output


class LoraMap(Function):
    """x W^T + b + scale * (x A^T) B^T; W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,  # (..., I)
        weight: Tensor,  # (O, I)
        bias: Tensor | None,  # (O)
        down: Tensor,  # A (R, I)
        up: Tensor,  # B (O, R)
        scale: float,
    ) -> Tensor:
        """Return the output (..., O)."""
        output = linear(values, weight, bias)
        inner = linear(values, down)
        output.flatten(0, -2).addmm_(inner.flatten(0, -2), up.T, alpha=scale)
        ctx.save_for_backward(values, weight, down, up, inner)
        ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        values, weight, down, up, inner = ctx.saved_tensors
        rows, inner = grad_output.flatten(0, -2), inner.flatten(0, -2)
        grad_inner = (rows @ up).mul_(ctx.scale)
        # This way round the long side of both factors is contiguous.
        grad_up = (inner.T @ rows).mul_(ctx.scale).T
        grad_down = grad_inner.T @ values.flatten(0, -2)
        grad_values = None
        if ctx.needs_input_grad[0]:
            grad_values = torch.mm(rows, weight).addmm_(grad_inner, down).view_as(values)
        return grad_values, None, None, grad_down, grad_up, None
