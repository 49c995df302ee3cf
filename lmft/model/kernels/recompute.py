"""Recompute norm and activation outputs in the backward pass instead of saving them.

Such layers save their inputs anyway, and one cheap pass over them gives their output again. Saved a
second time as the input of the next linear layer, these outputs are a third of GPT-2's activation
memory. Layers whose backward pass saves something else are left alone, such as ReLU, which saves
its output.
"""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lmft.model.kernels.gated_mlp import GatedProduct
from lmft.model.kernels.rms_norm import RMSNorm

RECOMPUTABLE = (nn.LayerNorm, nn.GELU, nn.SiLU, RMSNorm, GatedProduct)

# The same in transformers, by how the names of its classes end.
RECOMPUTABLE_NAMES = ("GELUActivation", "GELUTanh", "SiLUActivation")


class RecomputeHooks(saved_tensors_hooks):
    """To be entered for each forward pass through `model`; the backward pass may come later.

    With these hooks, torch does not check whether a saved tensor was changed in place.
    """

    def __init__(self, model: nn.Module):
        """Register the hooks; they have no effect until this is entered."""
        super().__init__(self._pack, _unpack)
        self._active = False
        self._outputs: dict[int, RecomputableOutput] = {}  # by address of the output's storage
        for module in model.modules():
            if isinstance(module, RECOMPUTABLE) or type(module).__name__.endswith(
                RECOMPUTABLE_NAMES
            ):
                module.register_forward_hook(self._record_output, with_kwargs=True)

    def __enter__(self) -> None:
        super().__enter__()
        self._active = True

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._active = False
        self._outputs.clear()

    def _record_output(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any
    ) -> None:
        if not self._active or kwargs or not isinstance(output, Tensor):
            return
        if len(args) > 1 and not isinstance(module, GatedProduct):
            return
        if output.is_contiguous() and _address(output) not in map(_address, args):
            inputs = [tensor.detach() for tensor in args]
            self._outputs[_address(output)] = RecomputableOutput(module, inputs, output)

    def _pack(self, tensor: Tensor) -> "Tensor | SavedOutput":
        output = self._outputs.get(_address(tensor))
        if output and output.is_equal_to(tensor):
            return SavedOutput(output, tensor.shape)
        # Detached, since a tensor saved by the operation that returned it would keep that alive.
        return tensor.detach()


class RecomputableOutput:
    """A layer's output that can be recomputed from the layer and its inputs."""

    def __init__(self, module: nn.Module, inputs: list[Tensor], output: Tensor):
        self._module, self._inputs, self._output = module, inputs, weakref.ref(output)
        self._versions, self._layout = [some._version for some in inputs], _layout(output)
        self._recomputed: Tensor | None = None
        self.pending_uses = 0  # in the backward pass

    def is_equal_to(self, tensor: Tensor) -> bool:
        """Whether `tensor` is the whole output, unchanged."""
        if self._output() is None:  # freed: its storage may belong to another tensor by now
            return False
        return _layout(tensor) == self._layout and tensor.is_contiguous()

    @torch.no_grad()
    def recompute(self) -> Tensor:
        """Return the output, recomputed at its first use and freed after its last one."""
        if self._recomputed is None:
            versions = [some._version for some in self._inputs]
            assert versions == self._versions, "changed after it was read"
            self._recomputed = self._module.forward(*self._inputs)
        output = self._recomputed
        self.pending_uses -= 1
        if not self.pending_uses:
            self._recomputed = None
        return output


class SavedOutput:
    """What the graph saves in place of a recomputable output."""

    def __init__(self, output: RecomputableOutput, shape: torch.Size):
        self.output, self.shape = output, shape
        output.pending_uses += 1


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.numel(), tensor.storage_offset(), tensor.dtype, tensor._version


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _unpack(saved: "Tensor | SavedOutput") -> Tensor:
    return saved if isinstance(saved, Tensor) else saved.output.recompute().view(saved.shape)
