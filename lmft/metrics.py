"""Loss and perplexity: sum over targets first, divide once; and the names of all metrics."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

FILL = "dataset/fill"  # share of the training blocks that is no padding
VALIDATION_LOSS = "validation/loss"  # nats per target

# Of an optimizer step.
TRAIN_LOSS = "train/loss"  # nats per target, of the batch before the update
TRAIN_PERPLEXITY = "train/perplexity"  # exp(train/loss)
LEARNING_RATE = "train/learning_rate"  # of the update
GRAD_NORM = "train/grad_norm"  # L2 norm of the gradient, before clipping
TOKENS_PER_SECOND = "train/tokens_per_second"  # of whole batches
MFU = "train/share_of_limit"  # model FLOPs utilization, of the measured peak
SKIPPED_STEPS = "train/skipped_steps"  # steps skipped so far, if a number was not finite


def of_split(split: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers of an evaluation by metric name, as in validation/loss."""
    return {f"{split}/{name}": value for name, value in values.items()}


@dataclass(frozen=True)
class TokenLoss:
    """Cross-entropy summed over targets. Sums of unequal batches can be added; means cannot."""

    nats: float = 0.0
    targets: int = 0

    def __add__(self, other: "TokenLoss") -> "TokenLoss":
        return TokenLoss(self.nats + other.nats, self.targets + other.targets)

    @property
    def mean(self) -> float:
        """Nats per target.

        Raises:
            ValueError: there is no target.
        """
        if self.targets == 0:
            raise ValueError("There is no target, so there is no mean loss.")
        return self.nats / self.targets

    @property
    def perplexity(self) -> float:
        """exp(mean): the number of equally likely tokens that would give the same loss."""
        try:
            return math.exp(self.mean)
        except OverflowError:
            return math.inf

    def as_dict(self) -> dict[str, float]:
        """Return the loss (nats per target), the perplexity, and the sums they come from."""
        return {
            "loss": self.mean,
            "perplexity": self.perplexity,
            "nats": self.nats,
            "targets": self.targets,
        }
