"""The gradients of a batch: micro-batches, dropout seeds, loss scale and norm."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.linalg import vector_norm
from torch.nn.utils import get_total_norm

from lmft.hardware.device import Hardware
from lmft.hardware.transfer import queues_work
from lmft.model.device_batch import DeviceBatch
from lmft.model.loss import mean_nats, to_device
from lmft.model.network import Network
from lmft.objective import Batch
from lmft.optimizer import slices

ROWS = 128  # a multiple, to which positions with targets are filled up on a GPU


@dataclass(frozen=True)
class DropoutSeeds:
    """The dropout seeds of a step, a function of their numbers: no checkpoint needs them."""

    seed: int  # of the run
    step: int

    def of(self, micro_batch: int) -> int:
        """Return the seed of one micro-batch; 0 is the first of the whole batch."""
        name = f"{self.seed} {self.step} {micro_batch}".encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:8]) >> 1


class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018): small gradients do not underflow.

    The scale is halved if a gradient overflows, and the step is repeated with the same dropout
    masks; it is doubled at regular intervals.
    """

    FIRST = 2.0**16
    DOUBLED_EVERY = 1000  # steps

    def __init__(self, value: float | None):
        self.value = value or self.FIRST

    def update(self, step: int, finite: bool) -> bool:
        """Set the scale of the next try or step; return whether the gradients can be used."""
        if not finite and self.value > 1:
            self.value /= 2
            return False
        if step % self.DOUBLED_EVERY == 0:
            self.value *= 2
        return True


def compute_gradients(
    network: Network,
    parts: list[Batch],
    hardware: Hardware,
    seeds: DropoutSeeds,
    scale: LossScale | None,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of a batch; in fp16, with a loss scale at which none overflows.

    If there is no such scale, the scale is left unchanged.

    Returns:
        The batch's nats () and the norm of its gradients (), on the device. Only fp16 reads them
        here, since a step whose gradients overflow is repeated.
    """
    before = None if scale is None else scale.value
    while True:
        factor = 1.0 if scale is None else scale.value
        attempt = partial(accumulate_gradients, network, parts, hardware, seeds, factor)
        nats = hardware.halve_on_oom(attempt, network.zero_gradients)
        grad_norm = gradient_norm(network.gradients())
        if scale is None:
            return nats, grad_norm
        # Scales below 1 are not tried, and no scale makes the loss finite.
        no_retry = scale.value <= 1 or not math.isfinite(nats)
        if no_retry and not math.isfinite(grad_norm):
            scale.value = before or scale.value
            return nats, grad_norm
        if scale.update(seeds.step, math.isfinite(grad_norm)):
            return nats, grad_norm
        network.zero_gradients()


def accumulate_gradients(
    network: Network,
    parts: list[Batch],
    hardware: Hardware,
    seeds: DropoutSeeds,
    scale: float = 1.0,
) -> Tensor:
    """Accumulate the gradients of a batch's mean loss, and return its nats (), on the device.

    All micro-batches divide by the same number of targets, so the split changes nothing. Inside the
    backward pass, gradients are `scale` times as large.
    """
    process_group, targets = hardware.process_group, count_targets(parts)
    # Ranks average their gradients.
    divisor = as_divisor(max(1, targets) / (scale * process_group.size), hardware.device)
    micro_batches = list(local_micro_batches(parts, hardware))
    dtype = torch.float64 if hardware.device.type != "mps" else torch.float32
    nats = torch.zeros((), dtype=dtype, device=hardware.device)
    for number, micro_batch in enumerate(micro_batches, start=1):
        torch.manual_seed(seeds.of((number - 1) * process_group.size + process_group.rank))
        with network.gradient_accumulation(number, len(micro_batches)):
            batch = to_device(micro_batch, network.head, hardware.device, ROWS)
            nats += backpropagate(network, batch, divisor)
    network.all_reduce_gradients(len(micro_batches))
    if scale != 1.0:
        network.gradients_to_fp32()  # in fp16, small gradients would underflow without the scale
        torch._foreach_div_(network.gradients(), scale)
    return process_group.sum(nats)


def backpropagate(network: Network, batch: DeviceBatch, divisor: float | Tensor) -> Tensor:
    """Run both passes of a micro-batch, and return its nats (), on the device."""
    with network.recompute_hooks:
        mean, nats = mean_nats(network.wrapped_model, network.head, batch, divisor)
    mean.backward()
    return nats


def as_divisor(divisor: float, device: torch.device) -> float | Tensor:
    """Return the divisor of a loss; on a GPU as a tensor (), which a CUDA graph can read."""
    return torch.full((), divisor, device=device) if queues_work(device) else divisor


def count_targets(parts: list[Batch]) -> int:
    """Return the number of targets of a whole batch."""
    return sum(part.num_targets for part in parts)


@torch.no_grad()
def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """Return the norm () of all gradients together, computed in fp32, on their device."""
    if all(gradient.dtype is torch.float32 for gradient in gradients):
        norm = get_total_norm(gradients)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm
    if gradients[0].is_cpu:  # there, _foreach_norm would copy whole gradients to fp32
        parts = (part.float() for gradient in gradients for part in slices(gradient))
        norms = tuple(vector_norm(part) for part in parts)
    else:
        norms = torch._foreach_norm(gradients, dtype=torch.float32)
    total: Tensor = vector_norm(torch.stack(norms))
    return total


def local_micro_batches(parts: list[Batch], hardware: Hardware) -> Iterator[Batch]:
    """Yield the micro-batches of this rank.

    Ranks get equal counts, padded with micro-batches without targets.
    """
    process_group = hardware.process_group
    for part in parts:
        per_rank = -(-len(part.inputs) // process_group.size)
        micro_batches = list(part.split(min(hardware.micro_batch_size, per_rank)))
        for first in range(0, len(micro_batches), process_group.size):
            mine = first + process_group.rank
            yield micro_batches[mine] if mine < len(micro_batches) else part.blank()
