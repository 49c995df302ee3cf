"""Training steps, timed first and then under torch's profiler."""

from collections.abc import Iterator

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lmft.analysis.profiling.operators import BATCH, STEP, Operation, find_operations
from lmft.config.schema import RunConfig
from lmft.hardware.allocator import peak_memory
from lmft.hardware.mfu import Limit
from lmft.objective import Batch
from lmft.optimizer import build_optimizer
from lmft.trainer.components import Components
from lmft.trainer.step import Step, train

WARM_UP, WATCHED = 2, 3  # steps before the measured ones, and after them, under the profiler


def measure(
    config: RunConfig, components: Components, limit: Limit, count: int
) -> tuple[list[Step], int, list[Operation]]:
    """Steps that nobody watches, the peak memory up to them in bytes, and operations of others.

    Watching makes small operations slower, so times are taken without it.
    """
    trainer, device = config.trainer, components.hardware.device
    batches, on_device = components.batches["train"], device.type == "cuda"
    if on_device:
        torch.cuda.reset_peak_memory_stats(device)  # the limit was measured on large matrices
    steps = train(
        components.network,
        marked(batches.training(trainer.batch_size, config.seed, trainer.shuffle)),
        build_optimizer(config.optimizer, components.network.model),
        components.hardware,
        trainer,
        range(1, WARM_UP + count + WATCHED + 1),
        config.seed,
        limit,
    )
    measured = [next(steps) for _ in range(WARM_UP + count)][WARM_UP:]
    if on_device:
        memory = torch.cuda.max_memory_allocated(device)
    else:
        memory = peak_memory()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    with profile(activities=activities) as watched:
        for _ in range(WATCHED):
            with record_function(STEP):
                next(steps)
        if on_device:
            torch.cuda.synchronize(device)
    return measured, memory, find_operations(watched.events() or [], on_device)


def marked(batches: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
    """The same batches, the making of each told to the profiler."""
    while True:
        with record_function(BATCH):
            batch = next(batches)
        yield batch
