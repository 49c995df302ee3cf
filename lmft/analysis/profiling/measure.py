"""Time training steps, then run some more under torch's profiler."""

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lmft.analysis.profiling.operators import STEP, OperatorCall, find_operator_calls
from lmft.hardware.allocator import peak_memory
from lmft.trainer.step import Step, Training, training_steps

WARM_UP, PROFILED = 2, 3  # steps before the timed ones, and after them, under the profiler


def measure(training: Training, count: int) -> tuple[list[Step], int, list[OperatorCall]]:
    """Time `count` steps without the profiler, which slows small operators, then profile others.

    Returns:
        The timed steps, the peak memory up to them in bytes, and the calls of the profiled steps.
    """
    device = training.components.hardware.device
    on_device = device.type == "cuda"
    steps = training_steps(training, last=WARM_UP + count + PROFILED)
    if on_device:
        torch.cuda.reset_peak_memory_stats(device)  # excludes the large matrices of the estimate
    timed = [next(steps) for _ in range(WARM_UP + count)][WARM_UP:]
    if on_device:
        memory = torch.cuda.max_memory_allocated(device)
    else:
        memory = peak_memory()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    with profile(activities=activities) as profiler:
        for _ in range(PROFILED):
            with record_function(STEP):
                next(steps)
        if on_device:
            torch.cuda.synchronize(device)
    return timed, memory, find_operator_calls(profiler.events() or [], on_device)
