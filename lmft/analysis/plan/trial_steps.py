"""Take a few training steps as configured, to measure memory and time."""

from dataclasses import replace
from importlib import import_module
from tempfile import TemporaryDirectory

from lmft.analysis.plan.activations import StepMemory, find_step_memory
from lmft.analysis.plan.duration import Timing, measure_timing
from lmft.analysis.plan.estimate import (
    Memory,
    add_allocator_overhead,
    estimate_memory,
    gradient_bytes,
)
from lmft.config.schema import RunConfig
from lmft.hardware.memory import context_memory, free_memory
from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.trainer.components import Components


def load_libraries(config: RunConfig) -> None:
    """Import what a run imports on its way, so that its memory counts; use a temporary store."""
    for name in ("pyarrow.parquet", "pandas"):  # of write_sums; pyarrow imports pandas
        import_module(name)
    if isinstance(config.tracker, MlflowTracker):
        with TemporaryDirectory() as folder:
            replace(config.tracker, uri=f"sqlite:///{folder}/mlflow.db").check()


def run_trial_steps(
    config: RunConfig, components: Components, processes: int, process: int, optimizer: int
) -> tuple[Memory, Timing | None]:
    """Return the memory of one of `processes`, and the timing; None if memory is too small for it.

    Args:
        config: the run.
        components: of this process.
        processes: that share the run.
        process: bytes that a process takes without the model.
        optimizer: bytes of the whole optimizer state.
    """
    network, device = components.network, components.hardware.device
    available = free_memory(device) - optimizer
    step: StepMemory | None = None
    if 2 * gradient_bytes(network.models) <= available:
        step = find_step_memory(config, components, processes, available)
    single = estimate_memory(config, components, 1, step, process, optimizer)
    if processes > 1:  # this process takes all micro-batches, so gradients exist from the first on
        single = replace(single, overlap=0)
    timing, used = None, None
    if step is not None and not step.extrapolated:
        timing, used = measure_timing(config, components, step.micro_batch_size)
    memory = estimate_memory(config, components, processes, step, process, optimizer)
    if used is not None:  # which counts tensors alone
        used += context_memory(device)
    return add_allocator_overhead(memory, single, used, device), timing
