"""What a run reached, from its baseline to its labelled results."""

import resource
import statistics
from dataclasses import dataclass, field
from typing import Any

from lmft.evaluation import Scores
from lmft.metrics import TokenLoss
from lmft.result import Assessment
from lmft.samples import Sample


@dataclass
class Outcome:
    """What a run reached so far."""

    baseline: TokenLoss  # validation before step 1
    best: Scores | None = None  # the lowest validation after step 0
    best_step: int = 0
    final: TokenLoss | None = None  # the last validation
    steps: int = 0
    since_best: int = 0  # evaluations
    assessed: dict[str, Assessment] = field(default_factory=dict)  # of the best, by split
    tokens_per_second: list[float] = field(default_factory=list)
    losses: dict[str, dict[int, float]] = field(default_factory=dict)  # by split and step
    samples: dict[str, list[Sample]] = field(default_factory=dict)  # before and after

    def note(self, step: int, scores: Scores) -> bool:
        """Take in a validation; returns whether it is the best so far."""
        self.final, self.steps = scores.loss, step
        self.losses["validation"][step] = scores.loss.mean
        if self.best is not None and scores.loss.mean >= self.best.loss.mean:
            self.since_best += 1
            return False
        self.best, self.best_step, self.since_best = scores, step, 0
        return True

    def as_dict(self, seconds: float) -> dict[str, Any]:
        """What result.json holds; all that a clock or a memory meter measured is under `timing`."""
        assessed = {name: found.result.as_dict() for name, found in self.assessed.items()}
        return {
            "baseline": self.baseline.as_dict(),
            "validation": assessed["validation"],
            "test": assessed.get("test"),
            "best_step": self.best_step,
            "final": self.final and self.final.as_dict(),
            "steps": self.steps,
            "timing": {
                "seconds": seconds,
                "tokens_per_second": statistics.median(self.tokens_per_second),
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            },
        }
