"""How processes without a GPU add up gradients that they share out."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter


class ReduceInPlace(ReduceScatter):
    """Each process gets the sum of its piece alone.

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
