"""Where a run computes: what may change its speed, but not what it learns."""

from dataclasses import dataclass
from enum import Enum

import torch

from lmft.errors import UserError


class Precision(Enum):
    """The number format of matrix products; weights stay in fp32."""

    auto = "auto"  # bf16 where the device computes it natively, else fp32
    fp32 = "fp32"
    bf16 = "bf16"


DTYPES = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16}


@dataclass
class HardwareConfig:
    """The `hardware` group."""

    device: str  # cpu, cuda, cuda:1, mps; auto: the first found of cuda, mps, cpu
    precision: Precision
    micro_batch_size: int  # blocks in memory at once
    compile: bool  # with torch.compile: a slower start, faster steps


@dataclass(frozen=True)
class Hardware:
    """What `HardwareConfig` comes to on this machine."""

    device: torch.device
    precision: Precision  # never auto
    micro_batch_size: int
    compile: bool

    def autocast(self) -> torch.autocast:
        """A context in which matrix products are computed in the run's precision."""
        dtype = DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32)

    def describe(self) -> str:
        """The device and precision, for a person."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"{self.device} ({torch.get_num_threads()} threads)"
        return f"{name}, {self.precision.value}"


def find_hardware(config: HardwareConfig) -> Hardware:
    """The hardware that `config` asks for.

    Raises:
        UserError: torch does not find it here.
    """
    if config.micro_batch_size < 1:
        raise UserError(
            f"hardware.micro_batch_size must be at least 1, not {config.micro_batch_size}."
        )
    device = find_device(config.device)
    precision = config.precision
    if precision is Precision.auto:
        precision = Precision.bf16 if has_bf16(device) else Precision.fp32
    return Hardware(device, precision, config.micro_batch_size, config.compile)


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
