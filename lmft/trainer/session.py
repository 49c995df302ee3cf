"""One start of a run: its components and folder, and how it reports and logs."""

import logging
import math
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from lmft.evaluation.generation import Sample, draw_samples
from lmft.evaluation.scoring import Scores, score
from lmft.evaluation.windows import windows_of
from lmft.hardware.process_group import ProcessGroup
from lmft.metrics import TokenLoss, of_split
from lmft.output.bars import AnyBars
from lmft.output.sanitize import strip_control
from lmft.output.terminal import Terminal
from lmft.runs.finished import Prune
from lmft.runs.run import Run
from lmft.signals import raise_deferred
from lmft.tracker.protocol import RunLog
from lmft.trainer.checkpoint import Checkpoints
from lmft.trainer.components import Components
from lmft.trainer.progress import Progress
from lmft.trainer.training import Training

logger = logging.getLogger(__name__)


SAMPLES = "samples.json"
SIZES = "micro_batch.json"  # in the run's folder: each micro-batch size by its first step


@dataclass(frozen=True)
class Session:
    """One start of a run on one rank; a rank other than 0 prints, logs and writes nothing."""

    run: Run
    training: Training
    log: RunLog
    terminal: Terminal
    prune: Prune
    started: float  # on the monotonic clock

    def seconds(self, progress: Progress) -> float:
        """Return the run time so far, over all starts."""
        return progress.seconds + time.monotonic() - self.started

    @property
    def components(self) -> Components:
        """The run's components."""
        return self.training.components

    @property
    def process_group(self) -> ProcessGroup:
        """The processes of the run."""
        return self.components.hardware.process_group

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process prints, logs and writes."""
        return self.process_group.rank == 0

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run."""
        return Checkpoints(self.run.checkpoints)

    @cached_property
    def micro_batch_sizes(self) -> dict[str, int]:
        """The lowered micro-batch sizes, each by its first step; read once, not at each step."""
        return dict(self.run.read_json(SIZES))

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` to the file `name` of the run's folder, on rank 0."""
        if self.is_rank_zero:
            self.run.write_json(name, value)


def score_split(split: str, session: Session, bars: AnyBars) -> Scores:
    """Score a split; in a single process a signal is raised between two batches of windows.

    Raises:
        FloatingPointError: the loss is not finite.
        Interrupted: a signal arrived.
    """
    components, batches = session.components, session.components.batches[split]
    windows = windows_of(batches, session.run.config.evaluation)
    with bars.evaluation(split, len(windows)) as advance:

        def advance_or_stop(count: int) -> None:
            advance(count)
            if session.process_group.size == 1:
                raise_deferred()

        scores = score(components.network, batches, components.hardware, windows, advance_or_stop)
    if not math.isfinite(scores.loss.nats):
        raise FloatingPointError(f"The {split} loss is {scores.loss.nats}; lower optimizer.lr.")
    return scores


def show_loss(split: str, step: int, loss: TokenLoss, session: Session) -> None:
    """Report the loss of an evaluation to the tracker, the terminal and the log."""
    session.log.log_metrics(of_split(split, loss.as_dict()), step)
    session.terminal.show_loss(step, split, loss)
    logger.info("step %d: %s loss %.6f", step, split, loss.mean)


def show_samples(when: str, session: Session) -> None:
    """Draw samples from validation texts; print, log and keep them."""
    components = session.components
    samples = draw_samples(components.network.compute_model, components.batches["validation"])
    session.terminal.show_samples(f"{when} training", [(s.prompt, s.answer) for s in samples])
    text = "\n\n".join(f"{sample.prompt} → {sample.answer}" for sample in samples)
    session.log.log_text(strip_control(text) + "\n", f"samples_{when}.txt")
    saved = session.run.read_json(SAMPLES)
    session.write_json(SAMPLES, {**saved, when: [asdict(sample) for sample in samples]})


def read_samples(run: Run) -> dict[str, list[Sample]]:
    """Read the samples drawn before and after training."""
    saved = run.read_json(SAMPLES)
    return {when: [Sample(**sample) for sample in samples] for when, samples in saved.items()}


def restore_micro_batch_size(session: Session, step: int) -> None:
    """Set the micro-batch size that was used at `step`, also for the evaluation before it."""
    hardware = session.components.hardware
    if hardware.auto_micro_batch_size:
        hardware.micro_batch_size = _saved_size(session, step)


def save_micro_batch_size(session: Session, step: int) -> None:
    """Save the micro-batch size used from `step` on, if it was lowered."""
    hardware = session.components.hardware
    if hardware.auto_micro_batch_size and hardware.micro_batch_size < _saved_size(session, step):
        session.micro_batch_sizes[str(step)] = hardware.micro_batch_size
        session.write_json(SIZES, session.micro_batch_sizes)
        session.log.set_tags({"micro_batch_size": str(hardware.micro_batch_size)})


def _saved_size(session: Session, step: int) -> int:
    saved = session.micro_batch_sizes
    sizes = [size for first, size in saved.items() if int(first) <= step]
    return min([session.run.config.trainer.batch_size, *sizes])
