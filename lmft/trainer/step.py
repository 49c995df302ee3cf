"""Optimizer steps: micro-batches, gradients, clipping, learning rate."""

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.profiler import record_function

from lmft.config.training_knobs import OnNonfinite, Precision
from lmft.hardware.allocator import release_freed_memory
from lmft.hardware.determinism import deterministic_kernels
from lmft.hardware.transfer import LateNumbers, Moment, mark_time, queues_work, seconds_between
from lmft.metrics import (
    GRAD_NORM,
    LEARNING_RATE,
    MFU,
    TOKENS_PER_SECOND,
    TRAIN_LOSS,
    TRAIN_PERPLEXITY,
    TokenLoss,
)
from lmft.objective import Batch
from lmft.optimizer import learning_rate_factor, set_learning_rate
from lmft.trainer.gradients import DropoutSeeds, LossScale, compute_gradients, count_targets
from lmft.trainer.step_graphs import update_on_device
from lmft.trainer.training import Training

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
    is_short: bool = False  # fewer tokens than a whole batch, as at the end of an epoch
    skipped: bool = False  # loss or gradients were not finite, so the weights were not updated

    def as_metrics(self) -> dict[str, float]:
        """Return the step's metrics by name; the speed of a short batch would say little."""
        speed = {} if self.is_short else {TOKENS_PER_SECOND: self.tokens / self.seconds}
        return {
            TRAIN_LOSS: self.loss.mean,
            TRAIN_PERPLEXITY: self.loss.perplexity,
            LEARNING_RATE: self.learning_rate,
            GRAD_NORM: self.grad_norm,
            **speed,
            MFU: self.share_of_limit,
        }


@dataclass(frozen=True)
class TakenStep:
    """A step whose numbers may still be on their way from the device."""

    number: int
    parts: list[Batch]
    learning_rate: float
    loss_scale: float | None
    numbers: LateNumbers  # nats, and the norm of the gradients
    started: Moment
    ended: Moment

    def read(self, training: "Training") -> Step:
        """Return the step's measurements, once the device has finished it.

        Raises:
            NotFinite: its loss or gradients are not finite, and such steps are not skipped.
        """
        nats, grad_norm = self.numbers.read()
        seconds = seconds_between(self.started, self.ended)
        tokens, config = count_tokens(self.parts), training.config
        step = Step(
            number=self.number,
            loss=TokenLoss(nats, count_targets(self.parts)),
            learning_rate=self.learning_rate,
            grad_norm=grad_norm,
            tokens=tokens,
            seconds=seconds,
            share_of_limit=training.flops.mfu(self.parts, seconds),
            loss_scale=self.loss_scale,
            is_short=self.number > 1 and tokens < config.tokens_per_step,
            skipped=not (math.isfinite(nats) and math.isfinite(grad_norm)),
        )
        if step.skipped and config.trainer.on_nonfinite is OnNonfinite.stop:
            raise NotFinite(step)
        return step


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


def training_steps(
    training: Training, first: int = 1, last: int | None = None, loss_scale: float | None = None
) -> Iterator[Step]:
    """Take optimizer steps, yielding the measurements of each one: `take_steps`, read at once.

    Raises:
        NotFinite: a loss or gradient is not finite, and such steps are not skipped.
    """
    return (step.read(training) for step in take_steps(training, first, last, loss_scale))


def read_late(training: Training, steps: Iterable[TakenStep]) -> Iterator[Step]:
    """Read steps; where the device queues work, each after the next one is launched, as in a run.

    Raises:
        NotFinite: as `training_steps` does.
    """
    late = queues_work(training.components.hardware.device)
    unread: TakenStep | None = None
    for step in steps:
        if not late:
            yield step.read(training)
        elif unread is not None:
            yield unread.read(training)
        unread = step
    if late and unread is not None:
        yield unread.read(training)


def take_steps(
    training: Training, first: int = 1, last: int | None = None, loss_scale: float | None = None
) -> Iterator[TakenStep]:
    """Take optimizer steps, yielding after each one; a GPU may not have finished it by then.

    Args:
        training: the model, its optimizer and its batches.
        first: number of the first step; 1 starts a run.
        last: number of the last one, at which the schedule ends; None: that of the whole run.
        loss_scale: for fp16, the one after the step before the first.
    """
    last = training.steps if last is None else last
    hardware = training.components.hardware
    scale = LossScale(loss_scale) if hardware.precision is Precision.fp16 else None
    batches = training.batches(first)
    for number in range(first, last + 1):
        started = mark_time(hardware.device)
        with record_function(BATCH):
            parts = next(batches)
        learning_rate = schedule_step(training, number, last)
        nats, grad_norm = update_weights(training, parts, number, scale)
        if number == first:
            release_freed_memory()  # which is fragmented by the optimizer's new state
        yield TakenStep(
            number=number,
            parts=parts,
            learning_rate=learning_rate,
            loss_scale=None if scale is None else scale.value,
            numbers=LateNumbers(nats, grad_norm),
            started=started,
            ended=mark_time(hardware.device),
        )


def schedule_step(training: Training, number: int, last: int) -> float:
    """Set and return the learning rate of step `number`, if step `last` is the last one."""
    trainer = training.config.trainer
    factor = learning_rate_factor(trainer.schedule.value, trainer.warmup_steps, number, last)
    return set_learning_rate(training.optimizer, factor)


def update_weights(
    training: Training, parts: list[Batch], number: int, scale: LossScale | None
) -> tuple[Tensor, Tensor]:
    """Update the weights by one batch, unless a number is not finite.

    Returns:
        The batch's nats () before the update, and the norm () of its gradients before clipping.
    """
    network, hardware = training.components.network, training.components.hardware
    network.compute_model.train()
    seeds = DropoutSeeds(training.config.seed, number)
    take_step = partial(take_step_by_operation, training, parts, seeds, scale)
    kernels = deterministic_kernels() if hardware.deterministic else nullcontext()
    with kernels, network.compiled(count_tokens(parts) == training.config.tokens_per_step):
        if training.graphs is None:
            return take_step()
        return training.graphs.take_step(parts, seeds, take_step)


def take_step_by_operation(
    training: Training, parts: list[Batch], seeds: DropoutSeeds, scale: LossScale | None
) -> tuple[Tensor, Tensor]:
    """Update the weights as `update_weights` does, launching one operation after the other."""
    network, max_norm = training.components.network, training.config.trainer.max_grad_norm
    nats, grad_norm = compute_gradients(network, parts, training.components.hardware, seeds, scale)
    if network.can_skip_on_device(training.optimizer):
        update_on_device(network, training.optimizer, nats, grad_norm, max_norm)
    elif math.isfinite(nats) and math.isfinite(grad_norm):
        clip_divisor = float(grad_norm) / max_norm if max_norm else 1.0
        network.optimizer_step(training.optimizer, max(1.0, clip_divisor))
    network.zero_gradients()
    return nats, grad_norm


def count_tokens(parts: list[Batch]) -> int:
    """Return the number of tokens of a whole batch."""
    return sum(part.inputs.numel() for part in parts)
