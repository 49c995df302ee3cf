"""Freeze parts of a model: their weights get no gradients and no optimizer state."""

import re
from collections.abc import Iterable

from torch.nn import Parameter
from transformers import PreTrainedModel

from lmft.errors import UserError
from lmft.hardware.layers import find_layers

PARTS = "embeddings, layers.N, layers.N-M and head"
LAYERS = re.compile(r"layers\.(\d+)(?:-(\d+))?")


def freeze(model: PreTrainedModel, parts: list[str]) -> None:
    """Freeze the parts of a model that `model.freeze` names.

    Embeddings are all weights in front of the first layer. A head that is tied to them is frozen
    with them.

    Raises:
        UserError: the model has no such part, or no other.
    """
    layers = [list(layer.parameters()) for layer in find_layers(model)]
    if parts and not layers:
        raise UserError(
            f"model.freeze is set, but the layers of {type(model).__name__} are not known; leave "
            "it out."
        )
    for part in parts:
        for weight in find_weights(model, layers, part):
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise UserError("model.freeze leaves nothing to train; name fewer parts.")


def find_weights(
    model: PreTrainedModel, layers: list[list[Parameter]], part: str
) -> Iterable[Parameter]:
    """Return the weights of one part.

    Raises:
        UserError: the model has no such part.
    """
    if part == "embeddings":
        weights = list(model.parameters())
        first = next(n for n, weight in enumerate(weights) if weight is layers[0][0])
        return weights[:first]
    if part == "head" and (head := model.get_output_embeddings()) is not None:
        return list(head.parameters())
    if (match := LAYERS.fullmatch(part)) is None:
        raise UserError(f"model.freeze has {part!r}; choose from {PARTS}.")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < len(layers):
        raise UserError(
            f"model.freeze has {part!r}, but {type(model).__name__} has layers.0-{len(layers) - 1}."
        )
    return [weight for layer in layers[first : last + 1] for weight in layer]
