"""The training loop: a generator that yields what each optimizer step measured."""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from transformers import PreTrainedModel

from lmft.config import TrainerConfig
from lmft.hardware import Hardware
from lmft.head import Head
from lmft.loss import mean_nats
from lmft.metrics import TokenLoss
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

    def as_metrics(self) -> dict[str, float]:
        """For the tracker."""
        return {
            "train/loss": self.loss.mean,
            "train/perplexity": self.loss.perplexity,
            "train/learning_rate": self.learning_rate,
            "train/grad_norm": self.grad_norm,
            "train/tokens_per_second": self.tokens / self.seconds,
        }


def train(
    model: PreTrainedModel,
    head: Head | None,
    batches: Iterator[list[Batch]],
    optimizer: Optimizer,
    hardware: Hardware,
    config: TrainerConfig,
    numbers: range,
    seed: int,
) -> Iterator[Step]:
    """Take the optimizer steps `numbers` (1 is the first), yielding after each one.

    The last of them is the one after which nothing is left of the learning rate.

    Raises:
        FloatingPointError: a loss or gradient is not finite.
    """
    steps = numbers.stop - 1
    for number in numbers:
        started = time.perf_counter()
        parts = next(batches)
        learning_rate = set_learning_rate(
            optimizer,
            learning_rate_factor(config.schedule.value, config.warmup_steps, number, steps),
        )
        model.train()
        loss = accumulate_gradients(model, head, parts, hardware, seed, number)
        grad_norm = float(clip_grad_norm_(model.parameters(), config.max_grad_norm or math.inf))
        if not math.isfinite(loss.nats) or not math.isfinite(grad_norm):
            raise FloatingPointError(
                f"At step {number} the loss is {loss.mean:.4g} and the gradient's norm "
                f"{grad_norm:.4g}; lower optimizer.lr, or raise trainer.warmup_steps."
            )
        optimizer.step()
        optimizer.zero_grad()
        tokens = sum(part.inputs.numel() for part in parts)
        seconds = time.perf_counter() - started
        yield Step(number, loss, learning_rate, grad_norm, tokens, seconds)


def accumulate_gradients(
    model: PreTrainedModel,
    head: Head | None,
    parts: list[Batch],
    hardware: Hardware,
    seed: int,
    step: int,
) -> TokenLoss:
    """Add the gradients of the batch's mean loss: one division for all, however it is split."""
    targets = sum(part.num_targets for part in parts)
    micro_batches = (micro for part in parts for micro in part.split(hardware.micro_batch_size))
    nats = torch.zeros((), dtype=torch.float64 if hardware.device.type != "mps" else torch.float32)
    nats = nats.to(hardware.device)
    for number, micro_batch in enumerate(micro_batches):
        torch.manual_seed(dropout_seed(seed, step, number))
        mean, micro_nats = mean_nats(model, head, micro_batch, hardware, max(1, targets))
        mean.backward()
        nats += micro_nats
    return TokenLoss(float(nats), targets)


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """The dice of one micro-batch, so that a run has no random state to keep."""
    name = f"{seed} {step} {micro_batch}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8]) >> 1
