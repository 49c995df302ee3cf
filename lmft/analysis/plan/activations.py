"""Measure the activation memory of a training step by counting tensor storages."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmft.config.schema import RunConfig
from lmft.model.chunks import chunk_bytes
from lmft.model.network import Network
from lmft.objective import Batch
from lmft.trainer.components import Components
from lmft.trainer.gradients import DropoutSeeds, accumulate_gradients


@dataclass(frozen=True)
class StepMemory:
    """The memory that forward and backward passes allocate in one optimizer step, in bytes."""

    micro_batch_size: int  # blocks
    peak: int  # of activations and gradients together
    activations: int  # their peak: all but gradients that are complete
    with_shards: int  # the peak of activations and this process's shards of complete gradients
    loss_chunk: int  # part of the activations: logits and their gradient
    extrapolated: bool = False  # from smaller micro-batches

    def extrapolate(self, micro_batch_size: int) -> "StepMemory":
        """Return an upper bound for larger micro-batches: no part grows faster than they do."""
        activations = round(self.activations * micro_batch_size / self.micro_batch_size)
        more = activations - self.activations
        return StepMemory(
            micro_batch_size,
            self.peak + more,
            activations,
            self.with_shards + more,
            self.loss_chunk,
            extrapolated=True,
        )


def measure_step_memory(
    config: RunConfig, components: Components, size: int, processes: int
) -> StepMemory:
    """Run forward and backward passes with micro-batches of `size` blocks; update no weights.

    Args:
        config: the run.
        components: of one process.
        size: blocks.
        processes: that share a batch.
    """
    network, trainer, seeds = components.network, config.trainer, DropoutSeeds(config.seed, step=1)
    part = next(
        components.batches["train"].training(trainer.batch_size, config.seed, trainer.shuffle)
    )[0]
    micro_batches: list[Batch] = list(part.split(size))
    passes = 1 if len(micro_batches) <= processes else 2  # more passes take no more memory
    hardware = replace(components.hardware, micro_batch_size=size)
    network.compute_model.train()
    gradients, shards = gradient_counters(network, processes)
    with MemoryCounter(gradients, shards) as counter:
        accumulate_gradients(network, micro_batches[:passes], hardware, seeds)
    network.zero_gradients()
    loss_chunk = loss_chunk_bytes(network, micro_batches[0])
    return StepMemory(size, counter.peak, counter.activations, counter.with_shards, loss_chunk)


def find_step_memory(
    config: RunConfig, components: Components, processes: int, available: int
) -> StepMemory:
    """Return the memory of a step as configured; extrapolate if it may exceed `available` bytes.

    A micro-batch of n times as many blocks takes at most n times the memory. So sizes are tried
    in an order in which none can run out of memory.
    """
    trainer = config.trainer
    batch = min(trainer.batch_size, len(components.batches["train"]))
    goal = min(components.hardware.micro_batch_size, -(-batch // processes))
    memory = measure_step_memory(config, components, 1, processes)
    while memory.micro_batch_size < goal:
        sizes = (goal, min(goal, 2 * memory.micro_batch_size))
        safe = (size for size in sizes if memory.peak * size <= available * memory.micro_batch_size)
        size = next(safe, None)
        if size is None:
            return memory.extrapolate(goal)
        memory = measure_step_memory(config, components, size, processes)
    return memory


def gradient_counters(
    network: Network, processes: int
) -> tuple[Callable[[], list[Tensor]], Callable[[], int]]:
    """Return two functions: the first returns the gradients that are complete when it is called.

    The second returns the fp32 bytes that one of `processes` keeps of them. Both are called after
    each operator, so the weights that learn are listed once.
    """
    weights = [w for model in network.models for w in model.parameters() if w.requires_grad]
    every = zip(network.model.parameters(), network.compute_model.parameters(), strict=True)
    pairs = [(weight, own) for weight, own in every if weight.requires_grad]

    def gradients() -> list[Tensor]:
        return [weight.grad for weight in weights if weight.grad is not None]

    def shards() -> int:
        complete = (w for w, own in pairs if w.grad is not None or own.grad is not None)
        return sum(weight.nbytes for weight in complete) // processes

    return gradients, shards


def loss_chunk_bytes(network: Network, batch: Batch) -> int:
    """Return the bytes of the logits that the loss has at once, which its gradient overwrites."""
    if network.head is None:  # all logits at once, in fp32, and their gradient
        vocabulary = int(network.model.config.get_text_config().vocab_size)
        return 2 * 4 * batch.targets.numel() * vocabulary
    weight = network.head.linear.weight
    size = chunk_bytes(weight, weight.requires_grad)
    return min(size, batch.num_targets * len(weight) * weight.element_size())


class MemoryCounter(TorchDispatchMode):
    """Counts the bytes of all storages that torch operators create, while they are alive.

    Storages that existed before are not counted; temporary ones inside an operator are not seen.
    The count is the same on every device, since it does not depend on an allocator.
    """

    def __init__(
        self, gradients: Callable[[], Iterable[Tensor]], shards: Callable[[], int] = lambda: 0
    ):
        """Start with nothing counted.

        Args:
            gradients: returns those that are complete at the moment.
            shards: returns the bytes that one of several processes keeps of them.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = 0  # bytes of the storages that are alive now
        self.peak = 0  # bytes of all storages
        self.activations = 0  # bytes, the peak without complete gradients
        self.with_shards = 0  # bytes, the peak with this process's shards of them instead
        self._gradients = gradients
        self._shards = shards
        self._alive: set[int] = set()  # the storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and count the storages that it created."""
        kwargs = kwargs or {}
        inputs = {key for key, _ in _storages((args, kwargs))}
        outputs = func(*args, **kwargs)
        for key, storage in _storages(outputs):
            if key not in inputs and key not in self._alive:
                self._alive.add(key)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._forget, key, storage.nbytes())
                self._update_peaks()
        return outputs

    def _forget(self, key: int, size: int) -> None:
        self._alive.remove(key)
        self.alive -= size

    def _update_peaks(self) -> None:
        complete = sum(gradient.untyped_storage().nbytes() for gradient in self._gradients())
        self.peak = max(self.peak, self.alive)
        self.activations = max(self.activations, self.alive - complete)
        self.with_shards = max(self.with_shards, self.alive - complete + self._shards())


def _storages(values: Any) -> Iterable[tuple[int, torch.UntypedStorage]]:
    for value in tree_leaves(values):
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            yield storage._cdata, storage
