"""Estimate the memory and disk space of a run."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import Parameter, ParameterList

from lmft.adapter.adapter_files import is_adapted
from lmft.analysis.plan.activations import StepMemory
from lmft.config.schema import RunConfig
from lmft.config.training_knobs import Strategy
from lmft.hardware.layers import find_layers
from lmft.model.network import Network
from lmft.optimizer import build_optimizer
from lmft.runs.find_run import root_of
from lmft.trainer.checkpoint import KEPT
from lmft.trainer.components import Components

# Assumed allocator overhead on a CPU, as a share of what steps allocate, if it was not measured.
ALLOCATOR_OVERHEAD = 0.2


@dataclass(frozen=True)
class Memory:
    """The peak memory of one process by what it holds, in bytes; the sum is `total`."""

    process: int  # the interpreter, libraries and token ids
    weights: int  # with the low-precision copy
    gradients: int  # all of them, and DDP's buckets
    gathered: int  # weights and gradients that FSDP holds unsharded at once
    optimizer: int  # state
    activations: int  # and other temporary tensors of a step
    loss_chunk: int  # logits and their gradient
    overlap: int  # at most 0: activations are freed while gradients are created
    allocator_overhead: int  # cached free blocks, and temporary tensors inside operators

    @property
    def total(self) -> int:
        """The peak."""
        return sum(vars(self).values())


def estimate_memory(
    config: RunConfig,
    components: Components,
    processes: int,
    step: StepMemory | None,
    process: int,
    optimizer: int,
) -> Memory:
    """Return the memory of one of `processes`, without the allocator's overhead.

    Args:
        config: the run.
        components: of a single process.
        processes: that share the run.
        step: memory of a step; None if not even one block would fit.
        process: bytes that a process takes without the model.
        optimizer: bytes of the whole optimizer state.
    """
    network, strategy = components.network, config.hardware.strategy
    weights, gradients = weight_bytes(network.models), gradient_bytes(network.models)
    gathered, loss_chunk, activations, overlap = 0, 0, 0, 0
    if step is not None:
        loss_chunk = min(step.loss_chunk, step.activations)
        activations = step.activations - loss_chunk
        # In the first step, and with optimizers that can't step in slices, all gradients exist in
        # fp32 at once.
        peak = max(step.peak, gradient_bytes([network.model]))
        overlap = min(0, peak - gradients - step.activations)
    if processes > 1 and strategy is Strategy.fsdp:
        sharded = [network.model]  # torch casts weights as it gathers them: no low-precision copy
        weights = weight_bytes(sharded) // processes
        gradients = gradient_bytes(sharded) // processes
        optimizer //= processes
        overlap = 0 if step is None else min(0, step.with_shards - gradients - step.activations)
        gathered = gathered_bytes(network, components.hardware.dtype)
    elif processes > 1:
        gradients += gradient_bytes([network.compute_model])
    return Memory(
        process, weights, gradients, gathered, optimizer, activations, loss_chunk, overlap, 0
    )


def add_allocator_overhead(
    memory: Memory, single: Memory, used: int | None, device: torch.device
) -> Memory:
    """Return `memory` with the allocator's overhead.

    Args:
        memory: of one of several processes.
        single: of a process that runs alone.
        used: bytes measured in such a process; None if there was not enough memory to measure.
        device: on which it runs.
    """
    if used is not None:
        return replace(memory, allocator_overhead=max(0, used - single.total))
    allocated = single.total - single.process - single.weights
    overhead = 0 if device.type == "cuda" else round(ALLOCATOR_OVERHEAD * allocated)
    return replace(memory, allocator_overhead=overhead)


def weight_bytes(models: Sequence[nn.Module]) -> int:
    """Return the bytes of the models' weights and buffers; frozen weights are shared."""
    weights = {id(weight): weight for model in models for weight in model.parameters()}
    buffers = sum(tensor_bytes(model.buffers()) for model in models)
    return tensor_bytes(iter(weights.values())) + buffers


def gradient_bytes(models: Sequence[nn.Module]) -> int:
    """Return the bytes of one gradient for each trainable weight of the models."""
    return sum(
        tensor_bytes(weight for weight in model.parameters() if weight.requires_grad)
        for model in models
    )


def optimizer_bytes(config: RunConfig, network: Network) -> int:
    """Return the bytes of the optimizer's state, which is created for one weight at a time."""
    total = 0
    for weight in network.model.parameters():
        if weight.requires_grad:
            single = Parameter(torch.zeros_like(weight))
            single.grad = torch.zeros_like(weight)
            optimizer = build_optimizer(config.optimizer, ParameterList([single]))
            optimizer.step()
            state = optimizer.state[single].values()
            total += tensor_bytes(value for value in state if isinstance(value, Tensor))
    return total


def gathered_bytes(network: Network, dtype: torch.dtype) -> int:
    """Return the bytes that FSDP holds unsharded: weights outside of layers, and two whole layers.

    Two layers count with their gradients. Gradients of the weights outside of layers don't count:
    they are created when most activations are freed.
    """
    layers = find_layers(network.model)
    sizes = [sum(weight.numel() for weight in layer.parameters()) for layer in layers]
    outside = sum(weight.numel() for weight in network.model.parameters()) - sum(sizes)
    learning = [
        sum(weight.numel() for weight in layer.parameters() if weight.requires_grad)
        for layer in layers
    ]
    two_layers = 2 * (max(sizes, default=0) + max(learning, default=0))
    return (outside + two_layers) * dtype.itemsize


def tensor_bytes(tensors: Iterator[Tensor]) -> int:
    """Return the bytes of tensors that share no memory."""
    return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True)
class DiskSpace:
    """Disk space in bytes."""

    checkpoint: int  # one of them: weights and optimizer
    peak: int  # while running: all checkpoints, one that is being written, and best weights
    final: int  # when the run has finished
    cache: int  # the tokenized corpus, which exists already
    free: int  # at run_root


def estimate_disk_space(config: RunConfig, components: Components, optimizer: int) -> DiskSpace:
    """Return the disk space of a run; texts and tables are too small to count.

    Args:
        config: the run.
        components: of a process.
        optimizer: bytes of the optimizer's state.
    """
    model = components.network.model
    weights, learning = weight_bytes([model]), gradient_bytes([model])
    best = learning if is_adapted(model) else weights
    is_partial = any(not weight.requires_grad for weight in model.parameters())
    checkpoint = (learning if is_partial else weights) + optimizer
    streams = [batches.blocks.stream for batches in components.batches.values()]
    cache = sum(stream.ids.nbytes + stream.ends.nbytes for stream in streams)
    # Each checkpoint may have best weights of its own; new ones are written before old ones go.
    peak = (KEPT + 1) * (checkpoint + best)
    return DiskSpace(checkpoint, peak, best, cache, free_space(root_of(config.run_root)))


def free_space(folder: Path) -> int:
    """Return the free bytes on the disk of `folder`, which need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free
