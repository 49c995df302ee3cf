"""The training loop: optimizer steps, evaluations, checkpoints, and resuming from them.

With several processes every rank runs this code; only rank 0 prints, logs and writes.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

from safetensors.numpy import load_file, save_file

from lmft.dataset.document_blocks import DocumentBlocks
from lmft.errors import Interrupted
from lmft.evaluation.scoring import Scores
from lmft.hardware.transfer import queues_work
from lmft.metrics import FILL, LEARNING_RATE, SKIPPED_STEPS, TOKENS_PER_SECOND
from lmft.model.weights import save_model
from lmft.output.bars import AnyBars
from lmft.runs.source_run import find_state
from lmft.signals import defer_signals, is_deferred, take_checkpoint_request
from lmft.trainer.baseline import find_baseline
from lmft.trainer.checkpoint import load_checkpoint, load_source_state
from lmft.trainer.data_page import write_data_page
from lmft.trainer.due import Clock, Plan
from lmft.trainer.nonfinite import explain_nonfinite, save_nonfinite_step
from lmft.trainer.progress import Progress
from lmft.trainer.run_tokenizer import tokens_before_prompt
from lmft.trainer.session import (
    Session,
    restore_micro_batch_size,
    save_micro_batch_size,
    score_split,
    show_loss,
    show_samples,
)
from lmft.trainer.step import Step, TakenStep, take_steps

logger = logging.getLogger(__name__)


MAX_SKIPPED_IN_A_ROW = 20  # steps
METRICS_OF_SKIPPED_STEPS = (LEARNING_RATE, TOKENS_PER_SECOND)
SCORES = "scores.safetensors"  # validation scores of the best weights, in their folder


def fine_tune(session: Session) -> tuple[Progress, bool]:
    """Train to the end, from the last checkpoint if there is one.

    Returns:
        The progress, and whether the run has ended. It has not if it was pruned, or on a rank
        other than 0 if a signal stops it: the same command resumes it.

    Raises:
        Interrupted: a signal arrived; the step was finished and a checkpoint saved.
        FloatingPointError: a loss or gradient is not finite.
    """
    training, progress = session.training, resume(session)
    plan, clock = Plan.of(training), Clock.of(training, progress.step)
    steps = take_steps(training, progress.step + 1, plan.steps, progress.loss_scale)
    with (
        session.terminal.progress(plan.steps) as bars,
        explain_nonfinite(session),
        checkpoint_if_interrupted(session, progress),
    ):
        recorder = StepRecorder(session, progress, bars)
        for step in chain([None], steps):  # None: the state in which the run starts or resumes
            if step is not None:
                recorder.add(step)
            if plan.evaluates(progress):
                recorder.record_all()
                validate(session, progress, bars)
            stop, prune, checkpoint = decide(session, progress, clock)
            if stop or prune or checkpoint:
                recorder.record_all()
            if stop or prune:
                save(session, progress)
                return progress, False
            if plan.is_over(progress):
                if session.run.config.trainer.keep_state:
                    save(session, progress)
                break
            if checkpoint:
                save(session, progress)
    return progress, True


def decide(session: Session, progress: Progress, clock: Clock) -> tuple[bool, bool, bool]:
    """Return what rank 0 alone can know: whether to stop, to prune, and to save a checkpoint."""
    evaluated = progress.step > 0 and progress.evaluated == progress.step
    prune = session.is_rank_zero and evaluated and session.prune(progress.step, session.run.folder)
    stop, prune, checkpoint = session.process_group.decide(
        is_deferred(), prune, clock.is_due(progress.step, take_checkpoint_request())
    )
    return stop, prune, checkpoint


def resume(session: Session) -> Progress:
    """Load the last intact checkpoint, and return its progress.

    Without one it is step 0, with the state that the run named by from_run kept, if any.
    """
    newest = session.checkpoints.newest() if session.is_rank_zero else None
    # JSON: the path of the checkpoint, and its progress.
    found = session.process_group.share(newest and [str(newest.path), newest.progress])
    progress = Progress() if found is None else Progress.from_json(found[1])
    restore_micro_batch_size(session, progress.step + 1)
    if found is None and (state := find_state(session.run.config.from_run)) is not None:
        load_source_state(state, session.training)
    if found is not None:
        load_checkpoint(Path(found[0]), session.training)
        session.terminal.print(f"Resuming from step {progress.step:,}.", style="bold")
        hardware = session.components.hardware
        logger.info("resuming from step %d on %s", progress.step, hardware.describe())
    return progress


class StepRecorder:
    """Records steps; on a GPU one step late, so that the host does not wait for the device."""

    def __init__(self, session: Session, progress: Progress, bars: AnyBars):
        self._session, self._progress, self._bars = session, progress, bars
        self._unread: TakenStep | None = None
        self._is_late = queues_work(session.components.hardware.device)

    def add(self, step: TakenStep) -> None:
        """Count a step and, where steps are recorded late, record the one before it.

        Raises:
            NotFinite: the loss or gradients of the recorded step are not finite.
            FloatingPointError: too many steps in a row were skipped.
        """
        save_micro_batch_size(self._session, step.number)
        restore_micro_batch_size(self._session, step.number + 1)
        self._progress.step, self._progress.loss_scale = step.number, step.loss_scale
        if self._is_late:
            self.record_all()
        self._unread = step
        if not self._is_late:
            self.record_all()

    def record_all(self) -> None:
        """Record the step that is left, if any; call it before anything reads the progress."""
        if self._unread is not None:
            step, self._unread = self._unread.read(self._session.training), None
            record_step(step, self._session, self._progress, self._bars)


def record_step(step: Step, session: Session, progress: Progress, bars: AnyBars) -> None:
    """Log and show a step, and count it if it was skipped.

    Raises:
        FloatingPointError: too many steps in a row were skipped.
    """
    progress.count_step(step.skipped)
    metrics = step.as_metrics()
    if not step.skipped:
        session.log.log_metrics(metrics, step.number)
        bars.show_step(step.number, _describe_step(step))
        return
    path = save_nonfinite_step(session, step)
    metrics = {name: metrics[name] for name in METRICS_OF_SKIPPED_STEPS if name in metrics}
    session.log.log_metrics({**metrics, SKIPPED_STEPS: progress.skipped_steps}, step.number)
    if progress.skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
        raise FloatingPointError(
            f"{MAX_SKIPPED_IN_A_ROW} steps in a row up to step {step.number} were skipped, because "
            "loss or gradients were not finite, so trainer.on_nonfinite=skip does not help; lower "
            f"optimizer.lr. The batch of the last one is in {path}."
        )


def _describe_step(step: Step) -> str:
    speed = f"{step.tokens / step.seconds:,.0f} tokens/s"
    return f"loss {step.loss.mean:.3f}  {speed} ({100 * step.share_of_limit:.0f} % MFU)"


def validate(session: Session, progress: Progress, bars: AnyBars) -> None:
    """Score the validation split, and save the weights if they are the best so far."""
    if progress.step == 0:
        write_data_page(session)
        log_fill(session)
        loss = find_baseline(session, bars)
    else:
        scores = score_split("validation", session, bars)
        loss = scores.loss
    save_micro_batch_size(session, progress.step + 1)
    show_loss("validation", progress.step, loss, session)
    if progress.step == 0:
        show_samples("before", session)
    elif progress.best is None or loss.mean < progress.best.mean:
        save_best(session, progress.step, scores)
    progress.add_validation(loss)


def log_fill(session: Session) -> None:
    """Log how full the training blocks are, where some are padded."""
    blocks = session.components.batches["train"].blocks
    if isinstance(blocks, DocumentBlocks):
        session.log.log_metrics({FILL: blocks.fill}, 0)


def save(session: Session, progress: Progress) -> None:
    """Save a checkpoint, after all metrics up to now are on disk; at step 0 there is nothing."""
    if progress.step == 0:
        return
    session.log.flush()
    progress = replace(progress, seconds=session.seconds(progress))
    session.checkpoints.save(session.training, progress)
    logger.info("checkpoint at step %d", progress.step)


def save_best(session: Session, step: int, scores: Scores) -> None:
    """Save the weights after `step`, the best so far, as a Hugging Face folder."""
    components = session.components
    weights = components.network.full_state_dict()  # gathered from all ranks
    if not session.is_rank_zero:
        return
    with session.checkpoints.new_best(step) as folder:
        before = tokens_before_prompt(session.run.config, components.tokenizer)
        save_model(components.network.model, components.tokenizer, folder, weights, before)
        save_file(vars(scores), folder / SCORES)


def read_best_scores(session: Session, progress: Progress) -> Scores:
    """Read the validation scores of the best weights."""
    return Scores(**load_file(session.checkpoints.best(progress.best_step) / SCORES))


@contextmanager
def checkpoint_if_interrupted(session: Session, progress: Progress) -> Iterator[None]:
    """Delay signals until a step or an evaluated batch has ended, then save a checkpoint.

    Raises:
        Interrupted: a signal arrived; on rank 0 only, the other ranks ignore them.
    """
    with defer_signals():
        try:
            yield
        except Interrupted:  # in an evaluation
            save(session, progress)
            raise
