"""Build the network of a run: the fp32 model and, in mixed precision, its low-precision copy.

Mixed precision after Micikevicius et al. 2018, except that the weights are not cast at every use:
a run in bf16 or fp16 keeps a copy of the model with its weights rounded. Under FSDP torch casts.
Frozen weights are in low precision only, and both models share them.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from lmft.adapter.adapter_files import computed_in_fp32
from lmft.config.training_knobs import Strategy
from lmft.errors import UserError
from lmft.hardware.device import Hardware
from lmft.hardware.fsdp import shard
from lmft.hardware.transfer import queues_work
from lmft.model.compilation import CompiledLayers
from lmft.model.kernels.attention import compile_attention, replace_attention
from lmft.model.kernels.recompute import RecomputeHooks
from lmft.model.kernels.replace import replace_cpu_layers, replace_layers
from lmft.model.lm_head import find_head
from lmft.model.network import Network


def build_network(model: PreTrainedModel, hardware: Hardware) -> Network:
    """Move the model (on the CPU) to the device and set up precision, layers and strategy.

    Raises:
        UserError: the model does not support a setting of the hardware.
    """
    if hardware.strategy is not Strategy.fsdp:  # FSDP moves layer by layer
        model.to(hardware.device)  # type: ignore[arg-type]
    head, compute_model = find_head(model), model
    for weight in model.parameters():
        if not weight.requires_grad and weight.is_floating_point():
            weight.data = weight.data.to(hardware.dtype)
    if hardware.dtype is not torch.float32 and hardware.strategy is not Strategy.fsdp:
        compute_model = low_precision_copy(model, hardware.dtype)
        if head is not None:
            head = replace(head, linear=compute_model.get_output_embeddings())
    if hardware.checkpoint_activations:
        checkpoint_activations(compute_model)
    if not hardware.compile or queues_work(hardware.device):
        replace_layers(compute_model)  # kernels of a GPU can be compiled, those of a CPU can't
        replace_attention(compute_model)
        if not queues_work(hardware.device):
            replace_cpu_layers(compute_model)
    else:
        compile_attention(compute_model)
    compiled_layers = CompiledLayers(compute_model) if hardware.compile else None
    recompute_hooks: AbstractContextManager[None] = nullcontext()
    # Compiled code and checkpointed layers decide themselves what to save; under FSDP the weights
    # to recompute with are resharded by then. On a GPU each hook is work of the host.
    has_own_policy = hardware.compile or hardware.checkpoint_activations
    is_sharded = hardware.strategy is Strategy.fsdp
    if not has_own_policy and not is_sharded and not queues_work(hardware.device):
        recompute_hooks = RecomputeHooks(compute_model)
    ddp = None
    if hardware.strategy is Strategy.ddp:
        ddp = DistributedDataParallel(compute_model, forward_sync_buffers=False)
    elif hardware.strategy is Strategy.fsdp:
        shard(model, hardware)
    return Network(
        model, compute_model, head, hardware.strategy, ddp, recompute_hooks, compiled_layers
    )


def low_precision_copy(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Return a copy of the model that shares its frozen weights and has the others in `dtype`.

    DoRA divides by norms of whole rows, so peft computes it in fp32.
    """
    frozen = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    low_precision = copy.deepcopy(model, frozen)
    in_fp32 = computed_in_fp32(model)
    for name, weight in low_precision.named_parameters():  # buffers, such as RoPE's, stay exact
        if weight.requires_grad and name not in in_fp32:
            weight.data = weight.data.to(dtype)
    return low_precision


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Save only the inputs of layers, and recompute their activations in the backward pass.

    Raises:
        UserError: transformers does not support this for the model.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"hardware.checkpoint_activations is true, but transformers can't recompute the "
            f"activations of {type(model).__name__}; leave it out, and lower "
            "hardware.micro_batch_size instead."
        )
    model.activation_checkpointing_enable()
