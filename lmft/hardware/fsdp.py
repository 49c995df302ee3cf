"""How processes share out a model's weights, and add up the gradients of their shares."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter
from transformers import PreTrainedModel

from lmft.errors import UserError
from lmft.hardware.device import Hardware


def shard(model: PreTrainedModel, hardware: Hardware) -> None:
    """Share out the weights over all processes, layer by layer (FSDP2).

    Raises:
        UserError: transformers does not say what the model's layers are.
    """
    if not model._no_split_modules:
        raise UserError(
            f"transformers does not say what the layers of {type(model).__name__} are, so "
            "hardware=fsdp can't share it out; use hardware=ddp."
        )
    narrow = None if hardware.dtype is torch.float32 else hardware.dtype
    policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32)
    mesh = init_device_mesh(hardware.device.type, (hardware.process_group.size,))
    for part in (*find_layers(model), model):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    if hardware.device.type == "cpu":
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.set_custom_reduce_scatter(ReduceInPlace())


def find_layers(model: PreTrainedModel) -> list[nn.Module]:
    """What FSDP gathers part by part; embeddings, perhaps tied to the head, stay with the model."""
    names, tied = set(model._no_split_modules or ()), model.get_input_embeddings().weight
    return [
        part
        for part in model.modules()
        if type(part).__name__ in names and all(tied is not weight for weight in part.parameters())
    ]


class ReduceInPlace(ReduceScatter):
    """Each process gets the sum of its piece alone; on a CPU.

    Gloo's own way sums a copy of everything, everywhere: twice the memory and twice the traffic.
    """

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Room for gradients."""
        return torch.empty(size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """Reduce `input_tensor` (N,), which is used up, into `output_tensor` (N / processes,)."""
        pieces = input_tensor.chunk(group.size())
        for rank, piece in enumerate(pieces):
            dist.reduce(piece, group_dst=rank, group=group)
        output_tensor.copy_(pieces[group.rank()])
        if op == dist.ReduceOp.AVG:
            output_tensor /= group.size()
