"""What one start of a run works with, and how it reports."""

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
    """One start of a run: what it works with, where it keeps things, who listens."""

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
        """At work so far, over all starts."""
        return progress.seconds + time.monotonic() - self.started

    @property
    def components(self) -> Components:
        """What the engine works with."""
        return self.engine.components

    @property
    def checkpoints(self) -> Checkpoints:
        """What going on takes."""
        return Checkpoints(self.folder.checkpoints)


def score_split(split: str, session: Session, bars: Bars) -> Scores:
    """The scores on a split, which must be finite."""
    config, components = session.config, session.components
    with bars.evaluation(split, len(windows_of(split, config, components))) as advance:
        scores = session.engine.score(split, advance=advance)
    if not math.isfinite(scores.loss.nats):
        raise FloatingPointError(f"The {split} loss is {scores.loss.nats}; lower optimizer.lr.")
    return scores


def show_loss(split: str, step: int, loss: TokenLoss, session: Session) -> None:
    """One evaluation, to all who listen."""
    session.log.metrics({f"{split}/{name}": value for name, value in loss.as_dict().items()}, step)
    session.terminal.show_loss(step, split, loss)
    logger.info("step %d: %s loss %.6f", step, split, loss.mean)


def show_samples(when: str, session: Session) -> None:
    """What the model makes of three validation texts, to the person, the folder and the tracker."""
    samples = session.engine.draw_samples()
    session.terminal.show_samples(f"{when} training", samples)
    text = "\n\n".join(f"{sample.prompt} → {sample.answer}" for sample in samples)
    session.log.text(strip_control(text) + "\n", f"samples_{when}.txt")
    known = session.folder.read_json(SAMPLES)
    session.folder.write_json(SAMPLES, {**known, when: [asdict(sample) for sample in samples]})


def read_samples(session: Session) -> dict[str, list[Sample]]:
    """The samples before and after training."""
    saved = json.loads((session.folder.path / SAMPLES).read_text())
    return {when: [Sample(**sample) for sample in samples] for when, samples in saved.items()}


SIZES = "micro_batch.json"  # in the run's folder: the first step of each size, and the size


def restore_micro_batch_size(session: Session, step: int) -> None:
    """Let `step`, and an evaluation just before it, have the size that was in force there."""
    hardware = session.components.hardware
    if hardware.adapts:
        hardware.micro_batch_size = _known_size(session, step)


def save_micro_batch_size(session: Session, step: int) -> None:
    """Remember the size in force from `step` on, if it is a new one."""
    hardware = session.components.hardware
    if hardware.adapts and hardware.micro_batch_size < _known_size(session, step):
        known = session.folder.read_json(SIZES)
        session.folder.write_json(SIZES, {**known, str(step): hardware.micro_batch_size})
        session.log.tags({"micro_batch_size": str(hardware.micro_batch_size)})


def _known_size(session: Session, step: int) -> int:
    known = session.folder.read_json(SIZES)
    sizes = [int(size) for first, size in known.items() if int(first) <= step]
    return min([session.config.trainer.batch_size, *sizes])
