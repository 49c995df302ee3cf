"""Optimizer steps: micro-batches, gradients, clipping, learning rate."""

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
from torch.profiler import record_function

from lmft.config.schema import OnNonfinite, Precision, RunConfig
from lmft.hardware.allocator import release_freed_memory
from lmft.hardware.device import Hardware
from lmft.hardware.mfu import FlopsEstimate, estimate_flops
from lmft.metrics import (
    GRAD_NORM,
    LEARNING_RATE,
    MFU,
    TOKENS_PER_SECOND,
    TRAIN_LOSS,
    TRAIN_PERPLEXITY,
    TokenLoss,
)
from lmft.model.loss import mean_nats
from lmft.model.mixed_precision import Network
from lmft.objective import Batch
from lmft.optimizer import build_optimizer, learning_rate_factor, set_learning_rate, slices
from lmft.trainer.components import Components

BATCH = "lmft batch"  # the name of making a batch in torch's profiler


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
            TRAIN_LOSS: self.loss.mean,
            TRAIN_PERPLEXITY: self.loss.perplexity,
            LEARNING_RATE: self.learning_rate,
            GRAD_NORM: self.grad_norm,
            TOKENS_PER_SECOND: self.tokens / self.seconds,
            MFU: self.share_of_limit,
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


@dataclass(frozen=True)
class Training:
    """What takes the optimizer steps of a run."""

    config: RunConfig
    components: Components
    optimizer: Optimizer
    flops: FlopsEstimate  # of a step, and the device's peak throughput

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        trainer = self.config.trainer
        return trainer.steps(self.steps_per_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimizer steps that see each block once."""
        return self.components.batches["train"].steps_per_epoch(self.config.trainer.batch_size)

    def batches(self, first: int) -> Iterator[list[Batch]]:
        """Yield the batches of step `first` (1 is the first) and all later ones."""
        trainer, seed = self.config.trainer, self.config.seed
        return self.components.batches["train"].training(
            trainer.batch_size, seed, trainer.shuffle, start=first - 1
        )


def start_training(config: RunConfig, components: Components) -> Training:
    """Build the optimizer of the components' model, and measure the device's peak throughput.

    Raises:
        UserError: the optimizer rejects a value.
    """
    model = components.network.model
    optimizer = build_optimizer(config.optimizer, model)
    flops = estimate_flops(model, components.hardware, config.objective.is_causal)
    return Training(config, components, optimizer, flops)


def training_steps(
    training: Training, first: int = 1, last: int | None = None, loss_scale: float | None = None
) -> Iterator[Step]:
    """Take optimizer steps, yielding after each one.

    Args:
        training: the model, its optimizer and its batches.
        first: number of the first step; 1 starts a run.
        last: number of the last one, at which the schedule ends; None: that of the whole run.
        loss_scale: for fp16, the one after the step before the first.

    Raises:
        NotFinite: a loss or gradient is not finite, and such steps are not skipped.
    """
    last = training.steps if last is None else last
    fp16 = training.components.hardware.precision is Precision.fp16
    scale = LossScale(loss_scale) if fp16 else None
    batches = training.batches(first)
    for number in range(first, last + 1):
        started = time.perf_counter()
        with record_function(BATCH):
            parts = next(batches)
        learning_rate = schedule_step(training, number, last)
        loss, grad_norm = update_weights(training, parts, number, scale)
        if number == first:
            release_freed_memory()  # which is fragmented by the optimizer's new state
        seconds = time.perf_counter() - started
        step = Step(
            number=number,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens=sum(part.inputs.numel() for part in parts),
            seconds=seconds,
            share_of_limit=training.flops.mfu(parts, seconds),
            loss_scale=None if scale is None else scale.value,
            skipped=not is_finite(loss, grad_norm),
        )
        if step.skipped and training.config.trainer.on_nonfinite is OnNonfinite.stop:
            raise NotFinite(step)
        yield step


def schedule_step(training: Training, number: int, last: int) -> float:
    """Set and return the learning rate of step `number`, if step `last` is the last one."""
    trainer = training.config.trainer
    factor = learning_rate_factor(trainer.schedule.value, trainer.warmup_steps, number, last)
    return set_learning_rate(training.optimizer, factor)


def update_weights(
    training: Training, parts: list[Batch], number: int, scale: "LossScale | None"
) -> tuple[TokenLoss, float]:
    """Update the weights by one batch, unless a number is not finite.

    Returns:
        The batch's loss before the update, and the norm of its gradients before clipping.
    """
    network, max_norm = training.components.network, training.config.trainer.max_grad_norm
    network.compute_model.train()
    seeds = DropoutSeeds(training.config.seed, number)
    loss, grad_norm = compute_gradients(network, parts, training.components.hardware, seeds, scale)
    if is_finite(loss, grad_norm):
        clip_divisor = grad_norm / max_norm if max_norm else 1.0
        network.optimizer_step(training.optimizer, max(1.0, clip_divisor))
    network.zero_gradients()
    return loss, grad_norm


def is_finite(loss: TokenLoss, grad_norm: float) -> bool:
    """Return whether the weights may be updated by these gradients."""
    return math.isfinite(loss.nats) and math.isfinite(grad_norm)


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
) -> tuple[TokenLoss, float]:
    """Compute the gradients of a batch; in fp16, with a loss scale at which none overflows.

    If there is no such scale, the scale is left unchanged.

    Returns:
        The batch's loss, and the norm of its gradients.
    """
    before = None if scale is None else scale.value
    while True:
        factor = 1.0 if scale is None else scale.value
        attempt = partial(accumulate_gradients, network, parts, hardware, seeds, factor)
        loss = hardware.halve_on_oom(attempt, network.zero_gradients)
        grad_norm = gradient_norm(network.gradients())
        if scale is None:
            return loss, grad_norm
        # Scales below 1 are not tried, and no scale makes the loss finite.
        no_retry = scale.value <= 1 or not math.isfinite(loss.nats)
        if no_retry and not math.isfinite(grad_norm):
            scale.value = before or scale.value
            return loss, grad_norm
        if scale.update(seeds.step, math.isfinite(grad_norm)):
            return loss, grad_norm
        network.zero_gradients()


def accumulate_gradients(
    network: Network,
    parts: list[Batch],
    hardware: Hardware,
    seeds: DropoutSeeds,
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
        torch.manual_seed(seeds.of((number - 1) * process_group.size + process_group.rank))
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
