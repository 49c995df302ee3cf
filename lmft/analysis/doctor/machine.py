"""Devices with their memory, the precision of a run, cores and threads, the compiler."""

import math
import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from lmft.analysis.doctor.findings import Fact, Finding, Found, Kind
from lmft.config.training_knobs import AUTO, HardwareConfig, Precision
from lmft.errors import UserError
from lmft.hardware.device import fastest_precision, find_device, has_bf16
from lmft.hardware.memory import free_memory
from lmft.output.terminal import counted, readable_size

COMPILERS = ("g++", "clang++", "c++")
FEW = 2e9  # bytes of free memory, below which a small model is in danger
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def describe_machine(config: HardwareConfig) -> Found:
    """Yield the devices, memory, threads, and the precision of a run."""
    yield Fact("processor", f"{processor_name()}, {counted(usable_cores(), 'core')}")
    yield from check_threads(on_cpu=config.device == "cpu" or not torch.cuda.is_available())
    yield from describe_memory()
    yield from describe_gpus()
    try:
        device = find_device(config.device)
    except UserError as error:
        yield Finding(Kind.missing, str(error))
        return
    yield Fact("device", f"{device}, by hardware.device={config.device}")
    yield from describe_precision(config, device)
    yield from describe_compiler(config, device)


def processor_name() -> str:
    """Return the name of the processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may use at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with suppress(OSError, ValueError):
        quota, period = map(int, CPU_QUOTA.read_text().split())  # "max": none
        return max(1, min(cores or 1, math.ceil(quota / period)))
    return cores or 1


def check_threads(on_cpu: bool) -> Found:
    """Yield what is wrong with the number of threads."""
    cores, threads = usable_cores(), torch.get_num_threads()
    named = os.environ.get("OMP_NUM_THREADS")
    if threads > cores:
        what = f"torch uses {threads} threads, but this process may use {counted(cores, 'core')}"
        yield Finding(Kind.slow, f"{what}; set OMP_NUM_THREADS={cores}.")
    elif named and on_cpu and threads < cores:
        what = (
            f"OMP_NUM_THREADS is {named}, so that a run on the CPU uses {threads} of {cores} cores"
        )
        yield Finding(Kind.slow, f"{what}; unset it.")


def describe_memory() -> Found:
    """Yield the memory of the host."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    total, free = memory.total, memory.available
    with suppress(OSError, ValueError):
        total = min(total, int(MEMORY_LIMIT.read_text()))
        free = min(free, total)
    swapped = f"{readable_size(swap.total)} of swap" if swap.total else "no swap"
    yield Fact("memory", f"{readable_size(free)} of {readable_size(total)} free, {swapped}")
    if free < FEW:
        what = f"Only {readable_size(free)} of memory are free"
        yield Finding(Kind.missing, f"{what}; end other programs, or see what lmft plan says.")
    if not swap.total:
        what = "There is no swap, so that a run which needs more memory than is free is killed"
        yield Finding(Kind.note, f"{what}; lmft plan says how much one needs.")


def describe_gpus() -> Found:
    """Yield each GPU, or why torch finds none though the driver is installed."""
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            total = torch.cuda.get_device_properties(index).total_memory
            free = free_memory(torch.device("cuda", index))
            name = torch.cuda.get_device_name(index)
            yield Fact(
                f"cuda:{index}", f"{name}, {readable_size(free)} of {readable_size(total)} free"
            )
            if free < total / 2:
                what = f"Other programs hold {readable_size(total - free)} of cuda:{index}"
                yield Finding(Kind.slow, f"{what}; end them, or choose another hardware.device.")
    elif torch.backends.mps.is_available():
        yield Fact("mps", "Apple GPU, which shares the host's memory")
    elif shutil.which("nvidia-smi"):
        yield Finding(Kind.slow, why_no_gpu())


def why_no_gpu() -> str:
    """Return why torch finds no GPU where NVIDIA's driver is installed, and the way out."""
    if torch.version.cuda is None:
        return (
            f"NVIDIA's driver is here, but torch {torch.__version__} is a build without CUDA; "
            "install one with it: https://pytorch.org/get-started/locally"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"torch finds no GPU, with CUDA_VISIBLE_DEVICES={visible!r}; unset it."
    return (
        f"NVIDIA's driver is here, but torch {torch.__version__} finds no GPU; run nvidia-smi, and "
        f"update the driver if it is older than CUDA {torch.version.cuda}."
    )


def describe_precision(config: HardwareConfig, device: torch.device) -> Found:
    """Yield the precision of a run on `device`, and why."""
    native = has_bf16(device)
    kind = {"cuda": "GPU", "mps": "GPU", "cpu": "CPU"}[device.type]
    if config.precision is not Precision.auto:
        yield Fact("precision", f"{config.precision.value}, as set")
        if config.precision is Precision.bf16 and not native:
            what = f"hardware.precision is bf16, which this {kind} only emulates"
            yield Finding(Kind.slow, f"{what}; set it to auto.")
        return
    chosen = fastest_precision(device, config.strategy)
    why = {
        Precision.bf16: f"this {kind} computes in it natively",
        Precision.fp16: f"this {kind} has tensor cores, but no native bf16",
        Precision.fp32: f"this {kind} has no native bf16",
    }
    yield Fact("precision", f"{chosen.value} by hardware.precision=auto: {why[chosen]}")


def describe_compiler(config: HardwareConfig, device: torch.device) -> Found:
    """Yield the C++ compiler that hardware.compile needs.

    Args:
        config: of the hardware.
        device: of a run.
    """
    named = os.environ.get("CXX")
    path = next(filter(None, map(shutil.which, [named] if named else COMPILERS)), None)
    yield Fact("compiler", path or "none")
    if path is not None or config.compile is False:
        return
    if config.compile is True:
        way_out = "install g++, or set hardware.compile=false"
        yield Finding(Kind.missing, f"hardware.compile=true needs a C++ compiler; {way_out}.")
    elif device.type == "cuda" and config.compile == AUTO:
        what = "Long runs on this GPU compile their layers, which needs a C++ compiler"
        yield Finding(Kind.slow, f"{what}; install g++.")
    else:
        what = "There is no C++ compiler, which hardware.compile=true would need"
        yield Finding(Kind.note, f"{what}: install g++.")
