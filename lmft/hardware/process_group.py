"""The process group of a run: rank 0 makes all decisions, the workers repeat its calls.

torchrun starts the processes. Tensors are exchanged through torch's process group. Rank 0 sends its
calls to the workers as JSON through the store; it alone composes the config, writes files and
prints.
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

STORE_TIMEOUT = timedelta(
    days=30
)  # of a worker that waits for a call; torchrun kills it if rank 0 dies
LEAVE_SECONDS = 5.0  # that rank 0 waits at its end for the workers to leave the store
MESSAGE_SECONDS = 1.0  # that a failing worker waits for the message of rank 0
FAILURE, SAID = "failure", "said"  # keys in the store
CONNECTION_LOST = ("Connection closed by peer", "Connection reset by peer")  # messages of gloo


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
        self._tasks = 0  # sent or received so far

    def tell(self, task: str, **arguments: Any) -> None:
        """Send `task` and its arguments to the workers; does nothing on a worker."""
        if self._store is None or self.rank > 0:
            return
        self._store.set(f"task {self._tasks}", json.dumps({"task": task, **arguments}))
        self._tasks += 1
        self._store.delete_key(f"task {self._tasks - 100}")  # 100 calls back: all have read it

    def hear(self) -> dict[str, Any]:
        """Wait for the next call of rank 0; return `task` and its arguments."""
        assert self._store is not None
        message: dict[str, Any] = json.loads(self._store.get(f"task {self._tasks}"))
        self._tasks += 1
        return message

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
        """Send the workers the error message that rank 0 prints."""
        if self._store is not None:
            self._store.set(SAID, text)

    def is_said(self, reason: str) -> bool:
        """Check whether rank 0 prints this reason too, so that a worker need not."""
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
        """Mark this worker as ended."""
        if self._store is not None:
            with suppress(RuntimeError):  # rank 0 has ended
                self._store.set(f"left {self.rank}", "")

    def end(self) -> None:
        """End the workers and wait for them to leave, since this process may host the store."""
        if self._store is None:
            return
        self.tell("end")
        keys = [f"left {rank}" for rank in range(1, self.size)]
        deadline = time.monotonic() + LEAVE_SECONDS
        while not self._store.check(keys) and time.monotonic() < deadline:
            time.sleep(0.01)


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
        if reason is None and any(text in str(error) for text in CONNECTION_LOST):
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
