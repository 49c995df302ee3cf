"""One start of a run: its components and folder, and how it reports and logs."""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from lmft.config.schema import RunConfig
from lmft.dataset.splits import Split
from lmft.evaluation.generation import Sample
from lmft.evaluation.scoring import Scores
from lmft.metrics import TokenLoss
from lmft.output.sanitize import strip_control
from lmft.output.terminal import Bars, Terminal
from lmft.runs.provenance import Origin
from lmft.runs.run_dir import RunFolder
from lmft.tracker.protocol import RunLog
from lmft.trainer.checkpoint import Checkpoints
from lmft.trainer.components import Components
from lmft.trainer.engine import Engine
from lmft.trainer.evaluate import windows_of
from lmft.trainer.progress import Progress

logger = logging.getLogger(__name__)


SAMPLES = "samples.json"


@dataclass(frozen=True)
class Session:
    """One start of a run."""

    config: RunConfig
    values: dict[str, Any]  # the same, as plain values
    splits: dict[str, Split]
    engine: Engine
    folder: RunFolder
    log: RunLog
    origin: Origin
    terminal: Terminal
    started: float  # on the monotonic clock

    def seconds(self, progress: Progress) -> float:
        """Return the run time so far, over all starts."""
        return progress.seconds + time.monotonic() - self.started

    @property
    def components(self) -> Components:
        """The components of the engine."""
        return self.engine.components

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run."""
        return Checkpoints(self.folder.checkpoints)


def score_split(split: str, session: Session, bars: Bars) -> Scores:
    """Score a split.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    config, components = session.config, session.components
    with bars.evaluation(split, len(windows_of(split, config, components))) as advance:
        scores = session.engine.score(split, advance=advance)
    if not math.isfinite(scores.loss.nats):
        raise FloatingPointError(f"The {split} loss is {scores.loss.nats}; lower optimizer.lr.")
    return scores


def show_loss(split: str, step: int, loss: TokenLoss, session: Session) -> None:
    """Report the loss of an evaluation to the tracker, the terminal and the log."""
    session.log.log_metrics(
        {f"{split}/{name}": value for name, value in loss.as_dict().items()}, step
    )
    session.terminal.show_loss(step, split, loss)
    logger.info("step %d: %s loss %.6f", step, split, loss.mean)


def show_samples(when: str, session: Session) -> None:
    """Draw samples from validation texts; print, log and keep them."""
    samples = session.engine.draw_samples()
    session.terminal.show_samples(f"{when} training", [(s.prompt, s.answer) for s in samples])
    text = "\n\n".join(f"{sample.prompt} → {sample.answer}" for sample in samples)
    session.log.log_text(strip_control(text) + "\n", f"samples_{when}.txt")
    saved = session.folder.read_json(SAMPLES)
    session.folder.write_json(SAMPLES, {**saved, when: [asdict(sample) for sample in samples]})


def read_samples(session: Session) -> dict[str, list[Sample]]:
    """Read the samples drawn before and after training."""
    saved = json.loads((session.folder.path / SAMPLES).read_text())
    return {when: [Sample(**sample) for sample in samples] for when, samples in saved.items()}


SIZES = "micro_batch.json"  # in the run's folder: each micro-batch size by its first step


def restore_micro_batch_size(session: Session, step: int) -> None:
    """Set the micro-batch size that was used at `step`, also for the evaluation before it."""
    hardware = session.components.hardware
    if hardware.auto_micro_batch_size:
        hardware.micro_batch_size = _saved_size(session, step)


def save_micro_batch_size(session: Session, step: int) -> None:
    """Save the micro-batch size used from `step` on, if it was lowered."""
    hardware = session.components.hardware
    if hardware.auto_micro_batch_size and hardware.micro_batch_size < _saved_size(session, step):
        saved = session.folder.read_json(SIZES)
        session.folder.write_json(SIZES, {**saved, str(step): hardware.micro_batch_size})
        session.log.set_tags({"micro_batch_size": str(hardware.micro_batch_size)})


def _saved_size(session: Session, step: int) -> int:
    saved = session.folder.read_json(SIZES)
    sizes = [int(size) for first, size in saved.items() if int(first) <= step]
    return min([session.config.trainer.batch_size, *sizes])
