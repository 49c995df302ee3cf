"""Where a run computes: what may change its speed, but not what it learns."""

import gc
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from lmft.config.schema import AUTO, HardwareConfig, Precision, Strategy
from lmft.errors import LESS_MEMORY, Fault, UserError, is_out_of_memory
from lmft.hardware.process_group import ProcessGroup, join
from lmft.hardware.ranks import is_distributed

logger = logging.getLogger(__name__)


DTYPES = {
    Precision.fp32: torch.float32,
    Precision.bf16: torch.bfloat16,
    Precision.fp16: torch.float16,
}

T = TypeVar("T")


@dataclass
class Hardware:
    """What `HardwareConfig` comes to on this machine."""

    device: torch.device
    precision: Precision  # never auto
    micro_batch_size: int  # blocks in memory at once
    compile: bool
    checkpoint_activations: bool
    strategy: Strategy = Strategy.none
    process_group: ProcessGroup = field(default_factory=ProcessGroup)
    adapts: bool = False  # micro_batch_size=auto: it is halved until it fits in memory

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that compute, and of what they make."""
        return DTYPES[self.precision]

    def fit(self, work: Callable[[], T], clear: Callable[[], None] = lambda: None) -> T:
        """What `work` gives; where memory runs out and the size adapts, of half as many blocks.

        Args:
            work: reads `micro_batch_size`, and begins anew each time.
            clear: removes what it left behind when it could not end.

        Raises:
            Fault: it does not fit.
        """
        while True:
            size = self.micro_batch_size
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if not self.adapts or size == 1:
                    raise self._too_large() from error
            # Only here are the error and all that its frames held gone, but for cycles.
            clear()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.micro_batch_size = size // 2
            logger.warning(
                "Memory ran out with %d blocks at once; going on as with "
                "hardware.micro_batch_size=%d.",
                size,
                self.micro_batch_size,
            )

    def _too_large(self) -> Fault:
        blocks = f"hardware.micro_batch_size={self.micro_batch_size}"
        if self.micro_batch_size == 1:
            return Fault(f"Memory ran out on {self.device} even with {blocks}; lower {LESS_MEMORY}")
        auto = "" if self.process_group.size > 1 else " (auto finds what fits)"
        return Fault(
            f"Memory ran out on {self.device} with {blocks}; lower that{auto} or {LESS_MEMORY}"
        )

    def describe(self) -> str:
        """The device and precision, for a person."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"{self.device} ({torch.get_num_threads()} threads)"
        process_group = (
            f", {self.process_group.size} processes, {self.strategy.value}"
            if self.process_group.size > 1
            else ""
        )
        return f"{name}, {self.precision.value}{process_group}"


def find_hardware(config: HardwareConfig, batch_size: int, kept: str | None = None) -> Hardware:
    """The hardware that `config` asks for.

    Args:
        config: the knobs.
        batch_size: blocks of an optimizer step, which micro_batch_size=auto tries first.
        kept: what precision=auto came to when the run first started, perhaps on another device.

    Raises:
        UserError: torch does not find it here.
    """
    process_group = find_process_group(config)
    device = find_device(config.device)
    if process_group.size > 1 and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    precision = config.precision
    if precision is Precision.auto:
        precision = Precision(kept or ("bf16" if has_bf16(device) else "fp32"))
        if precision is Precision.bf16 and not has_bf16(device):
            raise UserError(
                f"This run was started in bf16, which hardware.device={device} does not compute "
                "here; go on where it does, or start anew with fresh=true."
            )
    return Hardware(
        device,
        precision,
        batch_size if isinstance(config.micro_batch_size, str) else config.micro_batch_size,
        config.compile,
        config.checkpoint_activations,
        config.strategy if process_group.size > 1 else Strategy.none,
        process_group,
        adapts=config.micro_batch_size == AUTO,
    )


def find_process_group(config: HardwareConfig) -> ProcessGroup:
    """The processes that share the run, this one among them.

    Raises:
        UserError: they were started for something else.
    """
    if config.strategy is Strategy.none:
        if is_distributed():
            raise UserError(
                f"torchrun started {os.environ['WORLD_SIZE']} processes, but this run is one "
                "process's; add hardware=ddp or hardware=fsdp."
            )
        return ProcessGroup()
    return join()


def find_device(name: str) -> torch.device:
    """The device called `name`."""
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        return torch.device(next(kind for kind, count in counts.items() if count))
    kind, _, index = name.partition(":")
    if kind not in counts or (index and not index.isdigit()):
        raise UserError(f"hardware.device is {name!r}; choose auto, {', '.join(counts)} or cuda:1.")
    if int(index or 0) >= counts[kind]:
        found = f"{counts[kind]} of them" if counts[kind] else "none"
        raise UserError(
            f"hardware.device is {name!r}, but torch finds {found} here; try hardware=cpu."
        )
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether `device` computes bf16 natively, not by emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
