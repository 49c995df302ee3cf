"""The hardware of a run: device, precision, micro-batch size and process group."""

import gc
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from lmft.config.training_knobs import AUTO, HardwareConfig, Precision, Strategy
from lmft.errors import LESS_MEMORY, Fault, UserError, is_out_of_memory
from lmft.hardware.determinism import prepare_deterministic_kernels
from lmft.hardware.process_group import ProcessGroup, join_process_group
from lmft.hardware.ranks import is_distributed
from lmft.hardware.transfer import queues_work

logger = logging.getLogger(__name__)


DTYPES = {
    Precision.fp32: torch.float32,
    Precision.bf16: torch.bfloat16,
    Precision.fp16: torch.float16,
}
MICRO_BATCH_SIZE = 8  # blocks
T = TypeVar("T")


@dataclass(frozen=True)
class Choices:
    """What auto stood for when a run was first started; None where it is not known yet."""

    precision: str | None = None
    compile: bool | None = None


FIRST_START = Choices()


@dataclass
class Hardware:
    """A `HardwareConfig` with all choices resolved for this machine."""

    device: torch.device
    precision: Precision  # not auto
    micro_batch_size: int  # blocks in memory at once
    compile: bool | None  # None: not decided yet
    checkpoint_activations: bool
    strategy: Strategy = Strategy.none
    process_group: ProcessGroup = field(default_factory=ProcessGroup)
    auto_micro_batch_size: bool = False  # halve micro_batch_size until it fits in memory
    deterministic: bool = False  # kernels of a GPU that compute the same bits each time

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights and activations in the forward and backward pass."""
        return DTYPES[self.precision]

    def halve_on_oom(
        self, attempt: Callable[[], T], clean_up: Callable[[], None] = lambda: None
    ) -> T:
        """Run `attempt` and return its result; on out of memory halve `micro_batch_size` and retry.

        Only `auto_micro_batch_size` allows a retry.

        Args:
            attempt: reads `micro_batch_size` and starts from scratch on each call.
            clean_up: removes what a failed attempt left behind.

        Raises:
            Fault: it does not fit in memory.
        """
        while True:
            size = self.micro_batch_size
            try:
                return attempt()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if not self.auto_micro_batch_size or size == 1:
                    raise self._too_large() from error
            # Outside the except block, so that the error and its frames hold no tensors any more.
            clean_up()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.micro_batch_size = size // 2
            logger.warning(
                "Memory ran out with %d blocks at once; retrying with "
                "hardware.micro_batch_size=%d.",
                size,
                self.micro_batch_size,
            )

    def _too_large(self) -> Fault:
        blocks = f"hardware.micro_batch_size={self.micro_batch_size}"
        if self.micro_batch_size == 1:
            return Fault(
                f"Memory ran out on {self.device} even with {blocks}; lower {LESS_MEMORY}."
            )
        auto = "" if self.process_group.size > 1 else " (auto finds what fits)"
        return Fault(
            f"Memory ran out on {self.device} with {blocks}; lower that{auto} or {LESS_MEMORY}."
        )

    def describe(self) -> str:
        """Return a readable description of the device, the precision and the processes."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"{self.device} ({torch.get_num_threads()} threads)"
        processes = (
            f", {self.process_group.size} processes, {self.strategy.value}"
            if self.process_group.size > 1
            else ""
        )
        bits = ""
        if self.device.type == "cuda" and not self.deterministic:
            bits = ", kernels whose last bits vary"
        return f"{name}, {self.precision.value}{processes}{bits}"


def find_hardware(
    config: HardwareConfig, batch_size: int, saved: Choices = FIRST_START
) -> Hardware:
    """Resolve `config` for this machine.

    Args:
        config: the knobs.
        batch_size: blocks per optimizer step, which micro_batch_size=auto tries first.
        saved: what auto stood for at the first start of a resumed run, perhaps elsewhere.

    Raises:
        UserError: this machine lacks the device, or it does not support the precision.
    """
    process_group = find_process_group(config)
    device = find_device(config.device)
    if process_group.size > 1 and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # on which CUDA graphs and Triton's kernels run
    precision = config.precision
    if precision is Precision.auto:
        precision = Precision(saved.precision or fastest_precision(device, config.strategy))
        if precision is Precision.bf16 and not has_bf16(device):
            raise UserError(
                f"This run was started in bf16, which hardware.device={device} does not support; "
                "resume it on a device that does, or start it over with fresh=true."
            )
    micro_batch_size = choose_micro_batch_size(config, device)
    is_deterministic = config.deterministic and device.type == "cuda"
    if is_deterministic:
        prepare_deterministic_kernels()
    return Hardware(
        device,
        precision,
        batch_size if isinstance(micro_batch_size, str) else micro_batch_size,
        choose_compile(config, device, saved),
        config.checkpoint_activations,
        config.strategy if process_group.size > 1 else Strategy.none,
        process_group,
        auto_micro_batch_size=micro_batch_size == AUTO,
        deterministic=is_deterministic,
    )


def choose_micro_batch_size(config: HardwareConfig, device: torch.device) -> int | str:
    """Return hardware.micro_batch_size; where it is null, what suits the device.

    A GPU takes as many blocks as fit into its memory; a CPU is no faster with more than a few.
    """
    if config.micro_batch_size is not None:
        return config.micro_batch_size
    alone = config.strategy is Strategy.none
    return AUTO if alone and queues_work(device) else MICRO_BATCH_SIZE


def choose_compile(config: HardwareConfig, device: torch.device, saved: Choices) -> bool | None:
    """Return whether to compile layers; None if that depends on the length of the run."""
    if isinstance(config.compile, bool):
        return config.compile
    return saved.compile if device.type == "cuda" else False


def find_process_group(config: HardwareConfig) -> ProcessGroup:
    """Return the process group of this run; a group of one where hardware.strategy is none.

    Raises:
        UserError: torchrun started several processes, but the config is for one.
    """
    if config.strategy is Strategy.none:
        if is_distributed():
            raise UserError(
                f"torchrun started {os.environ['WORLD_SIZE']} processes, but this run uses one; "
                "add hardware=ddp or hardware=fsdp."
            )
        return ProcessGroup()
    return join_process_group()


def find_device(name: str) -> torch.device:
    """Return the device called `name`: auto, cpu, mps, cuda or cuda:N.

    Raises:
        UserError: torch does not find it.
    """
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
        available = f"{counts[kind]} of them" if counts[kind] else "none"
        raise UserError(
            f"hardware.device is {name!r}, but torch finds {available} here; try hardware=cpu."
        )
    return torch.device(name)


def fastest_precision(device: torch.device, strategy: Strategy) -> Precision:
    """Return what precision=auto means: bf16 where it is native, fp16 on other NVIDIA GPUs."""
    if has_bf16(device):
        return Precision.bf16
    # Tensor cores without bf16, as of a T4 or V100; FSDP has no loss scaling.
    fp16 = device.type == "cuda" and strategy is not Strategy.fsdp
    return Precision.fp16 if fp16 else Precision.fp32


def has_bf16(device: torch.device) -> bool:
    """Check whether `device` supports bf16 natively, without emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
