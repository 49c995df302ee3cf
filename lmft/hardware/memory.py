"""Used and free memory of the device that computes."""

import psutil
import torch


def start_count(device: torch.device) -> None:
    """Let `used_memory` begin with what is used now; on a CPU freed memory is kept anyway."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def used_memory(device: torch.device) -> int:
    """Bytes that this process has used at the highest: on a GPU, of tensors alone."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def free_memory(device: torch.device) -> int:
    """Bytes that this process could still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def memory_for_each(device: torch.device, processes: int) -> int:
    """Bytes there are for each of `processes`; on GPUs, each has one of its own."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return int(psutil.virtual_memory().total) // processes
