"""Replace layers of a model by faster ones that compute the same function."""

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation

from lmft.model.kernels.dropout import SeededDropout


def replace_layers(model: PreTrainedModel) -> None:
    """Replace GELU by a single kernel; dropout by one with seeded masks."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, nn.GELU(approximate="tanh"))
            elif type(child) is nn.Dropout:
                setattr(module, name, SeededDropout(child.p).train(child.training))
