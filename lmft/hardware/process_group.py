"""The processes that train one run together: one leads, the others do as it says.

torchrun starts them. Tensors go through torch's process group; what is to be done next goes through
its store as JSON, so that only the leader composes, decides, writes and speaks.
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
from lmft.hardware.ranks import LOCAL, STORE, is_distributed

PATIENCE = timedelta(days=30)  # that a leader may take to say what is next; torchrun sees its death

LEAVING = 5.0  # seconds, after which the others must be dead

ECHO = 1.0  # second, in which all fail who share a mistake

FAILURE, SAID = "failure", "said"

LOST = ("Connection closed by peer", "Connection reset by peer")  # as gloo has it


class ProcessGroup:
    """This process and those beside it."""

    def __init__(self, rank: int = 0, size: int = 1, store: Store | None = None):
        """By default, one that works alone."""
        self.rank = rank
        self.size = size
        self._store = store
        self._tasks = 0

    def tell(self, task: str, **facts: Any) -> None:
        """Let the others do `task` while the leader does it; only what the leader says counts."""
        if self._store is None or self.rank > 0:
            return
        self._store.set(f"task {self._tasks}", json.dumps({"task": task, **facts}))
        self._tasks += 1
        self._store.delete_key(f"task {self._tasks - 100}")  # long done: all steps are in common

    def hear(self) -> dict[str, Any]:
        """What the leader does next: `task` and its facts."""
        assert self._store is not None
        told: dict[str, Any] = json.loads(self._store.get(f"task {self._tasks}"))
        self._tasks += 1
        return told

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, array: np.ndarray) -> np.ndarray:
        """The arrays (N, ...) of all processes one after the other, everywhere."""
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
        """Let the leader know why this process ends."""
        if self._store is not None:
            self._store.set(FAILURE, f"Process {self.rank} of {self.size}: {reason}")

    def failure(self) -> str | None:
        """Why another process ended, if one did."""
        if self._store is None or not self._store.check([FAILURE]):
            return None
        reason: str = self._store.get(FAILURE).decode()
        return reason

    def say(self, words: str) -> None:
        """Let the others know what the leader tells the user at its end."""
        if self._store is not None:
            self._store.set(SAID, words)

    def is_said(self, reason: str) -> bool:
        """Whether the leader fails for the same reason, and so tells the user of it."""
        if self._store is None:
            return False
        try:
            said: str = self._store.get(SAID).decode() if self._wait(SAID) else ""
        except RuntimeError:  # the leader is gone
            return False
        return bool(reason) and reason in said

    def _wait(self, key: str) -> bool:
        assert self._store is not None
        deadline = time.monotonic() + ECHO
        while not (there := self._store.check([key])) and time.monotonic() < deadline:
            time.sleep(0.01)
        return bool(there)

    def leave(self) -> None:
        """Of one that has no more to ask of the others."""
        if self._store is not None:
            with suppress(RuntimeError):  # the leader is gone
                self._store.set(f"left {self.rank}", "")

    def end(self) -> None:
        """Let the others end, and see them leave: this process may be the one with the store."""
        if self._store is None:
            return
        self.tell("end")
        others = [f"left {rank}" for rank in range(1, self.size)]
        deadline = time.monotonic() + LEAVING
        while not self._store.check(others) and time.monotonic() < deadline:
            time.sleep(0.01)


@contextmanager
def worker_failures_raised() -> Iterator[None]:
    """Where another process ended the work inside, its reason is raised.

    Raises:
        TeamFailed: with the reason.
    """
    try:
        yield
    except Fault:  # of this process's machine
        raise
    except (RuntimeError, Interrupted) as error:  # others are this process's own
        reason = join().failure()
        if reason is None and any(text in str(error) for text in LOST):
            reason = "Another process ended without a word; was it killed, or short of memory?"
        if reason is None:
            raise
        raise WorkerFailed(reason) from error


def meet() -> tuple[Store, int, int]:
    """The store, this process's rank, and how many there are."""
    port = os.environ.get(STORE)
    if port is None:  # torchrun started them, perhaps on several machines
        store, rank, size = next(rendezvous("env://"))
        return store, rank, size
    mine = PrefixStore("lmft", TCPStore(LOCAL, int(port), is_master=False))
    return mine, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


@functools.cache
def join() -> ProcessGroup:
    """The team that this process was started in; of one, where it was started alone."""
    if not is_distributed():
        return ProcessGroup()
    store, rank, size = meet()
    store.set_timeout(PATIENCE)
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # a start of its own begins anew
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    group = PrefixStore(f"group {restart}", store)
    dist.init_process_group(backend, store=group, rank=rank, world_size=size)
    return ProcessGroup(rank, size, PrefixStore(f"team {restart}", store))
