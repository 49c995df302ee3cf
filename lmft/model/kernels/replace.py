"""Replace layers of a model by faster ones that compute the same."""

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation

from lmft.model.kernels.attention import NAME
from lmft.model.kernels.dropout import SeededDropout


def replace_layers(model: PreTrainedModel) -> None:
    """Exchange what can be done quicker: GELU in one kernel, dropout and attention from seeds."""
    for module in list(model.modules()):
        for name, part in module.named_children():
            if type(part) is NewGELUActivation:
                setattr(module, name, nn.GELU(approximate="tanh"))
            elif type(part) is nn.Dropout:
                setattr(module, name, SeededDropout(part.p).train(part.training))
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)
