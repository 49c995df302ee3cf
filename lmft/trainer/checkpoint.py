"""Checkpoints to resume from: written atomically, verified by checksums when read.

`checkpoints/step-N/` holds weights, optimizer state and progress as safetensors and JSON. There is
no random state, since all randomness is a function of seed and step. `checkpoints/best-N/` holds
the best weights so far as a Hugging Face folder.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmft.config.training_knobs import Strategy
from lmft.errors import Fault
from lmft.model.state_dict import read_state, write_state
from lmft.storage.atomic import new_folder, write_json
from lmft.storage.checksums import is_intact, write_checksums
from lmft.trainer.progress import Progress
from lmft.trainer.training import Training

logger = logging.getLogger(__name__)


KEPT = 2  # newest checkpoints kept, until the run has finished


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums are right."""

    path: Path
    progress: dict[str, Any]  # of Progress, as JSON values


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, root: Path):
        self.root = root

    def best(self, step: int) -> Path:
        """Return the folder of the best weights, if they are those after `step`."""
        return self.root / f"best-{step}"

    def save(self, training: Training, progress: Progress) -> None:
        """Write a checkpoint, then delete all older ones but the newest.

        Every rank calls this: under FSDP each writes its shards, else rank 0 writes all.
        """
        network, group = training.components.network, training.components.hardware.process_group
        network.reshard()
        sharded = network.strategy is Strategy.fsdp
        if group.rank > 0:
            if sharded:
                write_state(Path(group.share()), network.model, training.optimizer)
            return
        with new_folder(self.root / f"step-{progress.step}") as folder:
            if sharded:
                group.share(str(folder))
            numbers = write_state(folder, network.model, training.optimizer)
            best = progress.best_step
            content = {"progress": asdict(progress), "optimizer": numbers, "best": best}
            write_json(folder / "state.json", content)
            write_checksums(folder)
        self.prune(progress.step, best)

    @contextmanager
    def new_best(self, step: int) -> Iterator[Path]:
        """Yield a folder to write the weights after `step`, the best so far, to."""
        with new_folder(self.best(step)) as folder:
            yield folder
            write_checksums(folder)

    def newest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint; None if there is none. Damaged ones are skipped.

        Raises:
            Fault: there are checkpoints, but all are damaged.
        """
        paths = self._paths()
        for path in paths:
            if is_intact(path):
                state = json.loads((path / "state.json").read_text())
                if not state["best"] or is_intact(self.best(state["best"])):
                    return Checkpoint(path, state["progress"])
            if path != paths[-1]:
                logger.warning("%s is damaged; resuming from the checkpoint before it.", path)
        if paths:
            raise Fault(
                f"All checkpoints in {self.root} are damaged, so its disk may be failing; start "
                "over with fresh=true."
            )
        return None

    def check_best(self, step: int) -> None:
        """Check that the best weights, those after `step`, are intact.

        Raises:
            Fault: they are damaged.
        """
        if not is_intact(self.best(step)):
            raise Fault(
                f"{self.best(step)}, the best weights, failed its checksum, so its disk may be "
                "failing; run the same command again, or start over with fresh=true."
            )

    def prune(self, step: int, best: int) -> None:
        """Delete all but the newest checkpoints up to `step`, and the best weights they refer to.

        Checkpoints after `step` are damaged: they were skipped when the run was resumed.
        """
        paths = self._paths()
        kept = [path for path in paths if _step(path) <= step][:KEPT]
        for path in set(paths) - set(kept):
            shutil.rmtree(path)
        kept_best = {self.best(best)} | {self.best(_best_step(path)) for path in kept}
        for path in set(self.root.glob("best-*")) - kept_best:
            shutil.rmtree(path)
        for temporary in self.root.glob(".*"):  # left by a killed process
            shutil.rmtree(temporary)

    def _paths(self) -> list[Path]:
        """Return the folders of all checkpoints, newest first."""
        return sorted(self.root.glob("step-*"), key=_step, reverse=True)


def load_checkpoint(path: Path, training: Training) -> None:
    """Load a checkpoint's weights and optimizer state.

    Raises:
        UserError: it is of another model.
    """
    network = training.components.network
    numbers = json.loads((path / "state.json").read_text())["optimizer"]
    network.reshard()
    read_state(path, network.model, training.optimizer, numbers)
    network.update_low_precision()


def load_source_state(path: Path, training: Training) -> None:
    """Load the last weights and the optimizer state of the run that this one continues.

    Raises:
        Fault: they are damaged.
        UserError: they are of another model.
    """
    if not is_intact(path):
        raise Fault(
            f"{path}, the state that from_run={path.parent} kept, failed its checksum, so its disk "
            "may be failing; start from the best weights with model=pretrained "
            f"model.name={path.parent / 'checkpoint'}."
        )
    load_checkpoint(path, training)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _best_step(path: Path) -> int:
    try:
        return int(json.loads((path / "state.json").read_text())["best"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
