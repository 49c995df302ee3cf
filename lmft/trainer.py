"""The training loop: a generator that yields what each optimizer step measured."""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lmft.arithmetic import Limit
from lmft.config import Precision, TrainerConfig
from lmft.hardware import Hardware
from lmft.loss import mean_nats
from lmft.metrics import TokenLoss
from lmft.network import Network
from lmft.objective import Batch
from lmft.optimizer import learning_rate_factor, set_learning_rate


@dataclass(frozen=True)
class Step:
    """What one optimizer step measured."""

    number: int  # 1 for the first
    loss: TokenLoss  # of its batch, before its update
    learning_rate: float
    grad_norm: float  # before clipping
    tokens: int  # read
    seconds: float
    share_of_limit: float  # of the operations that the device could have done meanwhile
    loss_scale: float | None  # of the next step, in fp16

    def as_metrics(self) -> dict[str, float]:
        """For the tracker."""
        return {
            "train/loss": self.loss.mean,
            "train/perplexity": self.loss.perplexity,
            "train/learning_rate": self.learning_rate,
            "train/grad_norm": self.grad_norm,
            "train/tokens_per_second": self.tokens / self.seconds,
            "train/share_of_limit": self.share_of_limit,
        }


def train(
    network: Network,
    batches: Iterator[list[Batch]],
    optimizer: Optimizer,
    hardware: Hardware,
    config: TrainerConfig,
    numbers: range,
    seed: int,
    limit: Limit,
    loss_scale: float | None = None,
) -> Iterator[Step]:
    """Take the optimizer steps `numbers` (1 is the first), yielding after each one.

    Args:
        network: the model; its weights are those of the optimizer.
        batches: one for each step, in parts of equal length.
        optimizer: as `build_optimizer` makes it.
        hardware: how many blocks go at once, in which precision.
        config: the schedule and the clipping.
        numbers: of the steps; the last is the one after which nothing is left of the learning rate.
        seed: of dropout.
        limit: what the device could do.
        loss_scale: of fp16, where the step before the first left it.

    Raises:
        FloatingPointError: a loss or gradient is not finite.
    """
    steps = numbers.stop - 1
    scale = LossScale(loss_scale) if hardware.precision is Precision.fp16 else None
    for number in numbers:
        started = time.perf_counter()
        parts = next(batches)
        learning_rate = set_learning_rate(
            optimizer,
            learning_rate_factor(config.schedule.value, config.warmup_steps, number, steps),
        )
        network.compute.train()
        loss, grad_norm = find_gradients(network, parts, hardware, seed, number, scale)
        if not math.isfinite(loss.nats) or not math.isfinite(grad_norm):
            raise FloatingPointError(
                f"At step {number} the loss is {loss.mean:.4g} and the gradient's norm "
                f"{grad_norm:.4g}; lower optimizer.lr, or raise trainer.warmup_steps."
            )
        if config.max_grad_norm is not None and grad_norm > config.max_grad_norm:
            torch._foreach_mul_(network.gradients(), config.max_grad_norm / grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        network.refresh()
        tokens = sum(part.inputs.numel() for part in parts)
        seconds = time.perf_counter() - started
        share = limit.share(parts, seconds)
        next_scale = None if scale is None else scale.value
        yield Step(number, loss, learning_rate, grad_norm, tokens, seconds, share, next_scale)


def find_gradients(
    network: Network,
    parts: list[Batch],
    hardware: Hardware,
    seed: int,
    step: int,
    scale: "LossScale | None",
) -> tuple[TokenLoss, float]:
    """The batch's loss and the norm of its gradients; in fp16, at a scale that holds them."""
    while True:
        factor = 1.0 if scale is None else scale.value
        loss = accumulate_gradients(network, parts, hardware, seed, step, factor)
        norm = get_total_norm(network.gradients())
        grad_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if scale is None or scale.holds(step, math.isfinite(grad_norm)):
            return loss, grad_norm
        network.model.zero_grad()


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
        with network.accumulate(last=number == len(micro_batches)):
            mean, micro_nats = mean_nats(network.trained, network.head, micro_batch, divisor)
            mean.backward()
        network.hand_over(scale)
        nats += micro_nats
    return TokenLoss(float(team.sum(nats)), targets)


def share_out(parts: list[Batch], hardware: Hardware) -> Iterator[Batch]:
    """This process's micro-batches; each process gets as many, so the last may ask nothing."""
    team = hardware.team
    for part in parts:
        fair = -(-len(part.inputs) // team.size)
        micro_batches = list(part.split(min(hardware.micro_batch_size, fair)))
        for first in range(0, len(micro_batches), team.size):
            mine = first + team.rank
            yield micro_batches[mine] if mine < len(micro_batches) else part.blank()


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


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """The dice of one micro-batch, so that a run has no random state to keep."""
    name = f"{seed} {step} {micro_batch}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8]) >> 1
