"""Checkpoints: all that going on takes, written whole or not at all, and checked when read.

`checkpoints/step-N/` holds weights, optimizer and progress as safetensors and JSON; there is no
random state, since all dice are a function of seed and step. `checkpoints/best-N/` holds the best
weights so far as an ordinary Hugging Face folder.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lmft.errors import UserError
from lmft.files import new_folder, write_json
from lmft.identity import digest, digest_files

logger = logging.getLogger(__name__)

OPTIMIZER = "optimizer."  # in front of the names of its tensors
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
        write: Callable[[str], None],
        optimizer: Optimizer,
        progress: dict[str, Any],
        best: int,
    ) -> None:
        """Keep what going on from `step` takes; older ones go, but for the last but one.

        Args:
            step: optimizer steps taken.
            write: fills a folder with all tensors, as `write_tensors` does.
            optimizer: what else it knows; its settings follow from the config.
            progress: whatever else must be known, as JSON can hold it.
            best: the step whose weights are the best so far; 0 for none.
        """
        with new_folder(self.root / f"step-{step}") as folder:
            write(str(folder))
            content = {
                "progress": progress,
                "optimizer": _optimizer_state(optimizer)[1],
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


def write_tensors(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Weights, buffers and optimizer state; where they are shared out, each process its share."""
    tensors = _weights(model) | _optimizer_state(optimizer)[0]
    if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save(tensors, storage_writer=writer)
    else:
        save_file(tensors, folder / "state.safetensors")


def read_tensors(folder: Path, into: dict[str, Tensor]) -> None:
    """Fill tensors by name, or shares of them, from whoever wrote the safetensors files there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no process group: one process reads alone
        load(into, storage_reader=HuggingFaceStorageReader(str(folder)))


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint's weights and optimizer state where they belong.

    However many processes wrote it, and in however many it is read.

    Raises:
        UserError: they are of another model.
    """
    stored = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    there = {name: some for name, some in stored.items() if isinstance(some, TensorStorageMetadata)}
    own = _weights(model)
    shapes = {name: found.size for name, found in there.items() if not name.startswith(OPTIMIZER)}
    if shapes != {name: weight.shape for name, weight in own.items()}:
        raise UserError(f"{path} is of another model; start anew with fresh=true.")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {
        name: _empty(found, weights[_number(name)].detach())
        for name, found in there.items()
        if name.startswith(OPTIMIZER)
    }
    read_tensors(path, own | state)
    numbers = json.loads((path / "state.json").read_text())["optimizer"]
    nested: dict[int, dict[str, Any]] = {}
    for name, value in {**state, **numbers}.items():
        nested.setdefault(_number(name), {})[name.rpartition(".")[2]] = value
    optimizer.load_state_dict(
        {"state": nested, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _number(name: str) -> int:
    return int(name.split(".")[1])


def _empty(stored: TensorStorageMetadata, weight: Tensor) -> Tensor:
    """Room for what the optimizer knows of `weight`; of its size, it is shared out alike."""
    if stored.size == weight.shape:
        return torch.empty_like(weight, dtype=stored.properties.dtype)
    return torch.empty(stored.size, dtype=stored.properties.dtype)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name; those that share memory once."""
    named: Iterable[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    return {name.replace("_orig_mod.", ""): tensor.detach() for name, tensor in named}


def _optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, and what is none, by weight number and name."""
    state = optimizer.state_dict()["state"]
    flat = {
        f"{OPTIMIZER}{weight}.{key}": value
        for weight in state
        for key, value in state[weight].items()
    }
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
