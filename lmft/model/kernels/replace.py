"""Replace layers of a model by faster ones that compute the same function."""

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation

from lmft.model.kernels.dropout import SeededDropout
from lmft.model.kernels.gated_mlp import as_gated_mlp
from lmft.model.kernels.lora import replace_lora
from lmft.model.kernels.rms_norm import as_rms_norm


def replace_layers(model: PreTrainedModel) -> None:
    """Replace GELU by a single kernel; dropout by one with seeded masks."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, nn.GELU(approximate="tanh"))
            elif type(child) is nn.Dropout:
                setattr(module, name, SeededDropout(child.p).train(child.training))


def replace_cpu_layers(model: PreTrainedModel) -> None:
    """Replace RMSNorms, MLPs with a gate and LoRA layers by ones that save and copy less."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                other: nn.Module | None = as_rms_norm(child)
            else:
                other = as_gated_mlp(child)
            if other is not None:
                setattr(module, name, other.train(child.training))
            elif hasattr(child, "lora_A"):
                replace_lora(child)
