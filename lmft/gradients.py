"""The gradients of one optimizer step, over micro-batches and processes."""

import hashlib
import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.linalg import vector_norm
from torch.nn.utils import get_total_norm

from lmft.hardware import Hardware
from lmft.loss import mean_nats
from lmft.metrics import TokenLoss
from lmft.network import Network
from lmft.objective import Batch
from lmft.optimizer import slices


class LossScale:
    """What fp16's small gradients are multiplied with, so that they don't vanish.

    It is halved where a gradient overflows, and the step is taken again with the same dice; from
    time to time it is doubled (dynamic loss scaling, Micikevicius et al. 2018).
    """

    FIRST = 2.0**16
    DOUBLED_EVERY = 1000  # steps

    def __init__(self, value: float | None):
        self.value = value or self.FIRST

    def holds(self, step: int, finite: bool) -> bool:
        """Whether the gradients can be used; the scale of the next try or step follows from it."""
        if not finite and self.value > 1:
            self.value /= 2
            return False
        if step % self.DOUBLED_EVERY == 0:
            self.value *= 2
        return True


def find_gradients(
    network: Network,
    parts: list[Batch],
    hardware: Hardware,
    seed: int,
    step: int,
    scale: LossScale | None,
) -> tuple[TokenLoss, float]:
    """The batch's loss and the norm of its gradients; in fp16, at a scale that holds them.

    Where none does, the scale is left as it was.
    """
    before = None if scale is None else scale.value
    while True:
        factor = 1.0 if scale is None else scale.value
        attempt = partial(accumulate_gradients, network, parts, hardware, seed, step, factor)
        loss = hardware.fit(attempt, network.forget_gradients)
        grad_norm = norm_of(network.gradients())
        if scale is None:
            return loss, grad_norm
        hopeless = scale.value <= 1 or not math.isfinite(loss.nats)  # no scale changes the loss
        if hopeless and not math.isfinite(grad_norm):
            scale.value = before or scale.value
            return loss, grad_norm
        if scale.holds(step, math.isfinite(grad_norm)):
            return loss, grad_norm
        network.forget_gradients()


def accumulate_gradients(
    network: Network,
    parts: list[Batch],
    hardware: Hardware,
    seed: int,
    step: int,
    scale: float = 1.0,
) -> TokenLoss:
    """Add the gradients of the batch's mean loss: one division for all, however it is split.

    On the way back they are `scale` times as large.
    """
    team, targets = hardware.team, sum(part.num_targets for part in parts)
    divisor = max(1, targets) / (scale * team.size)  # processes average their gradients
    micro_batches = list(share_out(parts, hardware))
    nats = torch.zeros((), dtype=torch.float64 if hardware.device.type != "mps" else torch.float32)
    nats = nats.to(hardware.device)
    for number, micro_batch in enumerate(micro_batches, start=1):
        torch.manual_seed(dropout_seed(seed, step, (number - 1) * team.size + team.rank))
        with network.accumulate(number, len(micro_batches)):
            with network.lean:
                mean, micro_nats = mean_nats(network.trained, network.head, micro_batch, divisor)
            mean.backward()
        nats += micro_nats
    network.add_up(len(micro_batches))
    if scale != 1.0:
        network.hand_over()  # what is small is lost in fp16 without its scale
        torch._foreach_div_(network.gradients(), scale)
    return TokenLoss(float(team.sum(nats)), targets)


@torch.no_grad()
def norm_of(gradients: list[Tensor]) -> float:
    """That of all together, in fp32, whatever they are kept in."""
    if not gradients or gradients[0].dtype is torch.float32:
        norm = get_total_norm(gradients)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if gradients[0].device.type == "cpu":  # where torch would make a wide copy of each as a whole
        parts = (part.float() for gradient in gradients for part in slices(gradient))
        norms = tuple(vector_norm(part) for part in parts)
    else:
        norms = torch._foreach_norm(gradients, dtype=torch.float32)
    return float(torch.stack(norms).norm())


def share_out(parts: list[Batch], hardware: Hardware) -> Iterator[Batch]:
    """This process's micro-batches; each process gets as many, so the last may ask nothing."""
    team = hardware.team
    for part in parts:
        fair = -(-len(part.inputs) // team.size)
        micro_batches = list(part.split(min(hardware.micro_batch_size, fair)))
        for first in range(0, len(micro_batches), team.size):
            mine = first + team.rank
            yield micro_batches[mine] if mine < len(micro_batches) else part.blank()


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """The dice of one micro-batch, so that a run has no random state to keep."""
    name = f"{seed} {step} {micro_batch}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8]) >> 1
