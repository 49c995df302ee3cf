"""How much memory the tensors take that come and go while a model computes."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
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
