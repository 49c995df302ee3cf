"""Checkpoints: all that going on takes, written whole or not at all, and checked when read.

`checkpoints/step-N/` holds weights, optimizer and progress as safetensors and JSON; there is no
random state, since all dice are a function of seed and step. `checkpoints/best-N/` holds the best
weights so far as an ordinary Hugging Face folder.
"""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lmft.files import new_folder, write_json
from lmft.identity import digest, digest_files
from lmft.tensors import read_state

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
            content = {
                "progress": progress,
                "optimizer": numbers,
                "best": best,
                "files": _checksums(folder, self.best(best) if best else None),
            }
            write_json(folder / "state.json", {**content, "checksum": digest(content)})
        self.prune(best)

    def newest(self) -> Checkpoint | None:
        """The newest one that is whole; those that are not are passed over, saying so."""
        for path in self._steps():
            try:
                state = json.loads((path / "state.json").read_text())
                checksum = state.pop("checksum")
                best = self.best(state["best"]) if state["best"] else None
                whole = checksum == digest(state) and state["files"] == _checksums(path, best)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                whole = False
            if whole:
                return Checkpoint(path, state["progress"])
            logger.warning("%s is damaged; going on from the one before.", path)
        return None

    def prune(self, best: int) -> None:
        """Keep the newest two and the best weights that they, and the run now, refer to."""
        kept, old = self._steps()[:KEPT], self._steps()[KEPT:]
        for path in old:
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
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint's weights and optimizer state where they belong.

    Raises:
        UserError: they are of another model.
    """
    numbers = json.loads((path / "state.json").read_text())["optimizer"]
    read_state(path, model, optimizer, numbers)


def _checksums(folder: Path, best: Path | None) -> dict[str, str]:
    own = {file.name: file for file in folder.glob("*.safetensors")}
    of_best = {f"best/{file.name}": file for file in (best.iterdir() if best else ())}
    return {name: digest_files([file]) for name, file in (own | of_best).items()}


def _best_of(path: Path) -> int:
    try:
        return int(json.loads((path / "state.json").read_text())["best"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
