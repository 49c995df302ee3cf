"""Ranks and process counts from torchrun's environment variables, without importing torch."""

import os

from lmft.config.training_knobs import HardwareConfig, Strategy
from lmft.errors import UserError

LOCALHOST = "127.0.0.1"
STORE_PORT = "LMFT_STORE"  # variable with the TCPStore's port, where lmft started the processes


def is_distributed() -> bool:
    """Check whether this process is one of several of a process group."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def is_rank_zero() -> bool:
    """Check whether this process has rank 0, which composes the config."""
    return not is_distributed() or os.environ["RANK"] == "0"


def count_processes(hardware: HardwareConfig) -> int:
    """Return how many processes to start on this machine; 1 if this one is enough.

    Raises:
        UserError: the number is unknown, or differs from what torchrun started.
    """
    if hardware.strategy is Strategy.none:
        return 1
    if "WORLD_SIZE" in os.environ:
        started = os.environ.get("LOCAL_WORLD_SIZE")  # torchrun sets it
        if hardware.processes is not None and started not in (None, str(hardware.processes)):
            raise UserError(
                f"hardware.processes is {hardware.processes}, but torchrun started {started} on "
                "this machine; leave hardware.processes out."
            )
        return 1
    if hardware.processes is not None:
        return hardware.processes
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"hardware={hardware.strategy.value} needs a number of processes; set "
            "hardware.processes=2, or start the run with torchrun."
        )
    return torch.cuda.device_count()


def share_cores(processes: int) -> None:
    """Set OMP_NUM_THREADS to an equal share of the cores, unless the user has set it.

    torch reads it when it is imported.

    Args:
        processes: that run at the same time on this machine; -1: one for each core.
    """
    cores = os.cpu_count() or 1
    threads = max(1, cores // (cores if processes < 0 else processes))
    if threads < cores:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
