"""What torch.compile compiles: the layers of a model, in the steps of whole batches.

All layers of a kind share their code, so one is compiled, not dozens. Everything else runs as it
is: the embeddings and the loss, which are few kernels; short batches, whose shapes would have to be
compiled as well; evaluations, whose numbers thus do not depend on compilation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lmft.hardware.layers import find_layers


class CompiledLayers:
    """The compiled forward passes of a model's layers; they are compiled at their first use."""

    def __init__(self, model: PreTrainedModel):
        """Prepare the layers, or the whole body of a model whose layers are not known."""
        layers = find_layers(model) or [model.base_model]
        self._forwards: list[tuple[nn.Module, Callable[..., Any]]] = [
            (layer, torch.compile(layer.forward, dynamic=False)) for layer in layers
        ]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Use compiled code inside."""
        for layer, forward in self._forwards:
            layer.forward = forward
        try:
            yield
        finally:
            for layer, _ in self._forwards:
                del layer.forward
