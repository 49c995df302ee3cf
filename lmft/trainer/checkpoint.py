"""Checkpoints: all that going on takes, written whole or not at all, and checked when read.

`checkpoints/step-N/` holds weights, optimizer and progress as safetensors and JSON; there is no
random state, since all dice are a function of seed and step. `checkpoints/best-N/` holds the best
weights so far as an ordinary Hugging Face folder.
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


KEPT = 2  # newest checkpoints, while the run goes on


@dataclass(frozen=True)
class Checkpoint:
    """One that passed its checks."""

    path: Path
    progress: dict[str, Any]  # as it was given


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, root: Path):
        self.root = root

    def best(self, step: int) -> Path:
        """The folder of the best weights, if `step` gave them."""
        return self.root / f"best-{step}"

    def save(
        self,
        step: int,
        write: Callable[[str], dict[str, Any]],
        progress: dict[str, Any],
        best: int,
    ) -> None:
        """Keep what going on from `step` takes; older ones go, but for the last but one.

        Args:
            step: optimizer steps taken.
            write: fills a folder with all tensors; what it returns is no tensor, but kept too.
            progress: whatever else must be known, as JSON can hold it.
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
        """A folder to be filled with the weights after `step`, the best so far."""
        with new_folder(self.best(step)) as folder:
            yield folder
            write_checksums(folder)

    def newest(self) -> Checkpoint | None:
        """The newest one that is whole; those that are not are passed over, saying so.

        Raises:
            Fault: there are some, but none is whole.
        """
        found = self._steps()
        for path in found:
            if is_intact(path):
                state = json.loads((path / "state.json").read_text())
                if not state["best"] or is_intact(self.best(state["best"])):
                    return Checkpoint(path, state["progress"])
            if path != found[-1]:
                logger.warning("%s is damaged; going on from the one before.", path)
        if found:
            raise Fault(
                f"No checkpoint in {self.root} is as it was written, so its disk may be failing; "
                "start anew with fresh=true."
            )
        return None

    def check_best(self, step: int) -> None:
        """The weights after `step` must still be as they were written.

        Raises:
            Fault: they are not.
        """
        if not is_intact(self.best(step)):
            raise Fault(
                f"{self.best(step)}, the best weights, is not as it was written, so its disk may "
                "be failing; give the same command again, or start anew with fresh=true."
            )

    def prune(self, step: int, best: int) -> None:
        """Keep the newest two up to `step`, and the best weights that they and the run refer to."""
        found = self._steps()
        later = [path for path in found if _number(path) > step]  # damaged, and passed over
        kept = [path for path in found if path not in later][:KEPT]
        for path in set(found) - set(kept):
            shutil.rmtree(path)
        named = {self.best(best)} | {self.best(_best_of(path)) for path in kept}
        for path in set(self.root.glob("best-*")) - named:
            shutil.rmtree(path)
        for rubbish in self.root.glob(".*"):  # of a killed process
            shutil.rmtree(rubbish)

    def drop(self) -> None:
        """Remove them all: the run has finished."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _steps(self) -> list[Path]:
        """The newest first."""
        found = self.root.glob("step-*")
        return sorted(found, key=_number, reverse=True)


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint's weights and optimizer state where they belong.

    Raises:
        UserError: they are of another model.
    """
    numbers = json.loads((path / "state.json").read_text())["optimizer"]
    read_state(path, model, optimizer, numbers)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _best_of(path: Path) -> int:
    try:
        return int(json.loads((path / "state.json").read_text())["best"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
