"""The story of `lmft profile`: where does a training step's time go, here and as configured?"""

import os
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lmft.allocator import peak_memory
from lmft.arithmetic import Limit, find_limit
from lmft.compose import compose
from lmft.config import RunConfig, read_config
from lmft.dataset import open_splits
from lmft.errors import UserError
from lmft.materials import Materials, gather
from lmft.objective import Batch
from lmft.optimizer import build_optimizer
from lmft.profile.operations import BATCH, STEP, Operation, find_operations, shares
from lmft.profile.screen import show_operations, show_speed
from lmft.profile.words import advise, tell_shares
from lmft.runs import model_label
from lmft.screen import Screen
from lmft.trainer import Step, train

WARM_UP, WATCHED = 2, 3  # steps before the measured ones, and after them, under the profiler


def tell(words: list[str], conf: Path) -> None:
    """The command: `lmft profile [steps=5] [GROUP=CHOICE ...] [KNOB=VALUE ...]`.

    Raises:
        UserError: something in the config can't be done.
        FloatingPointError: a loss or gradient is not finite.
    """
    # torch's profiler would tell of its own start and end.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    count, knobs = read_steps(words)
    config, _ = read_config(compose(conf, knobs))
    if config.dataset.train is None:
        raise UserError("dataset.train has no value; set it to a file, a folder or a glob.")
    console = Screen()
    with console.status("opening the corpus and the model"):
        materials = gather(config, open_splits(config.dataset, only=("train",)))
    hardware = materials.hardware
    if hardware.device.type not in ("cpu", "cuda"):
        raise UserError(
            f"hardware.device is {hardware.device}, where torch can't be watched; "
            "try hardware=cpu or hardware=cuda."
        )
    objective = materials.batches["train"].objective
    limit = find_limit(materials.network.model, hardware, causal=bool(objective.ahead))
    with console.status(f"{WARM_UP + count + WATCHED} steps"):
        measured, memory, operations = measure(config, materials, limit, count)
    show_speed(console, model_label(config.model), config, materials, measured, limit, memory)
    report(console, operations, measured, config, materials)


def read_steps(words: list[str]) -> tuple[int, list[str]]:
    """How many steps to measure, and the other words.

    Raises:
        UserError: it is no such number.
    """
    given = [word.removeprefix("steps=") for word in words if word.startswith("steps=")]
    count = given[-1] if given else "5"
    if not (count.isdecimal() and 1 <= int(count) <= 1000):
        raise UserError(f"steps must be a number from 1 to 1000, not {count!r}.")
    return int(count), [word for word in words if not word.startswith("steps=")]


def measure(
    config: RunConfig, materials: Materials, limit: Limit, count: int
) -> tuple[list[Step], int, list[Operation]]:
    """Steps that nobody watches, the peak memory up to them in bytes, and operations of others.

    Watching makes small operations slower, so times are taken without it.
    """
    trainer, device = config.trainer, materials.hardware.device
    batches, on_device = materials.batches["train"], device.type == "cuda"
    if on_device:
        torch.cuda.reset_peak_memory_stats(device)  # the limit was measured on large matrices
    steps = train(
        materials.network,
        marked(batches.training(trainer.batch_size, config.seed, trainer.shuffle)),
        build_optimizer(config.optimizer, materials.network.model),
        materials.hardware,
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


def report(
    console: Screen,
    operations: list[Operation],
    measured: list[Step],
    config: RunConfig,
    materials: Materials,
) -> None:
    """Where the time goes: in words, by operation, and what could be done about it."""
    families, phases = shares(operations, "family"), shares(operations, "phase")
    idle = 0.0
    if materials.hardware.device.type == "cuda":
        busy = sum(one.seconds for one in operations) / WATCHED
        idle = max(0.0, 1 - busy / statistics.median(step.seconds for step in measured))
        console.print(f"The device has nothing to do for {100 * idle:.0f} % of a step.")
    console.print("Where a step's time goes", style="bold")
    console.print(f"by family: {tell_shares(families)}", soft_wrap=True)
    console.print(f"by phase: {tell_shares(phases)}", soft_wrap=True)
    show_operations(console, operations, WATCHED)
    for sentence in advise(families, idle, config, materials.hardware):
        console.print(sentence, style="green", soft_wrap=True)
