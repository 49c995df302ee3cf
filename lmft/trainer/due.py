"""When an evaluation or a checkpoint is due, and when a run is over."""

import time
from dataclasses import dataclass, field

from lmft.trainer.progress import Progress
from lmft.trainer.training import Training


@dataclass(frozen=True)
class Plan:
    """When to evaluate a run, and when to end it."""

    steps: int  # optimizer steps, at most
    evaluate_every: int  # optimizer steps
    patience: int | None  # evaluations in a row without a better one

    @staticmethod
    def of(training: Training) -> "Plan":
        """Return the plan of a run, with trainer.evaluate_every, or an epoch."""
        trainer = training.config.trainer
        every = trainer.evaluate_every or training.steps_per_epoch
        return Plan(training.steps, every, trainer.patience)

    def evaluates(self, progress: Progress) -> bool:
        """Return whether a validation is due at this step, and not done yet."""
        due = progress.step % self.evaluate_every == 0 or progress.step == self.steps
        return due and progress.evaluated != progress.step

    def is_over(self, progress: Progress) -> bool:
        """Return whether all steps are taken, or the patience is used up."""
        stopped_early = self.patience is not None and progress.since_best >= self.patience
        return stopped_early or progress.step == self.steps


@dataclass
class Clock:
    """Decides when a checkpoint is due."""

    every: int | None  # optimizer steps
    minutes: float | None
    last_step: int  # of the last checkpoint, or of the start of this process
    last_time: float = field(default_factory=time.monotonic)

    @staticmethod
    def of(training: Training, step: int) -> "Clock":
        """Return the clock of a run that starts or resumes at `step`."""
        trainer = training.config.trainer
        return Clock(trainer.checkpoint_every, trainer.checkpoint_minutes, step)

    def is_due(self, step: int, requested: bool) -> bool:
        """Return whether to save now, perhaps on request; if so, restart the clock."""
        by_steps = self.every is not None and step % self.every == 0
        waited = time.monotonic() - self.last_time
        by_clock = self.minutes is not None and waited > 60 * self.minutes
        if step == self.last_step or not (by_steps or by_clock or requested):
            return False
        self.last_step, self.last_time = step, time.monotonic()
        return True
