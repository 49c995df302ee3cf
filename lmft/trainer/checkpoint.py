"""Checkpoints to resume from: written atomically, verified by checksums when read.

`checkpoints/step-N/` holds weights, optimizer state and progress as safetensors and JSON. There is
no random state, since all randomness is a function of seed and step. `checkpoints/best-N/` holds
the best weights so far as a Hugging Face folder.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lmft.errors import Fault
from lmft.model.state_dict import read_state
from lmft.storage.atomic import new_folder, write_json
from lmft.storage.checksums import is_intact, write_checksums

logger = logging.getLogger(__name__)


KEPT = 2  # newest checkpoints kept, until the run has finished


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums are right."""

    path: Path
    progress: dict[str, Any]  # as given to Checkpoints.save


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, root: Path):
        self.root = root

    def best(self, step: int) -> Path:
        """Return the folder of the best weights, if they are those after `step`."""
        return self.root / f"best-{step}"

    def save(
        self,
        step: int,
        write: Callable[[str], dict[str, Any]],
        progress: dict[str, Any],
        best: int,
    ) -> None:
        """Write a checkpoint, then delete all older ones but the newest.

        Args:
            step: optimizer steps taken.
            write: writes all tensors to a folder, and returns the optimizer state that is not a
                tensor.
            progress: the run's progress, as JSON values.
            best: the step whose weights are the best so far; 0 for none.
        """
        with new_folder(self.root / f"step-{step}") as folder:
            numbers = write(str(folder))
            content = {"progress": progress, "optimizer": numbers, "best": best}
            write_json(folder / "state.json", content)
            write_checksums(folder)
        self.prune(step, best)

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

    def delete_all(self) -> None:
        """Delete all checkpoints, after the run has finished."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _paths(self) -> list[Path]:
        """Return the folders of all checkpoints, newest first."""
        return sorted(self.root.glob("step-*"), key=_step, reverse=True)


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Load a checkpoint's weights and optimizer state.

    Raises:
        UserError: it is of another model.
    """
    numbers = json.loads((path / "state.json").read_text())["optimizer"]
    read_state(path, model, optimizer, numbers)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _best_step(path: Path) -> int:
    try:
        return int(json.loads((path / "state.json").read_text())["best"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
