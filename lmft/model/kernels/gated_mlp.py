"""An MLP with a gate, down(SiLU(gate(x)) * up(x)) (Shazeer 2020), on a CPU.

torch would save SiLU(gate) and the product for the backward pass. Here the product saves its two
inputs alone, and as a layer of its own it can be recomputed where `down` reads it. Results and
gradients have the bits of torch's.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu
from transformers.activations import SiLUActivation

PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class GatedMLP(nn.Module):
    """The MLP of Llama in transformers, and of most models after it."""

    def __init__(self, gate_proj: nn.Module, up_proj: nn.Module, down_proj: nn.Module):
        """Use the linear maps of another MLP, under their names."""
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate_proj, up_proj, down_proj
        self.product = GatedProduct()

    def forward(self, values: Tensor) -> Tensor:
        """Apply the MLP to `values` (..., H)."""
        output: Tensor = self.down_proj(self.product(self.gate_proj(values), self.up_proj(values)))
        return output


class GatedProduct(nn.Module):
    """SiLU(gate) * up."""

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return the product; all of one shape."""
        output: Tensor = GatedProductFunction.apply(gate, up)  # type: ignore[no-untyped-call]
        return output


class GatedProductFunction(Function):
    """The product, whose backward pass computes SiLU(gate) again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Return the product."""
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of gate and up."""
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grad_output * up, gate)
        return grad_gate, silu(gate).mul_(grad_output)


def as_gated_mlp(module: Any) -> GatedMLP | None:
    """Return the MLP that replaces `module`; None if it is another one."""
    parts = dict(module.named_children())
    if parts.keys() != PARTS or type(parts.pop("act_fn")) not in (nn.SiLU, SiLUActivation):
        return None
    mlp, weight = GatedMLP(**parts), next(module.gate_proj.parameters())
    if not weight.is_floating_point():  # quantized
        return None
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, module.gate_proj.in_features, generator=generator).to(weight.dtype)
    with torch.no_grad():
        return mlp if torch.equal(mlp(values), module(values)) else None
