"""The training loop: optimizer steps, evaluations and checkpoints, from wherever the run stands."""

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
from lmft.signals import finish_first
from lmft.trainer.progress import Progress
from lmft.trainer.session import (
    Session,
    restore_micro_batch_size,
    save_micro_batch_size,
    score_split,
    show_loss,
    show_samples,
)
from lmft.trainer.step import NotFinite, Step, dropout_seed, share_out

logger = logging.getLogger(__name__)


# Hears of the step and the run's folder after each validation; whether to end there, for now.
Prune = Callable[[int, RunFolder], bool]

HOPELESS = 20  # steps in a row that are not finite

KNOWN_OF_SKIPPED = ("train/learning_rate", "train/tokens_per_second")

SCORES = "scores.safetensors"  # of the best weights on validation, beside them


@dataclass(frozen=True)
class Plan:
    """When a run is evaluated, and when it ends."""

    steps: int  # optimizer steps, at most
    evaluate_every: int  # optimizer steps
    patience: int | None  # evaluations in a row without a better one

    def evaluates(self, progress: Progress) -> bool:
        """Whether the validation of this step is still to be done."""
        due = progress.step % self.evaluate_every == 0 or progress.step == self.steps
        return due and progress.evaluated != progress.step

    def is_over(self, progress: Progress) -> bool:
        """Whether nothing is left to be done."""
        gave_up = self.patience is not None and progress.since_best >= self.patience
        return gave_up or progress.step == self.steps


def fine_tune(session: Session, prune: Prune) -> tuple[Progress, bool]:
    """Train to the end, from the last checkpoint on where there is one.

    Args:
        session: the run.
        prune: whether it is not worth going on; the run can be taken to its end later.

    Returns:
        How far it came, and whether that is its end.

    Raises:
        Stopped: by a signal, after the step and with a checkpoint.
        FloatingPointError: a loss or gradient is not finite.
    """
    progress = go_on(session)
    trainer, steps = session.config.trainer, session.engine.steps
    per_epoch = session.components.batches["train"].steps_per_epoch(trainer.batch_size)
    plan = Plan(steps, trainer.evaluate_every or per_epoch, trainer.patience)
    clock = Clock(trainer.checkpoint_every, trainer.checkpoint_minutes, progress.step)
    if progress.evaluated and prune(progress.step, session.folder):  # as before a kill
        return progress, False
    with session.terminal.progress(steps) as bars, saved_if_stopped(session, progress):
        while True:
            if plan.evaluates(progress):
                validate(session, progress, bars)
                if progress.step and prune(progress.step, session.folder):
                    save(session, progress)
                    return progress, False
            if plan.is_over(progress):
                return progress, True
            if clock.is_time(progress.step):
                save(session, progress)
            with finish_first():
                take_step(session, progress, bars)


def go_on(session: Session) -> Progress:
    """Where the last whole checkpoint stands; step 0 where there is none."""
    checkpoint = session.checkpoints.newest()
    if checkpoint is None:
        session.engine.start(None, 0, None)
        return Progress()
    progress = Progress.from_json(checkpoint.progress)
    restore_micro_batch_size(session, progress.step + 1)
    session.engine.start(str(checkpoint.path), progress.step, progress.loss_scale)
    session.terminal.say(f"Going on from step {progress.step:,}.", style="bold")
    logger.info(
        "going on from step %d on %s", progress.step, session.components.hardware.describe()
    )
    return progress


def take_step(session: Session, progress: Progress, bars: Bars) -> None:
    """The next optimizer step, told to all who listen.

    Raises:
        FloatingPointError: it is not finite, or too many in a row were not.
    """
    restore_micro_batch_size(session, progress.step + 1)
    try:
        step = session.engine.step()
        save_micro_batch_size(session, step.number)
    except NotFinite as error:
        place = save_nonfinite_step(session, error.step)
        raise FloatingPointError(f"{str(error)[:-1]}; its batch is in {place}.") from error
    progress.step, progress.loss_scale = step.number, step.loss_scale
    progress.count(step.skipped)
    if not step.skipped:
        session.log.metrics(step.as_metrics(), step.number)
        bars.show_step(step)
        return
    place = save_nonfinite_step(session, step)
    known = {name: step.as_metrics()[name] for name in KNOWN_OF_SKIPPED}
    session.log.metrics({**known, "train/skipped_steps": progress.skipped_steps}, step.number)
    if progress.skipped_in_a_row == HOPELESS:
        raise FloatingPointError(
            f"{HOPELESS} steps in a row were skipped as not finite, the last of them {step.number}:"
            f" trainer.on_nonfinite=skip does not help; lower optimizer.lr, see {place}."
        )


@dataclass
class Clock:
    """When the next checkpoint is due."""

    every: int | None  # optimizer steps
    minutes: float | None
    last_step: int  # of a checkpoint, or where this start began
    last_time: float = field(default_factory=time.monotonic)

    def is_time(self, step: int) -> bool:
        """Whether to save now; if so, the time begins anew."""
        by_steps = self.every is not None and step % self.every == 0
        waited = time.monotonic() - self.last_time
        by_clock = self.minutes is not None and waited > 60 * self.minutes
        if step == self.last_step or not (by_steps or by_clock):
            return False
        self.last_step, self.last_time = step, time.monotonic()
        return True


@contextmanager
def saved_if_stopped(session: Session, progress: Progress) -> Iterator[None]:
    """Where a signal ends the work inside, nothing of it is lost."""
    try:
        yield
    except Interrupted:
        if progress.step:
            with finish_first():
                save(session, progress)
        raise


def save(session: Session, progress: Progress) -> None:
    """A checkpoint of now; the points up to here are safe before it counts."""
    session.log.sync()
    session.checkpoints.save(
        progress.step,
        session.engine.write_checkpoint,
        asdict(replace(progress, seconds=session.seconds(progress))),
        progress.best_step,
    )
    logger.info("checkpoint at step %d", progress.step)


def validate(session: Session, progress: Progress, bars: Bars) -> None:
    """Score the validation split; the best weights so far are kept."""
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
    progress.note(scores.loss)


def read_best_scores(session: Session, progress: Progress) -> Scores:
    """What the best weights cost on each validation target."""
    return Scores(**load_file(session.checkpoints.best(progress.best_step) / SCORES))


def save_nonfinite_step(session: Session, step: Step) -> Path:
    """Write nonfinite-<step>.json into the run's folder; returns its path."""
    config, hardware = session.config, session.components.hardware
    batches, trainer = session.components.batches["train"], config.trainer
    chosen = trainer.batch_size, config.seed, trainer.shuffle
    (parts,) = islice(batches.training(*chosen, start=step.number - 1), 1)
    passes = len(list(share_out(parts, hardware))) * hardware.process_group.size
    name = f"nonfinite-{step.number}.json"
    session.folder.write_json(
        name,
        {
            "step": step.number,
            "loss": _strict(step.loss.mean),
            "learning_rate": step.learning_rate,
            "grad_norm": _strict(step.grad_norm),
            "loss_scale": step.loss_scale,
            "blocks": batches.block_numbers(*chosen, step.number - 1),
            "inputs": [row for part in parts for row in part.inputs.tolist()],
            "targets": [row for part in parts for row in part.targets.tolist()],
            "micro_batch_size": hardware.micro_batch_size,
            "dropout_seeds": [dropout_seed(config.seed, step.number, n) for n in range(passes)],
        },
    )
    logger.info("what went into step %d is in %s", step.number, name)
    return session.folder.path / name


def _strict(value: float) -> float | str:
    """As JSON has it, which knows no infinity."""
    return value if math.isfinite(value) else str(value)
