"""The model as it computes, and the fp32 weights behind it.

Mixed precision after Micikevicius et al. 2018, with the narrow weights kept instead of cast anew at
every use: where a run computes in bf16 or fp16, a twin of the model holds its weights rounded.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmft.errors import UserError
from lmft.hardware import Hardware
from lmft.head import Head, find_head
from lmft.kernels import speed_up


@dataclass(frozen=True)
class Network:
    """A model in training."""

    model: PreTrainedModel  # fp32: what the optimizer moves, and what is kept
    compute: PreTrainedModel  # what reads tokens: the model itself in fp32, else its twin
    head: Head | None  # of `compute`, where it is understood

    @torch.no_grad()
    def refresh(self) -> None:
        """Let the twin compute with the model's weights of now."""
        if self.compute is not self.model:
            torch._foreach_copy_(list(self.compute.parameters()), list(self.model.parameters()))

    @torch.no_grad()
    def hand_over(self, scale: float) -> None:
        """Add the twin's gradients, divided by `scale`, to the model's, in fp32."""
        if self.compute is self.model:
            return
        for narrow, weight in zip(self.compute.parameters(), self.model.parameters(), strict=True):
            if narrow.grad is not None:
                weight.grad = _add(weight.grad, narrow.grad, scale)
                narrow.grad = None


def build_network(model: PreTrainedModel, hardware: Hardware) -> Network:
    """Bring the model (fp32, on the CPU) to the device, and into the form that computes there.

    Raises:
        UserError: the model does not know what the hardware asks for.
    """
    model.to(hardware.device)  # type: ignore[arg-type]
    head, compute = find_head(model), model
    if hardware.dtype is not torch.float32:
        compute = copy.deepcopy(model)
        for weight in compute.parameters():  # buffers, as RoPE's frequencies, stay exact
            weight.data = weight.data.to(hardware.dtype)
        if head is not None:
            head = replace(head, linear=compute.get_output_embeddings())
    if hardware.checkpoint_activations:
        checkpoint_activations(compute)
    if hardware.compile:
        (compute if head is None else compute.base_model).compile()
    else:
        speed_up(compute)
    return Network(model, compute, head)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep only what enters a layer; what it makes inside is made again in the backward pass.

    Raises:
        UserError: transformers can't do so with this model.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"transformers can't make the activations of {type(model).__name__} again; leave out "
            "hardware.checkpoint_activations, and lower hardware.micro_batch_size instead."
        )
    model.activation_checkpointing_enable()


def _add(total: Tensor | None, gradient: Tensor, scale: float) -> Tensor:
    wide = gradient.float()
    if scale != 1.0:
        wide /= scale
    return wide if total is None else total.add_(wide)
