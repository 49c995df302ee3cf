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
from lmft.hardware.allocator import release_freed_memory
from lmft.hardware.device import Hardware
from lmft.hardware.mfu import FlopsEstimate
from lmft.metrics import TokenLoss
from lmft.model.loss import mean_nats
from lmft.model.mixed_precision import Network
from lmft.objective import Batch
from lmft.optimizer import learning_rate_factor, set_learning_rate, slices


@dataclass(frozen=True)
class Step:
    """The measurements of one optimizer step."""

    number: int  # 1 for the first
    loss: TokenLoss  # of the batch, before the update
    learning_rate: float
    grad_norm: float  # before clipping
    tokens: int
    seconds: float
    share_of_limit: float  # model FLOPs utilization: of the device's peak matrix throughput
    loss_scale: float | None  # of the next step, in fp16
    skipped: bool = False  # loss or gradients were not finite, so the weights were not updated

    def as_metrics(self) -> dict[str, float]:
        """Return the step's metrics by name."""
        return {
            "train/loss": self.loss.mean,
            "train/perplexity": self.loss.perplexity,
            "train/learning_rate": self.learning_rate,
            "train/grad_norm": self.grad_norm,
            "train/tokens_per_second": self.tokens / self.seconds,
            "train/share_of_limit": self.share_of_limit,
        }


class NotFinite(FloatingPointError):
    """The loss of a step, or the norm of its gradients, is not finite."""

    def __init__(self, step: Step):
        super().__init__(
            f"At step {step.number} the loss is {step.loss.mean:.4g}, the learning rate "
            f"{step.learning_rate:.4g} and the gradient norm {step.grad_norm:.4g}; lower "
            "optimizer.lr, raise trainer.warmup_steps, or skip such steps with "
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
    flops: FlopsEstimate,
    loss_scale: float | None = None,
) -> Iterator[Step]:
    """Take the optimizer steps `numbers` (1 is the first), yielding after each one.

    Args:
        network: the model.
        batches: one batch per step, in parts of blocks of equal length.
        optimizer: of the model's weights, from `build_optimizer`.
        hardware: the device, precision and micro-batch size.
        config: the schedule and the clipping.
        numbers: of the steps; the schedule ends with the last one.
        seed: of dropout.
        flops: of the model, and the peak throughput, for the MFU.
        loss_scale: for fp16, the one after the step before the first.

    Raises:
        NotFinite: a loss or gradient is not finite, and such steps are not skipped.
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
        network.compute_model.train()
        loss, grad_norm = compute_gradients(network, parts, hardware, seed, number, scale)
        finite = math.isfinite(loss.nats) and math.isfinite(grad_norm)
        if finite:
            clip_divisor = grad_norm / config.max_grad_norm if config.max_grad_norm else 1.0
            network.optimizer_step(optimizer, max(1.0, clip_divisor))
        network.zero_gradients()
        if number == numbers.start:
            release_freed_memory()  # which is fragmented by the optimizer's new state
        tokens = sum(part.inputs.numel() for part in parts)
        seconds = time.perf_counter() - started
        # fmt: off
        step = Step(
            number, loss, learning_rate, grad_norm, tokens, seconds, flops.mfu(parts, seconds),
            None if scale is None else scale.value, skipped=not finite,
        )
        # fmt: on
        if step.skipped and config.on_nonfinite is OnNonfinite.stop:
            raise NotFinite(step)
        yield step


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
    seed: int,
    step: int,
    scale: LossScale | None,
) -> tuple[TokenLoss, float]:
    """Compute the gradients of a batch; in fp16, with a loss scale at which none overflows.

    If there is no such scale, the scale is left unchanged.

    Returns:
        The batch's loss, and the norm of its gradients.
    """
    before = None if scale is None else scale.value
    while True:
        factor = 1.0 if scale is None else scale.value
        attempt = partial(accumulate_gradients, network, parts, hardware, seed, step, factor)
        loss = hardware.halve_on_oom(attempt, network.zero_gradients)
        grad_norm = gradient_norm(network.gradients())
        if scale is None:
            return loss, grad_norm
        # Scales below 1 are not tried, and no scale makes the loss finite.
        no_retry = scale.value <= 1 or not math.isfinite(loss.nats)
        if no_retry and not math.isfinite(grad_norm):
            scale.value = before or scale.value
            return loss, grad_norm
        if scale.update(step, math.isfinite(grad_norm)):
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
    """Accumulate the gradients of a batch's mean loss, and return that loss.

    All micro-batches divide by the same number of targets, so the split changes nothing. Inside the
    backward pass, gradients are `scale` times as large.
    """
    process_group, targets = hardware.process_group, sum(part.num_targets for part in parts)
    divisor = max(1, targets) / (scale * process_group.size)  # ranks average their gradients
    micro_batches = list(local_micro_batches(parts, hardware))
    nats = torch.zeros((), dtype=torch.float64 if hardware.device.type != "mps" else torch.float32)
    nats = nats.to(hardware.device)
    for number, micro_batch in enumerate(micro_batches, start=1):
        torch.manual_seed(
            dropout_seed(seed, step, (number - 1) * process_group.size + process_group.rank)
        )
        with network.gradient_accumulation(number, len(micro_batches)):
            with network.recompute_hooks:
                mean, micro_nats = mean_nats(
                    network.wrapped_model, network.head, micro_batch, divisor
                )
            mean.backward()
        nats += micro_nats
    network.all_reduce_gradients(len(micro_batches))
    if scale != 1.0:
        network.gradients_to_fp32()  # in fp16, small gradients would underflow without the scale
        torch._foreach_div_(network.gradients(), scale)
    return TokenLoss(float(process_group.sum(nats)), targets)


@torch.no_grad()
def gradient_norm(gradients: list[Tensor]) -> float:
    """Return the norm of all gradients together, computed in fp32."""
    if not gradients or gradients[0].dtype is torch.float32:
        norm = get_total_norm(gradients)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if gradients[0].is_cpu:  # there, _foreach_norm would copy whole gradients to fp32
        parts = (part.float() for gradient in gradients for part in slices(gradient))
        norms = tuple(vector_norm(part) for part in parts)
    else:
        norms = torch._foreach_norm(gradients, dtype=torch.float32)
    return float(torch.stack(norms).norm())


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


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """Return the seed of one micro-batch's dropout; so checkpoints need no random state."""
    name = f"{seed} {step} {micro_batch}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8]) >> 1
