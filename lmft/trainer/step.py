"""One optimizer step: micro-batches, gradients, clipping, learning rate."""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.linalg import vector_norm
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lmft.config.schema import OnNonfinite, Precision, TrainerConfig
from lmft.hardware.allocator import give_back_freed_memory
from lmft.hardware.device import Hardware
from lmft.hardware.mfu import Limit
from lmft.metrics import TokenLoss
from lmft.model.loss import mean_nats
from lmft.model.mixed_precision import Network
from lmft.objective import Batch
from lmft.optimizer import learning_rate_factor, set_learning_rate, slices


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
    skipped: bool = False  # it was not finite, and nothing learnt of it

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


class NotFinite(FloatingPointError):
    """The loss of a step, or its gradient's norm, is no number to go on with."""

    def __init__(self, step: Step):
        super().__init__(
            f"At step {step.number} the loss is {step.loss.mean:.4g}, the learning rate "
            f"{step.learning_rate:.4g} and the gradient's norm {step.grad_norm:.4g}; lower "
            "optimizer.lr, raise trainer.warmup_steps, or leave such steps out with "
            "trainer.on_nonfinite=skip."
        )
        self.step = step


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
        NotFinite: a loss or gradient is not, and such steps are not to be skipped.
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
        finite = math.isfinite(loss.nats) and math.isfinite(grad_norm)
        if finite:
            clip_divisor = grad_norm / config.max_grad_norm if config.max_grad_norm else 1.0
            network.apply_gradients(optimizer, max(1.0, clip_divisor))
        network.zero_gradients()
        if number == numbers.start:
            give_back_freed_memory()  # the optimizer's state has come to lie in the midst of it
        tokens = sum(part.inputs.numel() for part in parts)
        seconds = time.perf_counter() - started
        # fmt: off
        step = Step(
            number, loss, learning_rate, grad_norm, tokens, seconds, limit.share(parts, seconds),
            None if scale is None else scale.value, skipped=not finite,
        )
        # fmt: on
        if step.skipped and config.on_nonfinite is OnNonfinite.stop:
            raise NotFinite(step)
        yield step


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
        loss = hardware.fit(attempt, network.zero_gradients)
        grad_norm = norm_of(network.gradients())
        if scale is None:
            return loss, grad_norm
        hopeless = scale.value <= 1 or not math.isfinite(loss.nats)  # no scale changes the loss
        if hopeless and not math.isfinite(grad_norm):
            scale.value = before or scale.value
            return loss, grad_norm
        if scale.holds(step, math.isfinite(grad_norm)):
            return loss, grad_norm
        network.zero_gradients()


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
    process_group, targets = hardware.process_group, sum(part.num_targets for part in parts)
    divisor = max(1, targets) / (scale * process_group.size)  # processes average their gradients
    micro_batches = list(share_out(parts, hardware))
    nats = torch.zeros((), dtype=torch.float64 if hardware.device.type != "mps" else torch.float32)
    nats = nats.to(hardware.device)
    for number, micro_batch in enumerate(micro_batches, start=1):
        torch.manual_seed(
            dropout_seed(seed, step, (number - 1) * process_group.size + process_group.rank)
        )
        with network.accumulate(number, len(micro_batches)):
            with network.recompute_hooks:
                mean, micro_nats = mean_nats(network.trained, network.head, micro_batch, divisor)
            mean.backward()
        nats += micro_nats
    network.all_reduce_gradients(len(micro_batches))
    if scale != 1.0:
        network.gradients_to_fp32()  # what is small is lost in fp16 without its scale
        torch._foreach_div_(network.gradients(), scale)
    return TokenLoss(float(process_group.sum(nats)), targets)


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
    process_group = hardware.process_group
    for part in parts:
        fair = -(-len(part.inputs) // process_group.size)
        micro_batches = list(part.split(min(hardware.micro_batch_size, fair)))
        for first in range(0, len(micro_batches), process_group.size):
            mine = first + process_group.rank
            yield micro_batches[mine] if mine < len(micro_batches) else part.blank()


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """The dice of one micro-batch, so that a run has no random state to keep."""
    name = f"{seed} {step} {micro_batch}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8]) >> 1
