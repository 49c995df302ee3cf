"""What a model and its optimizer hold, as safetensors files.

Where processes share it out, each writes its share, through torch.distributed.checkpoint; whoever
wrote them, any number of processes reads them.
"""

import warnings
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

OPTIMIZER = "optimizer."  # in front of the names of its tensors


def write_state(folder: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Write weights, buffers and optimizer state; returns what of that state is no tensor."""
    state = _optimizer_state(optimizer)
    tensors = _weights(model) | {n: some for n, some in state.items() if isinstance(some, Tensor)}
    if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    else:
        save_file(tensors, folder / "state.safetensors")
    return {name: some for name, some in state.items() if name not in tensors}


def read_state(
    folder: Path, model: nn.Module, optimizer: Optimizer, numbers: dict[str, Any]
) -> None:
    """Put what `write_state` wrote where it belongs; `numbers` are what it returned.

    Raises:
        UserError: it is of another model.
    """
    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    there = {name: some for name, some in stored.items() if isinstance(some, TensorStorageMetadata)}
    own = _weights(model)
    shapes = {name: found.size for name, found in there.items() if not name.startswith(OPTIMIZER)}
    if shapes != {name: weight.shape for name, weight in own.items()}:
        raise UserError(f"{folder} is of another model; start anew with fresh=true.")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {
        name: _room_for(found, weights[_number(name)].detach())
        for name, found in there.items()
        if name.startswith(OPTIMIZER)
    }
    read_tensors(folder, own | state)
    nested: dict[int, dict[str, Any]] = {}
    for name, value in {**state, **numbers}.items():
        nested.setdefault(_number(name), {})[name.rpartition(".")[2]] = value
    optimizer.load_state_dict(
        {"state": nested, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def read_tensors(folder: Path, into: dict[str, Tensor]) -> None:
    """Fill tensors by name, or shares of them, from the safetensors files of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no process group: one process reads alone
        load(into, storage_reader=HuggingFaceStorageReader(str(folder)))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name; those that share memory once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name.replace("_orig_mod.", ""): tensor.detach() for name, tensor in named}


def _optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """By weight number and name: optimizer.0.exp_avg."""
    state = optimizer.state_dict()["state"]
    return {
        f"{OPTIMIZER}{weight}.{key}": value
        for weight in state
        for key, value in state[weight].items()
    }


def _number(name: str) -> int:
    return int(name.split(".")[1])


def _room_for(stored: TensorStorageMetadata, weight: Tensor) -> Tensor:
    """For what the optimizer knows of `weight`; what has its size is shared out alike."""
    if stored.size == weight.shape:
        return torch.empty_like(weight, dtype=stored.properties.dtype)
    return torch.empty(stored.size, dtype=stored.properties.dtype)
