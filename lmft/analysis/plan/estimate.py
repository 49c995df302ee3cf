"""The memory and disk space that a run takes: counted where possible, else measured."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import Parameter, ParameterList

from lmft.analysis.plan.activations import Passes
from lmft.config.schema import RunConfig, Strategy
from lmft.hardware.fsdp import find_layers
from lmft.model.mixed_precision import Network
from lmft.optimizer import build_optimizer
from lmft.runs.run_dir import root_of
from lmft.trainer.checkpoint import KEPT
from lmft.trainer.components import Components

ALLOCATOR_SHARE = (
    0.2  # of what steps make: what an allocator keeps beside it on a CPU, where not measured
)


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at its highest; their sum is `total`."""

    process: int  # the interpreter, libraries and the tokens that were read
    weights: int  # with those of a twin that computes in a narrow format
    gradients: int  # all of them, and the buckets in which DDP adds them up
    gathered: int  # weights and gradients that FSDP holds whole for a while
    optimizer: int
    activations: int  # all else that comes and goes in a step
    loss_chunk: int  # logits and their gradient
    never_at_once: int  # at most 0: activations go while gradients come
    allocator: int  # what it keeps between tensors, and what operations make within themselves

    @property
    def total(self) -> int:
        """At the highest moment."""
        return sum(vars(self).values())


def find_memory(
    config: RunConfig,
    components: Components,
    processes: int,
    passes: Passes | None,
    process: int,
    optimizer: int,
) -> Memory:
    """The memory of one of `processes`, as far as it can be counted.

    Args:
        config: the run.
        components: of a process that works alone.
        processes: that share the run.
        passes: of a step; None where not even one block would fit.
        process: bytes that it takes without the model.
        optimizer: bytes of its whole state.
    """
    network, strategy = components.network, config.hardware.strategy
    weights, gradients = weight_bytes(network.models), gradient_bytes(network.models)
    gathered, chunk, rest, once = 0, 0, 0, 0
    if passes is not None:
        chunk = min(passes.chunk, passes.passing)
        rest = passes.passing - chunk
        # After a first step's passes, or with another optimizer, all are there in fp32.
        peak = max(passes.peak, gradient_bytes([network.model]))
        once = min(0, peak - gradients - passes.passing)
    if processes > 1 and strategy is Strategy.fsdp:
        wide = [network.model]  # torch casts weights as it gathers them, so there is no twin
        weights, gradients = weight_bytes(wide) // processes, gradient_bytes(wide) // processes
        optimizer //= processes
        once = 0 if passes is None else min(0, passes.shared - gradients - passes.passing)
        gathered = gathered_bytes(network, components.hardware.dtype)
    elif processes > 1:
        gradients += tensor_bytes(network.compute.parameters())
    return Memory(process, weights, gradients, gathered, optimizer, rest, chunk, once, 0)


def with_allocator(memory: Memory, alone: Memory, used: int | None, device: torch.device) -> Memory:
    """`memory` with what the allocator keeps.

    Args:
        memory: of one of the processes.
        alone: of a process that works alone.
        used: by such a one, measured in bytes, where there was room for its steps.
        device: where.
    """
    if used is not None:
        return replace(memory, allocator=max(0, used - alone.total))
    made = alone.total - alone.process - alone.weights
    return replace(memory, allocator=0 if device.type == "cuda" else round(ALLOCATOR_SHARE * made))


def weight_bytes(models: Sequence[nn.Module]) -> int:
    """Their weights and buffers."""
    return sum(tensor_bytes(model.parameters()) + tensor_bytes(model.buffers()) for model in models)


def gradient_bytes(models: Sequence[nn.Module]) -> int:
    """One gradient for each of their weights that learns."""
    return sum(
        tensor_bytes(weight for weight in model.parameters() if weight.requires_grad)
        for model in models
    )


def optimizer_bytes(config: RunConfig, network: Network) -> int:
    """The optimizer's state, found by a step on each weight alone: for that there is room."""
    total = 0
    for weight in network.model.parameters():
        if weight.requires_grad:
            alone = Parameter(torch.zeros_like(weight))
            alone.grad = torch.zeros_like(weight)
            optimizer = build_optimizer(config.optimizer, ParameterList([alone]))
            optimizer.step()
            state = optimizer.state[alone].values()
            total += tensor_bytes(value for value in state if isinstance(value, Tensor))
    return total


def gathered_bytes(network: Network, dtype: torch.dtype) -> int:
    """What FSDP holds whole: the weights outside of layers, and two layers with their gradients.

    The gradients of those outside are not there before the rest of the pass has gone.
    """
    layers = [tensor_bytes(layer.parameters()) for layer in find_layers(network.model)]
    outside = tensor_bytes(network.model.parameters()) - sum(layers)
    return (outside + 4 * max(layers, default=0)) * dtype.itemsize // 4


def tensor_bytes(tensors: Iterator[Tensor]) -> int:
    """Of all of them; none may share memory with another."""
    return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True)
class Disk:
    """Bytes."""

    checkpoint: int  # one of them: weights and optimizer
    while_running: int  # at most: checkpoints, one more while it is written, and best weights
    kept: int  # when it has finished
    cache: int  # the tokenized corpus, which is there already
    free: int  # where runs are kept


def find_disk(config: RunConfig, components: Components, optimizer: int) -> Disk:
    """What the run writes, `optimizer` bytes of state among it; texts and tables are small."""
    weights = weight_bytes([components.network.model])
    checkpoint = weights + optimizer
    streams = [batches.blocks.stream for batches in components.batches.values()]
    cache = sum(some.ids.nbytes + some.ends.nbytes + some.bytes.nbytes for some in streams)
    # Each checkpoint may name other best weights, and new ones are written before old ones go.
    most = (KEPT + 1) * (checkpoint + weights)
    return Disk(checkpoint, most, weights, cache, free_space(root_of(config.run_root)))


def free_space(folder: Path) -> int:
    """Bytes that are free where `folder` is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free
