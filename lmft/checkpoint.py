"""Checkpoints: all that going on takes, written whole or not at all, and checked when read.

`checkpoints/step-N/` holds weights, optimizer and progress as safetensors and JSON; there is no
random state, since all dice are a function of seed and step. `checkpoints/best-N/` holds the best
weights so far as an ordinary Hugging Face folder.
"""

import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from lmft.errors import UserError
from lmft.files import new_folder, write_json
from lmft.identity import digest, digest_files

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
        self, step: int, model: nn.Module, optimizer: Optimizer, progress: dict[str, Any], best: int
    ) -> None:
        """Keep what going on from `step` takes; older ones go, but for the last but one.

        Args:
            step: optimizer steps taken.
            model: its weights and buffers.
            optimizer: its state; its settings follow from the config.
            progress: whatever else must be known, as JSON can hold it.
            best: the step whose weights are the best so far; 0 for none.
        """
        with new_folder(self.root / f"step-{step}") as folder:
            tensors, numbers = _optimizer_state(optimizer)
            save_file(_weights(model), folder / "weights.safetensors")
            save_file(tensors, folder / "optimizer.safetensors")
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


def load_checkpoint(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint's weights and optimizer state where they belong.

    Raises:
        UserError: they are of another model.
    """
    weights = load_file(checkpoint.path / "weights.safetensors")
    own = _weights(model)
    if {name: w.shape for name, w in weights.items()} != {n: w.shape for n, w in own.items()}:
        raise UserError(f"{checkpoint.path} is of another model; start anew with fresh=true.")
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])
    tensors = load_file(checkpoint.path / "optimizer.safetensors")
    numbers = json.loads((checkpoint.path / "state.json").read_text())["optimizer"]
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **numbers}.items():
        weight_number, _, key = name.partition(".")
        state.setdefault(int(weight_number), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name; those that share memory once."""
    named: Iterable[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    return {name.replace("_orig_mod.", ""): tensor.detach() for name, tensor in named}


def _optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, and what is none, by weight number and name."""
    state = optimizer.state_dict()["state"]
    flat = {f"{weight}.{key}": value for weight in state for key, value in state[weight].items()}
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in flat.items() if name not in tensors}


def _checksums(folder: Path, best: Path | None) -> dict[str, str]:
    own = {file.name: file for file in folder.glob("*.safetensors")}
    of_best = {f"best/{file.name}": file for file in (best.iterdir() if best else ())}
    return {name: digest_files([file]) for name, file in (own | of_best).items()}


def _best_of(path: Path) -> int:
    try:
        return int(json.loads((path / "state.json").read_text())["best"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
