"""Loss and perplexity: sum over targets first, divide once."""

import math
from dataclasses import dataclass


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
