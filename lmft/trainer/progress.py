"""The progress of a run, and its final result."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lmft.evaluation.sums import Assessment
from lmft.hardware.allocator import peak_memory
from lmft.hardware.memory import used_memory
from lmft.metrics import TOKENS_PER_SECOND, TokenLoss
from lmft.tracker.run_log import read_values


@dataclass
class Progress:
    """The state of a run beside weights and optimizer, kept in each checkpoint."""

    step: int = 0  # optimizer steps taken
    evaluated: int | None = None  # the step of the last validation
    baseline: TokenLoss | None = None  # validation before step 1
    best: TokenLoss | None = None  # the lowest validation after step 0
    best_step: int = 0
    final: TokenLoss | None = None  # the last validation
    since_best: int = 0  # evaluations without a better one
    loss_scale: float | None = None  # in fp16, after the last step
    skipped_steps: int = 0  # because loss or gradients were not finite
    skipped_in_a_row: int = 0
    seconds: float = 0.0  # run time, over all starts

    def count_step(self, skipped: bool) -> None:
        """Update the counts of skipped steps after a step."""
        self.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def add_validation(self, loss: TokenLoss) -> bool:
        """Record the loss of a validation; return whether it is the best so far."""
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
        """Return the progress that `asdict` turned into `saved`."""
        losses = {
            name: TokenLoss(**saved[name])
            for name in ("baseline", "best", "final")
            if saved[name] is not None
        }
        return Progress(**{**saved, **losses})


@dataclass
class Outcome:
    """The final result of a run."""

    progress: Progress
    assessed: dict[str, Assessment] = field(default_factory=dict)  # of the best weights, by split

    def as_dict(self, folder: Path, seconds: float, device: torch.device) -> dict[str, Any]:
        """Return the content of result.json; all that differs between repeats is in `timing`."""
        assessed = {split: found.result.as_dict() for split, found in self.assessed.items()}
        progress = self.progress
        assert progress.baseline is not None and progress.final is not None
        speeds = [value for _, value in read_values(folder, TOKENS_PER_SECOND)]
        timing = {
            "seconds": seconds,
            "tokens_per_second": statistics.median(speeds),
            "peak_memory_bytes": peak_memory(),  # of this process, on the host
        }
        if device.type == "cuda":
            timing["peak_device_memory_bytes"] = used_memory(device)
        return {
            "baseline": progress.baseline.as_dict(),
            "validation": assessed["validation"],
            "test": assessed.get("test"),
            "best_step": progress.best_step,
            "final": progress.final.as_dict(),
            "steps": progress.step,
            "skipped_steps": progress.skipped_steps,
            "timing": timing,
        }
