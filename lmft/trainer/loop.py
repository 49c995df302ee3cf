"""The training loop: optimizer steps, evaluations, checkpoints, and resuming from them."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

from safetensors.numpy import load_file, save_file

from lmft.errors import Interrupted
from lmft.evaluation.scoring import Scores
from lmft.output.terminal import Bars
from lmft.runs.run_dir import RunFolder
from lmft.signals import defer_signals
from lmft.trainer.progress import Progress
from lmft.trainer.session import (
    Session,
    restore_micro_batch_size,
    save_micro_batch_size,
    score_split,
    show_loss,
    show_samples,
)
from lmft.trainer.step import NotFinite, Step, dropout_seed, local_micro_batches

logger = logging.getLogger(__name__)


# Called with the step and the run's folder after each validation; returns whether to stop the run.
Prune = Callable[[int, RunFolder], bool]
MAX_SKIPPED_IN_A_ROW = 20  # steps
METRICS_OF_SKIPPED_STEPS = ("train/learning_rate", "train/tokens_per_second")
SCORES = "scores.safetensors"  # validation scores of the best weights, in their folder


@dataclass(frozen=True)
class Plan:
    """When to evaluate a run, and when to end it."""

    steps: int  # optimizer steps, at most
    evaluate_every: int  # optimizer steps
    patience: int | None  # evaluations in a row without a better one

    def evaluates(self, progress: Progress) -> bool:
        """Return whether a validation is due at this step, and not done yet."""
        due = progress.step % self.evaluate_every == 0 or progress.step == self.steps
        return due and progress.evaluated != progress.step

    def is_over(self, progress: Progress) -> bool:
        """Return whether all steps are taken, or the patience is used up."""
        stopped_early = self.patience is not None and progress.since_best >= self.patience
        return stopped_early or progress.step == self.steps


def fine_tune(session: Session, prune: Prune) -> tuple[Progress, bool]:
    """Train to the end, from the last checkpoint if there is one.

    Args:
        session: the run.
        prune: returns whether to stop an unpromising run; it can be resumed later.

    Returns:
        The progress, and whether the run has ended; False if it was pruned.

    Raises:
        Interrupted: a signal arrived; the step was finished and a checkpoint saved.
        FloatingPointError: a loss or gradient is not finite.
    """
    progress = resume(session)
    trainer, steps = session.config.trainer, session.engine.steps
    per_epoch = session.components.batches["train"].steps_per_epoch(trainer.batch_size)
    plan = Plan(steps, trainer.evaluate_every or per_epoch, trainer.patience)
    clock = Clock(trainer.checkpoint_every, trainer.checkpoint_minutes, progress.step)
    if progress.evaluated and prune(progress.step, session.folder):  # killed before it was pruned
        return progress, False
    with session.terminal.progress(steps) as bars, save_if_interrupted(session, progress):
        while True:
            if plan.evaluates(progress):
                validate(session, progress, bars)
                if progress.step and prune(progress.step, session.folder):
                    save(session, progress)
                    return progress, False
            if plan.is_over(progress):
                return progress, True
            if clock.is_due(progress.step):
                save(session, progress)
            with defer_signals():
                take_step(session, progress, bars)


def resume(session: Session) -> Progress:
    """Load the last intact checkpoint, and return its progress; step 0 if there is none."""
    checkpoint = session.checkpoints.newest()
    if checkpoint is None:
        session.engine.start(None, 0, None)
        return Progress()
    progress = Progress.from_json(checkpoint.progress)
    restore_micro_batch_size(session, progress.step + 1)
    session.engine.start(str(checkpoint.path), progress.step, progress.loss_scale)
    session.terminal.print(f"Resuming from step {progress.step:,}.", style="bold")
    logger.info(
        "resuming from step %d on %s", progress.step, session.components.hardware.describe()
    )
    return progress


def take_step(session: Session, progress: Progress, bars: Bars) -> None:
    """Take the next optimizer step and report it.

    Raises:
        FloatingPointError: its loss or gradients are not finite, or too many steps in a row were
            skipped.
    """
    restore_micro_batch_size(session, progress.step + 1)
    try:
        step = session.engine.step()
        save_micro_batch_size(session, step.number)
    except NotFinite as error:
        path = save_nonfinite_step(session, error.step)
        raise FloatingPointError(f"{str(error)[:-1]}; its batch is in {path}.") from error
    progress.step, progress.loss_scale = step.number, step.loss_scale
    progress.count_step(step.skipped)
    if not step.skipped:
        session.log.log_metrics(step.as_metrics(), step.number)
        bars.show_step(step.number, _describe_step(step))
        return
    path = save_nonfinite_step(session, step)
    metrics = {name: step.as_metrics()[name] for name in METRICS_OF_SKIPPED_STEPS}
    session.log.log_metrics({**metrics, "train/skipped_steps": progress.skipped_steps}, step.number)
    if progress.skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
        raise FloatingPointError(
            f"{MAX_SKIPPED_IN_A_ROW} steps in a row up to step {step.number} were skipped, because "
            "loss or gradients were not finite, so trainer.on_nonfinite=skip does not help; lower "
            f"optimizer.lr. The batch of the last one is in {path}."
        )


def _describe_step(step: Step) -> str:
    speed = f"{step.tokens / step.seconds:,.0f} tokens/s"
    return f"loss {step.loss.mean:.3f}  {speed} ({100 * step.share_of_limit:.0f} % MFU)"


@dataclass
class Clock:
    """Decides when a checkpoint is due."""

    every: int | None  # optimizer steps
    minutes: float | None
    last_step: int  # of the last checkpoint, or of the start of this process
    last_time: float = field(default_factory=time.monotonic)

    def is_due(self, step: int) -> bool:
        """Return whether to save now; if so, restart the clock."""
        by_steps = self.every is not None and step % self.every == 0
        waited = time.monotonic() - self.last_time
        by_clock = self.minutes is not None and waited > 60 * self.minutes
        if step == self.last_step or not (by_steps or by_clock):
            return False
        self.last_step, self.last_time = step, time.monotonic()
        return True


@contextmanager
def save_if_interrupted(session: Session, progress: Progress) -> Iterator[None]:
    """Save a checkpoint if a signal interrupts the work inside."""
    try:
        yield
    except Interrupted:
        if progress.step:
            with defer_signals():
                save(session, progress)
        raise


def save(session: Session, progress: Progress) -> None:
    """Save a checkpoint, after all metrics up to now are on disk."""
    session.log.flush()
    session.checkpoints.save(
        progress.step,
        session.engine.write_checkpoint,
        asdict(replace(progress, seconds=session.seconds(progress))),
        progress.best_step,
    )
    logger.info("checkpoint at step %d", progress.step)


def validate(session: Session, progress: Progress, bars: Bars) -> None:
    """Score the validation split, and save the weights if they are the best so far."""
    restore_micro_batch_size(session, progress.step + 1)
    scores = score_split("validation", session, bars)
    save_micro_batch_size(session, progress.step + 1)
    show_loss("validation", progress.step, scores.loss, session)
    if progress.step == 0:
        show_samples("before", session)
    elif progress.best is None or scores.loss.mean < progress.best.mean:
        with session.checkpoints.new_best(progress.step) as folder:
            session.engine.write_weights(str(folder))
            save_file(vars(scores), folder / SCORES)
    progress.add_validation(scores.loss)


def read_best_scores(session: Session, progress: Progress) -> Scores:
    """Read the validation scores of the best weights."""
    return Scores(**load_file(session.checkpoints.best(progress.best_step) / SCORES))


def save_nonfinite_step(session: Session, step: Step) -> Path:
    """Write nonfinite-<step>.json, the batch of a step, to the run's folder; return its path."""
    config, hardware = session.config, session.components.hardware
    batches, trainer = session.components.batches["train"], config.trainer
    order = trainer.batch_size, config.seed, trainer.shuffle
    (parts,) = islice(batches.training(*order, start=step.number - 1), 1)
    count = len(list(local_micro_batches(parts, hardware))) * hardware.process_group.size
    name = f"nonfinite-{step.number}.json"
    session.folder.write_json(
        name,
        {
            "step": step.number,
            "loss": _as_json(step.loss.mean),
            "learning_rate": step.learning_rate,
            "grad_norm": _as_json(step.grad_norm),
            "loss_scale": step.loss_scale,
            "blocks": batches.block_numbers(*order, step.number - 1),
            "inputs": [row for part in parts for row in part.inputs.tolist()],
            "targets": [row for part in parts for row in part.targets.tolist()],
            "micro_batch_size": hardware.micro_batch_size,
            "dropout_seeds": [dropout_seed(config.seed, step.number, n) for n in range(count)],
        },
    )
    logger.info("the batch of step %d is in %s", step.number, name)
    return session.folder.path / name


def _as_json(value: float) -> float | str:
    """Return the number, as a string if it is not finite: strict JSON has no infinity."""
    return value if math.isfinite(value) else str(value)
