"""How far a run has come, and what it reached."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmft.evaluation.result import Assessment
from lmft.hardware.allocator import peak_memory
from lmft.metrics import TokenLoss
from lmft.tracker.run_log import read_values


@dataclass
class Progress:
    """What going on must know beside weights and optimizer."""

    step: int = 0  # optimizer steps taken
    evaluated: int | None = None  # the step of the last validation
    baseline: TokenLoss | None = None  # validation before step 1
    best: TokenLoss | None = None  # the lowest validation after step 0
    best_step: int = 0
    final: TokenLoss | None = None  # the last validation
    since_best: int = 0  # evaluations
    loss_scale: float | None = None  # of fp16, after the last step
    skipped_steps: int = 0  # that were not finite
    skipped_in_a_row: int = 0
    seconds: float = 0.0  # at work, over all starts

    def count(self, skipped: bool) -> None:
        """One more step was taken, or skipped."""
        self.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def note(self, loss: TokenLoss) -> bool:
        """Take in a validation; returns whether it is the best so far."""
        self.evaluated, self.final = self.step, loss
        if self.step == 0:
            self.baseline = loss
            return False
        if self.best is not None and loss.mean >= self.best.mean:
            self.since_best += 1
            return False
        self.best, self.best_step, self.since_best = loss, self.step, 0
        return True

    @staticmethod
    def from_json(saved: dict[str, Any]) -> "Progress":
        """What `asdict` gave; the very same numbers."""
        losses = {
            name: TokenLoss(**saved[name])
            for name in ("baseline", "best", "final")
            if saved[name] is not None
        }
        return Progress(**{**saved, **losses})


@dataclass
class Outcome:
    """What a run reached."""

    progress: Progress
    assessed: dict[str, Assessment] = field(default_factory=dict)  # of the best, by split

    def as_dict(self, folder: Path, seconds: float) -> dict[str, Any]:
        """What result.json holds; all that a clock or a memory meter measured is under `timing`."""
        assessed = {name: found.result.as_dict() for name, found in self.assessed.items()}
        progress = self.progress
        assert progress.baseline is not None and progress.final is not None
        speeds = [value for _, value in read_values(folder, "train/tokens_per_second")]
        return {
            "baseline": progress.baseline.as_dict(),
            "validation": assessed["validation"],
            "test": assessed.get("test"),
            "best_step": progress.best_step,
            "final": progress.final.as_dict(),
            "steps": progress.step,
            "skipped_steps": progress.skipped_steps,
            "timing": {
                "seconds": seconds,
                "tokens_per_second": statistics.median(speeds),
                "peak_memory_bytes": peak_memory(),
            },
        }
