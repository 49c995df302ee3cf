"""Ranks and process counts, from torchrun's environment variables; torch is not imported."""

import os
from typing import TYPE_CHECKING

from lmft.config.schema import HardwareConfig, Strategy
from lmft.errors import UserError

if TYPE_CHECKING:
    pass

LOCAL = "127.0.0.1"

STORE = "LMFT_STORE"  # the port of the store of processes that lmft itself started


def is_distributed() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def is_rank_zero() -> bool:
    """Whether this process composes the config: of a team, the first."""
    return not is_distributed() or os.environ["RANK"] == "0"


def count_processes(hardware: HardwareConfig) -> int:
    """How many processes of this machine the run is to be started in; 1 if this one is enough.

    Raises:
        UserError: nothing says how many, or torchrun another number.
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
            f"hardware={hardware.strategy.value} needs to know how many processes; set "
            "hardware.processes=2, or start it by torchrun."
        )
    return torch.cuda.device_count()


def share_cores(processes: int) -> None:
    """Processes side by side on one machine get equal shares; a number that the user set holds.

    Torch reads it when it is imported.
    """
    cores = os.cpu_count() or 1
    threads = max(1, cores // (cores if processes < 0 else processes))
    if threads < cores:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
