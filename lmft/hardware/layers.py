"""The layers of a model: the units that are sharded, and compiled."""

from torch import nn
from transformers import PreTrainedModel


def find_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the modules that transformers names as the layers of the model.

    A module that contains the input embeddings, which may be tied to the head, is not among them.
    """
    names, tied = set(model._no_split_modules or ()), model.get_input_embeddings().weight
    return [
        module
        for module in model.modules()
        if type(module).__name__ in names
        and all(tied is not weight for weight in module.parameters())
    ]
