"""What norms and activations make is not kept for the backward pass, but made again there.

They keep their input, of which a pass over memory makes their output once more; kept as well, as
the input of the next linear map, it is a third of GPT-2's activations. Left alone are those whose
backward pass keeps something else: ReLU its output, the RMSNorms of transformers a wider copy.
"""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

CHEAP = (nn.LayerNorm, nn.GELU, nn.SiLU)

OF_TRANSFORMERS = ("GELUActivation", "GELUTanh", "SiLUActivation")  # how such classes' names end


class Recompute(saved_tensors_hooks):
    """While entered, for a forward pass through `model`; the backward pass may come later.

    torch then no longer looks whether what is kept was changed in place before it is used.
    """

    def __init__(self, model: nn.Module):
        """Nothing changes before it is entered."""
        super().__init__(self._pack, _unpack)
        self._open = False
        self._recipes: dict[int, Recipe] = {}  # by where the output lies
        for part in model.modules():
            if isinstance(part, CHEAP) or type(part).__name__.endswith(OF_TRANSFORMERS):
                part.register_forward_hook(self._note, with_kwargs=True)

    def __enter__(self) -> None:
        super().__enter__()
        self._open = True

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._open = False
        self._recipes.clear()

    def _note(self, part: nn.Module, given: tuple[Any, ...], more: Any, made: Any) -> None:
        strip_control = self._open and len(given) == 1 and not more and isinstance(made, Tensor)
        if strip_control and made.is_contiguous() and _place(made) != _place(given[0]):
            self._recipes[_place(made)] = Recipe(part, given[0].detach(), made)

    def _pack(self, tensor: Tensor) -> "Tensor | Use":
        key_inputs = self._recipes.get(_place(tensor))
        # An output that its own operation keeps would hold the operation, were it not detached.
        return (
            Use(key_inputs, tensor.shape)
            if key_inputs and key_inputs.makes(tensor)
            else tensor.detach()
        )


class Recipe:
    """How an output is made."""

    def __init__(self, part: nn.Module, given: Tensor, made: Tensor):
        self._part, self._given, self._made = part, given, weakref.ref(made)
        self._given_version, self._traits = given._version, _traits(made)
        self._again: Tensor | None = None
        self.uses = 0  # that are to come

    def makes(self, tensor: Tensor) -> bool:
        """Whether `tensor` is the whole output, as it was made."""
        if self._made() is None:  # where it lay there may be something else by now
            return False
        return _traits(tensor) == self._traits and tensor.is_contiguous()

    @torch.no_grad()
    def follow(self) -> Tensor:
        """The output; it is let go with its last use."""
        if self._again is None:
            assert self._given._version == self._given_version, "changed after it was read"
            self._again = self._part.forward(self._given)
        again = self._again
        self.uses -= 1
        if not self.uses:
            self._again = None
        return again


class Use:
    """One tensor that is to be made again."""

    def __init__(self, key_inputs: Recipe, shape: torch.Size):
        self.key_inputs, self.shape = key_inputs, shape
        key_inputs.uses += 1


def _traits(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.numel(), tensor.storage_offset(), tensor.dtype, tensor._version


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _unpack(kept: "Tensor | Use") -> Tensor:
    return kept if isinstance(kept, Tensor) else kept.key_inputs.follow().view(kept.shape)
