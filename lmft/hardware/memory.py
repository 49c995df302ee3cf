"""Used and free memory of the device, in bytes."""

import psutil
import torch


def reset_used_memory(device: torch.device) -> None:
    """Reset the peak that `used_memory` reports on a GPU; on a CPU there is nothing to reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def used_memory(device: torch.device) -> int:
    """Return the peak memory of tensors on a GPU, the resident memory of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def context_memory(device: torch.device) -> int:
    """Return the memory of a GPU that holds no tensors: CUDA's context, and other programs."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return total - free - torch.cuda.memory_reserved(device)


def free_memory(device: torch.device) -> int:
    """Return the memory that is available to this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def memory_per_process(device: torch.device, processes: int) -> int:
    """Return the total memory for each of `processes`: of its own GPU, or an equal share of RAM."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return int(psutil.virtual_memory().total) // processes
