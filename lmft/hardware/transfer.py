"""Copies and clocks that do not make the host wait for a GPU.

A GPU works through a queue of operations. A copy from pageable memory, or reading a number, makes
the host wait until the queue is empty; the device then idles while the next operations are queued.
"""

import time
from typing import cast

import torch
from torch import Tensor

Moment = float | torch.cuda.Event


def queues_work(device: torch.device) -> bool:
    """Return whether the host should run ahead of `device`; on MPS such copies are not safe."""
    return device.type not in ("cpu", "mps")


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to `device`, without waiting for it where it queues work."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=queues_work(device))


def mark_time(device: torch.device) -> Moment:
    """Return this moment: on a GPU, when all work queued until now is done."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))  # perhaps not of the current device
    return event


def seconds_between(start: Moment, end: Moment) -> float:
    """Return the seconds between two moments of `mark_time`, waiting for the second one."""
    if isinstance(end, float):
        return end - cast(float, start)
    end.synchronize()
    milliseconds: float = cast(torch.cuda.Event, start).elapsed_time(end)
    return milliseconds / 1000


class LateNumbers:
    """Numbers of a device, copied to the host while it goes on, and read when they are needed."""

    def __init__(self, *numbers: Tensor):
        """Start the copy of tensors (); without a queue of work they are read now."""
        self._arrived: torch.cuda.Event | None = None
        if numbers[0].device.type != "cuda":
            self._values = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
            return
        values = torch.stack([number.double() for number in numbers])
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._values.copy_(values, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """Return the numbers, once they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return cast(list[float], self._values.tolist())
