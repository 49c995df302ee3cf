"""The story of `lmft plan`: what would a run take, before anything of it starts?"""

from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from lmft.compose import compose
from lmft.config import RunConfig, Strategy, build, check_types
from lmft.dataset import open_splits
from lmft.errors import UserError
from lmft.materials import Materials, gather
from lmft.plan.advice import advise
from lmft.plan.device import free_memory, start_count, used_memory
from lmft.plan.disk import find_disk
from lmft.plan.memory import (
    Memory,
    find_memory,
    gradient_bytes,
    optimizer_bytes,
    weight_bytes,
    with_allocator,
)
from lmft.plan.pace import Pace, find_work, measure_pace
from lmft.plan.passes import Passes, find_passes
from lmft.plan.screen import show
from lmft.processes import count_processes
from lmft.screen import Screen
from lmft.tracker import MlflowTracker


def tell(words: list[str], conf: Path) -> None:
    """The command: `lmft plan [GROUP=CHOICE ...] [KNOB=VALUE ...]`.

    Raises:
        UserError: something in the config can't be done.
        FloatingPointError: a loss or gradient is not finite.
    """
    typed = check_types(compose(conf, words))
    config: RunConfig = build(typed)
    processes = count_processes(config.hardware)
    splits = open_splits(config.dataset)
    if "train" not in splits:
        raise UserError("dataset.train has no value; set it to a file, a folder or a glob.")
    console = Screen()
    with console.status("opening the corpus and the model"):
        load_libraries(config)
        materials = gather(config, splits)
        start_count(materials.hardware.device)
    if processes > 1 and config.hardware.strategy is Strategy.fsdp:  # which keeps all outputs
        materials = replace(materials, network=replace(materials.network, lean=nullcontext()))
    with console.status("a few steps"):
        process = used_memory(materials.hardware.device) - weight_bytes(materials.network.models)
        optimizer = optimizer_bytes(config, materials.network)
        memory, pace = rehearse(config, materials, processes, max(0, process), optimizer)
    work, disk = find_work(config, materials), find_disk(config, materials, optimizer)
    show(console, config, materials, processes, memory, work, pace, disk)
    for sentence in advise(config, materials, processes, memory, disk):
        console.print(sentence, style="yellow", soft_wrap=True)


def load_libraries(config: RunConfig) -> None:
    """Let what a run loads on its way take its memory; the tracker on a store that goes at once."""
    for name in ("pyarrow.parquet", "pandas"):  # to keep sums in; pyarrow looks for pandas
        import_module(name)
    if isinstance(config.tracker, MlflowTracker):
        with TemporaryDirectory() as folder:
            replace(config.tracker, uri=f"sqlite:///{folder}/mlflow.db").check()


def rehearse(
    config: RunConfig, materials: Materials, processes: int, process: int, optimizer: int
) -> tuple[Memory, Pace | None]:
    """The memory of one of `processes`, and how fast this one is; None where it has no room.

    Args:
        config: the run.
        materials: of this process.
        processes: that share the run.
        process: bytes that one takes without the model.
        optimizer: bytes of its whole state.
    """
    network, device = materials.network, materials.hardware.device
    room = free_memory(device) - optimizer
    passes: Passes | None = None
    if 2 * gradient_bytes(network.models) <= room:
        passes = find_passes(config, materials, processes, room)
    alone = find_memory(config, materials, 1, passes, process, optimizer)
    if processes > 1:  # it takes their micro-batches one after another, so gradients are there
        alone = replace(alone, never_at_once=0)
    pace, used = None, None
    if passes is not None and not passes.estimated:
        pace, used = measure_pace(config, materials, passes.blocks)
    found = find_memory(config, materials, processes, passes, process, optimizer)
    return with_allocator(found, alone, used, device), pace
