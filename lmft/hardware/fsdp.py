"""FSDP2: shard a model's weights over processes and reduce their gradients."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter
from transformers import PreTrainedModel

from lmft.errors import UserError
from lmft.hardware.device import Hardware
from lmft.hardware.layers import find_layers


def shard(model: PreTrainedModel, hardware: Hardware) -> None:
    """Shard the weights over all processes, layer by layer.

    Raises:
        UserError: transformers does not name the layer classes of the model.
    """
    if not model._no_split_modules:
        raise UserError(
            f"transformers does not name the layers of {type(model).__name__}, so hardware=fsdp "
            "can't shard it; use hardware=ddp."
        )
    low_precision = None if hardware.dtype is torch.float32 else hardware.dtype
    policy = MixedPrecisionPolicy(param_dtype=low_precision, reduce_dtype=torch.float32)
    mesh = init_device_mesh(hardware.device.type, (hardware.process_group.size,))
    for module in (*find_layers(model), model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    if hardware.device.type == "cpu":
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_custom_reduce_scatter(ReduceInPlace())


class ReduceInPlace(ReduceScatter):
    """Reduce-scatter for the CPU that reduces each rank's shard to that rank only.

    Gloo's own implementation all-reduces a copy of the whole tensor: twice the memory and traffic.
    """

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Allocate a buffer for gradients."""
        return torch.empty(size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """Reduce `input_tensor` (N,), overwriting it, into `output_tensor` (N / processes,)."""
        shards = input_tensor.chunk(group.size())
        for rank, shard_of_rank in enumerate(shards):
            dist.reduce(shard_of_rank, group_dst=rank, group=group)
        output_tensor.copy_(shards[group.rank()])
        if op == dist.ReduceOp.AVG:
            output_tensor /= group.size()
