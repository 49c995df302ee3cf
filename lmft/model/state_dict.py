"""The state of a model and its optimizer, written to and read from safetensors files.

If it is sharded over processes, each writes its shard through torch.distributed.checkpoint. Any
number of processes can read it, whatever number wrote it.
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

OPTIMIZER = "optimizer."  # prefix of the names of its tensors


def write_state(folder: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Write weights, buffers and optimizer state; return the state that is not a tensor."""
    state = _optimizer_state(optimizer)
    state_tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    tensors = _weights(model) | state_tensors
    if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    else:
        save_file(tensors, folder / "state.safetensors")
    return {name: value for name, value in state.items() if name not in tensors}


def read_state(
    folder: Path, model: nn.Module, optimizer: Optimizer, numbers: dict[str, Any]
) -> None:
    """Load what `write_state` wrote into a model and its optimizer.

    Args:
        folder: the folder that it wrote to.
        model: the model, of the same architecture.
        optimizer: its optimizer.
        numbers: what it returned.

    Raises:
        UserError: the state is of another model.
    """
    metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    stored = {name: m for name, m in metadata.items() if isinstance(m, TensorStorageMetadata)}
    own = _weights(model)
    shapes = {name: entry.size for name, entry in stored.items() if not name.startswith(OPTIMIZER)}
    if shapes != {name: weight.shape for name, weight in own.items()}:
        raise UserError(f"{folder} is of another model; start over with fresh=true.")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {
        name: _empty_state(entry, weights[_weight_number(name)].detach())
        for name, entry in stored.items()
        if name.startswith(OPTIMIZER)
    }
    read_tensors(folder, own | state)
    nested: dict[int, dict[str, Any]] = {}
    for name, value in {**state, **numbers}.items():
        nested.setdefault(_weight_number(name), {})[name.rpartition(".")[2]] = value
    optimizer.load_state_dict(
        {"state": nested, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def read_tensors(folder: Path, into: dict[str, Tensor]) -> None:
    """Fill tensors, or their local shards, by name from the safetensors files of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is no process group
        load(into, storage_reader=HuggingFaceStorageReader(str(folder)))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return weights and buffers by name, tied ones only once; if some are frozen, the others."""
    weights = dict(model.named_parameters())
    named: list[tuple[str, Tensor]] = [
        (name, weight) for name, weight in weights.items() if weight.requires_grad
    ]
    if len(named) == len(weights):
        named += list(model.named_buffers())
    return {name.replace("_orig_mod.", ""): tensor.detach() for name, tensor in named}


def _optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return the state by weight number and key, as in optimizer.0.exp_avg."""
    state = optimizer.state_dict()["state"]
    return {
        f"{OPTIMIZER}{weight}.{key}": value
        for weight in state
        for key, value in state[weight].items()
    }


def _weight_number(name: str) -> int:
    return int(name.split(".")[1])


def _empty_state(stored: TensorStorageMetadata, weight: Tensor) -> Tensor:
    """Return an empty tensor for a state of `weight`; of the same shape, it is sharded alike."""
    if stored.size == weight.shape:
        return torch.empty_like(weight, dtype=stored.properties.dtype)
    return torch.empty(stored.size, dtype=stored.properties.dtype)
