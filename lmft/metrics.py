"""Loss and perplexity: summed over targets before anything is divided."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenLoss:
    """Cross-entropy summed over targets. Sums of unequal batches add up; their means do not."""

    nats: float = 0.0
    targets: int = 0

    def __add__(self, other: "TokenLoss") -> "TokenLoss":
        return TokenLoss(self.nats + other.nats, self.targets + other.targets)

    @property
    def mean(self) -> float:
        """Nats per target."""
        if self.targets == 0:
            raise ValueError("No target was seen, so there is no mean loss.")
        return self.nats / self.targets

    @property
    def perplexity(self) -> float:
        """exp(mean): among how many equally likely tokens the model wavers."""
        try:
            return math.exp(self.mean)
        except OverflowError:
            return math.inf

    def as_dict(self) -> dict[str, float]:
        """Loss (nats per target), perplexity, and the sums they come from."""
        return {
            "loss": self.mean,
            "perplexity": self.perplexity,
            "nats": self.nats,
            "targets": self.targets,
        }
