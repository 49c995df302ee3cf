"""Time training steps, then run some more under torch's profiler.

On CUDA the timed steps are launched as graphs, as in a run; the profiled ones one operation after
the other, since the kernels of a graph belong to no operator.
"""

from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lmft.analysis.profiling.operators import STEP, OperatorCall, find_operator_calls
from lmft.hardware.allocator import peak_memory
from lmft.trainer.step import Step, read_late, take_steps
from lmft.trainer.training import Training

WARM_UP, PROFILED = 4, 3  # steps before the timed ones, and after them, under the profiler


@dataclass(frozen=True)
class Measurement:
    """What the steps took."""

    steps: list[Step]  # timed ones
    memory: int  # the peak up to them in bytes, of the accelerator if there is one
    host_memory: int  # the peak of this process, in bytes
    calls: list[OperatorCall]  # of the profiled steps
    launches: float  # of kernels on an accelerator, in a profiled step


def measure(training: Training, count: int) -> Measurement:
    """Time `count` steps without the profiler, which slows small operators, then profile others."""
    device = training.components.hardware.device
    on_device = device.type == "cuda"
    last = WARM_UP + count + PROFILED
    if on_device:
        torch.cuda.reset_peak_memory_stats(device)  # excludes the large matrices of the estimate
    timed = list(read_late(training, islice(take_steps(training, 1, last), WARM_UP + count)))
    host_memory = peak_memory()
    memory = torch.cuda.max_memory_allocated(device) if on_device else host_memory
    by_operation = replace(training, graphs=None)
    steps = take_steps(by_operation, WARM_UP + count + 1, last)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    with profile(activities=activities) as profiler:
        for _ in range(PROFILED):
            with record_function(STEP):
                next(steps).read(training)
        if on_device:
            torch.cuda.synchronize(device)
    events = profiler.events() or []
    kernels = sum(event.device_type.name == "CUDA" for event in events)
    calls = find_operator_calls(events, on_device)
    return Measurement(timed[WARM_UP:], memory, host_memory, calls, kernels / PROFILED)
