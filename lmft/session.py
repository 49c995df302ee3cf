"""One start of a run, and how it is told of while it goes on."""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from lmft.assessment import windows_of
from lmft.checkpoint import Checkpoints
from lmft.config import RunConfig
from lmft.dataset import Split
from lmft.engine import Engine
from lmft.evaluation import Scores
from lmft.materials import Materials
from lmft.metrics import TokenLoss
from lmft.outcome import Progress
from lmft.plain import plain
from lmft.provenance import Origin
from lmft.runs import RunFolder
from lmft.samples import Sample
from lmft.terminal import Bars, Terminal
from lmft.tracker import RunLog

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
    def materials(self) -> Materials:
        """What the engine works with."""
        return self.engine.materials

    @property
    def checkpoints(self) -> Checkpoints:
        """What going on takes."""
        return Checkpoints(self.folder.checkpoints)


def score_split(split: str, session: Session, bars: Bars) -> Scores:
    """The scores on a split, which must be finite."""
    config, materials = session.config, session.materials
    with bars.evaluation(split, len(windows_of(split, config, materials))) as advance:
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
    session.log.text(plain(text) + "\n", f"samples_{when}.txt")
    known = session.folder.read_json(SAMPLES)
    session.folder.write_json(SAMPLES, {**known, when: [asdict(sample) for sample in samples]})


def read_samples(session: Session) -> dict[str, list[Sample]]:
    """The samples before and after training."""
    saved = json.loads((session.folder.path / SAMPLES).read_text())
    return {when: [Sample(**sample) for sample in samples] for when, samples in saved.items()}
