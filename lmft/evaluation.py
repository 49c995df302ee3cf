"""Scoring a model on a split: nats of each target, summed in float64, no logits kept."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from lmft.batches import Batches
from lmft.errors import UserError
from lmft.hardware import Hardware
from lmft.loss import target_nats
from lmft.metrics import TokenLoss
from lmft.objective import IGNORED


@dataclass
class EvaluationConfig:
    """The `evaluation` group."""

    max_blocks: int | None  # only the first so many of a split; null: all

    def check(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.max_blocks is not None and self.max_blocks < 1:
            raise UserError(f"evaluation.max_blocks must be at least 1, not {self.max_blocks}.")


def evaluate(
    model: PreTrainedModel,
    batches: Batches,
    hardware: Hardware,
    max_blocks: int | None = None,
    advance: Callable[[int], None] = lambda blocks: None,
) -> TokenLoss:
    """The loss over the split's targets; `advance` hears how many more blocks are done."""
    was_training = model.training
    model.eval()
    total = TokenLoss()
    for numbers, batch in batches.evaluation(hardware.micro_batch_size, max_blocks):
        nats = target_nats(model, batch, hardware).cpu().double().numpy()
        counted = (batch.targets != IGNORED).numpy()
        total += TokenLoss(float(np.sum(nats[counted])), int(counted.sum()))
        advance(len(numbers))
    model.train(was_training)
    return total
