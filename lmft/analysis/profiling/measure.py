"""Time training steps, then run some more under torch's profiler."""

from collections.abc import Iterator

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lmft.analysis.profiling.operators import BATCH, STEP, OperatorCall, find_operator_calls
from lmft.config.schema import RunConfig
from lmft.hardware.allocator import peak_memory
from lmft.hardware.mfu import FlopsEstimate
from lmft.objective import Batch
from lmft.optimizer import build_optimizer
from lmft.trainer.components import Components
from lmft.trainer.step import Step, train

WARM_UP, PROFILED = 2, 3  # steps before the timed ones, and after them, under the profiler


def measure(
    config: RunConfig, components: Components, flops: FlopsEstimate, count: int
) -> tuple[list[Step], int, list[OperatorCall]]:
    """Time `count` steps without the profiler, which slows small operators, then profile others.

    Returns:
        The timed steps, the peak memory up to them in bytes, and the calls of the profiled steps.
    """
    trainer, device = config.trainer, components.hardware.device
    batches, on_device = components.batches["train"], device.type == "cuda"
    if on_device:
        torch.cuda.reset_peak_memory_stats(device)  # excludes the large matrices of estimate_flops
    steps = train(
        components.network,
        record_batches(batches.training(trainer.batch_size, config.seed, trainer.shuffle)),
        build_optimizer(config.optimizer, components.network.model),
        components.hardware,
        trainer,
        range(1, WARM_UP + count + PROFILED + 1),
        config.seed,
        flops,
    )
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


def record_batches(batches: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
    """Yield the same batches; the profiler records the making of each as one event."""
    while True:
        with record_function(BATCH):
            batch = next(batches)
        yield batch
