"""The training loop: a generator that yields what each optimizer step measured."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from torch.optim import Optimizer

from lmft.allocator import give_back_freed_memory
from lmft.arithmetic import Limit
from lmft.config import OnNonfinite, Precision, TrainerConfig
from lmft.gradients import LossScale, find_gradients
from lmft.hardware import Hardware
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
            shrink = grad_norm / config.max_grad_norm if config.max_grad_norm else 1.0
            network.learn(optimizer, max(1.0, shrink))
        network.forget_gradients()
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
