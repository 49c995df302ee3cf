"""The process group of a run: every rank runs the same code on its own share of each batch.

torchrun starts the processes. Tensors are exchanged through torch's process group. Rank 0 alone
composes configs, writes files and prints; what it alone can know, it shares with the other ranks
through the store.
"""

import functools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from lmft.errors import Fault, Interrupted, WorkerFailed
from lmft.hardware.ranks import LOCALHOST, STORE_PORT, is_distributed

# Of a rank that waits for rank 0, which may wait for a lock; torchrun kills it if rank 0 dies.
STORE_TIMEOUT = timedelta(days=30)
LEAVE_SECONDS = 5.0  # that rank 0 waits at its end for the other ranks to leave the store
MESSAGE_SECONDS = 1.0  # that a failing rank waits for the message of rank 0
FAILURE, SAID = "failure", "said"  # keys in the store
CONNECTION_LOST = ("Connection closed by peer", "Connection reset by peer")  # messages of gloo


class GroupEnded(Exception):
    """Rank 0 has ended, so there is nothing more to do on this rank."""


class ProcessGroup:
    """The processes of a run, seen from one of them."""

    def __init__(self, rank: int = 0, size: int = 1, store: Store | None = None):
        """Create the group; by default of a single process.

        Args:
            rank: of this process.
            size: the number of processes.
            store: key-value store shared by all processes; None for a single process.
        """
        self.rank = rank
        self.size = size
        self._store = store
        self._shared = 0  # values so far

    def share(self, value: Any = None) -> Any:
        """Return rank 0's `value`, which is JSON, on every rank; the other ranks wait for it.

        Raises:
            GroupEnded: rank 0 has ended instead.
        """
        if self._store is None:
            return value
        number, self._shared = self._shared, self._shared + 1
        if self.rank == 0:
            self._store.set(f"value {number}", json.dumps([value]))
            self._store.delete_key(f"value {number - 100}")  # all have read it
            return value
        message = json.loads(self._store.get(f"value {number}"))
        if not message:
            raise GroupEnded
        return message[0]

    def decide(self, *decisions: bool) -> tuple[bool, ...]:
        """Return rank 0's decisions on every rank; exchanged on the host, so no device is awaited.

        Nothing is exchanged in a group of one.
        """
        if self.size == 1:
            return decisions
        flags = torch.tensor(decisions, dtype=torch.uint8)
        dist.broadcast(flags, src=0)
        return tuple(map(bool, flags.tolist()))

    def sum(self, tensor: Tensor) -> Tensor:
        """All-reduce `tensor` by sum, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Concatenate the arrays (N, ...) of all processes in rank order; every process gets it."""
        if self.size == 1:
            return array
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(array)
        self.sum(lengths)
        padded = torch.zeros(
            (int(lengths.max()), *array.shape[1:]), dtype=torch.from_numpy(array).dtype
        )
        padded[: len(array)] = torch.from_numpy(array)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return np.concatenate(
            [part[:length].numpy() for part, length in zip(parts, lengths.tolist(), strict=True)]
        )

    def fail(self, reason: str) -> None:
        """Report to rank 0 why this process fails."""
        if self._store is not None:
            self._store.set(FAILURE, f"Process {self.rank} of {self.size}: {reason}")

    def failure(self) -> str | None:
        """Return why another process failed; None if none did."""
        if self._store is None or not self._store.check([FAILURE]):
            return None
        reason: str = self._store.get(FAILURE).decode()
        return reason

    def say(self, text: str) -> None:
        """Send the other ranks the error message that rank 0 prints."""
        if self._store is not None:
            self._store.set(SAID, text)

    def is_said(self, reason: str) -> bool:
        """Check whether rank 0 prints this reason too, so that another rank need not."""
        if self._store is None:
            return False
        try:
            said: str = self._store.get(SAID).decode() if self._wait(SAID) else ""
        except RuntimeError:  # rank 0 has ended
            return False
        return bool(reason) and reason in said

    def _wait(self, key: str) -> bool:
        assert self._store is not None
        deadline = time.monotonic() + MESSAGE_SECONDS
        while not (is_set := self._store.check([key])) and time.monotonic() < deadline:
            time.sleep(0.01)
        return bool(is_set)

    def leave(self) -> None:
        """Mark this rank, which is not 0, as ended."""
        if self._store is not None:
            with suppress(RuntimeError):  # rank 0 has ended
                self._store.set(f"left {self.rank}", "")

    def end(self) -> None:
        """End the other ranks and wait until they leave, since this process may host the store."""
        if self._store is None:
            return
        self._store.set(f"value {self._shared}", json.dumps([]))
        keys = [f"left {rank}" for rank in range(1, self.size)]
        deadline = time.monotonic() + LEAVE_SECONDS
        while not self._store.check(keys) and time.monotonic() < deadline:
            time.sleep(0.01)


def is_connection_lost(error: BaseException) -> bool:
    """Return whether `error` only says that another process of the group has ended."""
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CONNECTION_LOST)


@contextmanager
def worker_failures_raised() -> Iterator[None]:
    """Raise the reason of another process instead of the error that its failure caused here.

    Raises:
        WorkerFailed: another process failed while the block ran.
    """
    try:
        yield
    except Fault:  # of this process itself
        raise
    except (RuntimeError, Interrupted) as error:  # no other type comes from a lost peer
        reason = join_process_group().failure()
        if reason is None and is_connection_lost(error):
            reason = (
                "Another process ended without an error message; was it killed, or out of memory?"
            )
        if reason is None:
            raise
        raise WorkerFailed(reason) from error


def connect_store() -> tuple[Store, int, int]:
    """Return the store, the rank of this process and the number of processes."""
    port = os.environ.get(STORE_PORT)
    if port is None:  # the user started torchrun, perhaps on several machines
        store, rank, size = next(rendezvous("env://"))
        return store, rank, size
    store = PrefixStore("lmft", TCPStore(LOCALHOST, int(port), is_master=False))
    return store, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


@functools.cache
def join_process_group() -> ProcessGroup:
    """Return the process group of this process, initializing it once; a group of one if alone."""
    if not is_distributed():
        return ProcessGroup()
    store, rank, size = connect_store()
    store.set_timeout(STORE_TIMEOUT)
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # separates the keys of restarts
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    group = PrefixStore(f"group {restart}", store)
    dist.init_process_group(backend, store=group, rank=rank, world_size=size)
    return ProcessGroup(rank, size, PrefixStore(f"messages {restart}", store))
