"""A few training steps as configured, to measure what a run takes."""

from dataclasses import replace
from importlib import import_module
from tempfile import TemporaryDirectory

from lmft.analysis.plan.activations import Passes, find_passes
from lmft.analysis.plan.duration import Pace, measure_pace
from lmft.analysis.plan.estimate import (
    Memory,
    find_memory,
    gradient_bytes,
    with_allocator,
)
from lmft.config.schema import RunConfig
from lmft.hardware.memory import free_memory
from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.trainer.components import Components


def load_libraries(config: RunConfig) -> None:
    """Let what a run loads on its way take its memory; the tracker on a store that goes at once."""
    for name in ("pyarrow.parquet", "pandas"):  # to keep sums in; pyarrow looks for pandas
        import_module(name)
    if isinstance(config.tracker, MlflowTracker):
        with TemporaryDirectory() as folder:
            replace(config.tracker, uri=f"sqlite:///{folder}/mlflow.db").check()


def rehearse(
    config: RunConfig, components: Components, processes: int, process: int, optimizer: int
) -> tuple[Memory, Pace | None]:
    """The memory of one of `processes`, and how fast this one is; None where it has no room.

    Args:
        config: the run.
        components: of this process.
        processes: that share the run.
        process: bytes that one takes without the model.
        optimizer: bytes of its whole state.
    """
    network, device = components.network, components.hardware.device
    room = free_memory(device) - optimizer
    passes: Passes | None = None
    if 2 * gradient_bytes(network.models) <= room:
        passes = find_passes(config, components, processes, room)
    alone = find_memory(config, components, 1, passes, process, optimizer)
    if processes > 1:  # it takes their micro-batches one after another, so gradients are there
        alone = replace(alone, never_at_once=0)
    pace, used = None, None
    if passes is not None and not passes.estimated:
        pace, used = measure_pace(config, components, passes.blocks)
    found = find_memory(config, components, processes, passes, process, optimizer)
    return with_allocator(found, alone, used, device), pace
