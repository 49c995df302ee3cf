"""The memory of activations in a training step, counted tensor by tensor."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmft.config.schema import RunConfig
from lmft.model.loss import CHUNK
from lmft.model.mixed_precision import Network
from lmft.objective import Batch
from lmft.trainer.components import Components
from lmft.trainer.step import accumulate_gradients


@dataclass(frozen=True)
class Passes:
    """What one optimizer step makes of micro-batches of so many blocks, in bytes."""

    blocks: int
    peak: int  # of everything at once
    passing: int  # without finished gradients
    shared: int  # with a process's shares of these, where they are shared out
    chunk: int  # of them, logits and their gradient
    estimated: bool = False  # from smaller micro-batches

    def stretched(self, blocks: int) -> "Passes":
        """At most what larger micro-batches take: no part of it grows faster than they do."""
        factor = blocks / self.blocks
        passing = round(self.passing * factor)
        more = passing - self.passing
        peak, shared = self.peak + more, self.shared + more
        return Passes(blocks, peak, passing, shared, self.chunk, estimated=True)


def measure_passes(config: RunConfig, components: Components, size: int, processes: int) -> Passes:
    """Passes forward and backward with micro-batches of `size` blocks; nothing is learnt.

    Args:
        config: the run.
        components: of one process.
        size: blocks.
        processes: that share a batch.
    """
    network, trainer = components.network, config.trainer
    part = next(
        components.batches["train"].training(trainer.batch_size, config.seed, trainer.shuffle)
    )[0]
    micro_batches: list[Batch] = list(part.split(size))
    passes = 1 if len(micro_batches) <= processes else 2  # more take no more memory
    hardware = replace(components.hardware, micro_batch_size=size)
    network.compute.train()
    with MemoryCounter(
        lambda: finished_gradients(network), lambda: shares_of_gradients(network, processes)
    ) as meter:
        accumulate_gradients(network, micro_batches[:passes], hardware, config.seed, 1)
    network.zero_gradients()
    chunk = chunk_bytes(network, micro_batches[0])
    return Passes(size, meter.peak, meter.passing, meter.shared, chunk)


def find_passes(config: RunConfig, components: Components, processes: int, room: int) -> Passes:
    """The passes of a step as configured; estimated where they might need more than `room` bytes.

    A micro-batch of n times the blocks takes at most n times as much, so none is tried that
    could be too large.
    """
    trainer = config.trainer
    batch = min(trainer.batch_size, len(components.batches["train"]))
    goal = min(components.hardware.micro_batch_size, -(-batch // processes))
    found = measure_passes(config, components, 1, processes)
    while found.blocks < goal:
        sizes = (goal, min(goal, 2 * found.blocks))
        safe = (size for size in sizes if found.peak * size <= room * found.blocks)
        size = next(safe, None)
        if size is None:
            return found.stretched(goal)
        found = measure_passes(config, components, size, processes)
    return found


def finished_gradients(network: Network) -> list[Tensor]:
    """Those that a backward pass has handed over by now."""
    weights = (weight for model in network.models for weight in model.parameters())
    return [weight.grad for weight in weights if weight.grad is not None]


def shares_of_gradients(network: Network, processes: int) -> int:
    """Bytes that one of `processes` keeps of finished gradients, in fp32."""
    pairs = zip(network.model.parameters(), network.compute.parameters(), strict=True)
    finished = (wide for wide, own in pairs if wide.grad is not None or own.grad is not None)
    return sum(weight.nbytes for weight in finished) // processes


def chunk_bytes(network: Network, batch: Batch) -> int:
    """Logits, which become their gradient where the loss makes them."""
    if network.head is None:  # all at once, in fp32, with their gradient
        vocabulary = int(network.model.config.get_text_config().vocab_size)
        return 2 * 4 * batch.targets.numel() * vocabulary
    weight = network.head.linear.weight
    return min(CHUNK, batch.num_targets * len(weight) * weight.element_size())


class MemoryCounter(TorchDispatchMode):
    """Counts the bytes of all storages that torch's operations make, while they live.

    What was there before is not counted, and what an operation makes and frees within itself is not
    seen. The count is the same on every device, since no allocator is asked.
    """

    def __init__(
        self, gradients: Callable[[], Iterable[Tensor]], shares: Callable[[], int] = lambda: 0
    ):
        """Nothing is counted yet.

        Args:
            gradients: gives those that are finished, at any moment.
            shares: gives the bytes that one of several processes keeps of them.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0  # bytes, of all at once
        self.passing = 0  # bytes, the most at once besides finished gradients
        self.shared = 0  # bytes, the same with this process's shares of them
        self._gradients = gradients
        self._shares = shares
        self._sizes: dict[int, int] = {}  # of the storages alive, in bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation as it is; what it made is counted."""
        kwargs = kwargs or {}
        given = {key for key, _ in _storages((args, kwargs))}
        made = func(*args, **kwargs)
        for key, storage in _storages(made):
            if key not in given and key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                weakref.finalize(storage, self._sizes.pop, key)
                self._note()
        return made

    @property
    def alive(self) -> int:
        """Bytes of them by now."""
        return sum(self._sizes.values())

    def _note(self) -> None:
        alive = self.alive
        finished = sum(gradient.untyped_storage().nbytes() for gradient in self._gradients())
        self.peak = max(self.peak, alive)
        self.passing = max(self.passing, alive - finished)
        self.shared = max(self.shared, alive - finished + self._shares())


def _storages(values: Any) -> Iterable[tuple[int, torch.UntypedStorage]]:
    for value in tree_leaves(values):
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            yield storage._cdata, storage
