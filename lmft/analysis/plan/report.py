"""Print the plan of a run, and the knob to change if it does not fit."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmft.analysis.plan.duration import Timing, Workload
from lmft.analysis.plan.estimate import DiskSpace, Memory
from lmft.config.schema import RunConfig
from lmft.config.training_knobs import Strategy
from lmft.hardware.memory import memory_per_process
from lmft.output.bars import readable_time
from lmft.output.terminal import counted, print_sentence, readable_size
from lmft.runs.run_id import model_label
from lmft.trainer.components import Components


def advise(
    config: RunConfig, components: Components, processes: int, memory: Memory, disk: DiskSpace
) -> list[str]:
    """Return a sentence for each thing that would not fit."""
    sentences = []
    device = components.hardware.device
    available = memory_per_process(device, processes)
    if memory.total > available:
        size = min(components.hardware.micro_batch_size, config.trainer.batch_size)
        knobs = " or ".join(suggest_knobs(config, memory, available, size))
        sentences.append(
            f"A process would take {readable_size(memory.total)}, but {device} has "
            f"{readable_size(available)} for each; try {knobs}."
        )
    if disk.peak > disk.free:
        sentences.append(
            f"Checkpoints would take {readable_size(disk.peak)}, but at "
            f"run_root={config.run_root} {readable_size(disk.free)} are free; try run_root=PATH on "
            "another disk, or trainer.checkpoint_minutes=null."
        )
    return sentences


def suggest_knobs(config: RunConfig, memory: Memory, available: int, size: int) -> list[str]:
    """Return knobs that reduce the memory; first those that only cost time.

    Args:
        config: the run.
        memory: of a process.
        available: bytes for each process.
        size: blocks of a micro-batch.
    """
    hardware, knobs = config.hardware, []
    fixed = memory.total - memory.activations - memory.overlap
    if fixed < available:
        fitting = int(size * (available - fixed) / max(1, memory.activations))
        if 1 <= fitting < size:
            return [f"hardware.micro_batch_size={fitting}"]
        if size > 1:
            knobs.append("hardware.micro_batch_size=1")
        if not hardware.checkpoint_activations:
            knobs.append("hardware.checkpoint_activations=true")
        knobs.append(f"dataset.block_size={max(2, config.dataset.block_size // 2)}")
    if memory.optimizer > memory.weights:
        knobs.append("optimizer=adafactor")
    if hardware.strategy is not Strategy.fsdp:
        knobs.append("hardware=fsdp in several processes")
    return knobs or ["a smaller model"]


LABELS = {  # of the fields of Memory
    "process": "process, libraries and token ids",  # on a GPU, what holds no tensors
    "weights": "weights",
    "gradients": "gradients",
    "gathered": "gathered from other processes",
    "optimizer": "optimizer state",
    "activations": "activations",
    "loss_chunk": "loss chunk",
    "overlap": "freed before the peak",
    "allocator_overhead": "allocator overhead",
}


def show(
    console: Console,
    config: RunConfig,
    components: Components,
    processes: int,
    memory: Memory,
    work: Workload,
    timing: Timing | None,
    disk: DiskSpace,
) -> None:
    """Print what the run does, and what memory, disk space and time it takes."""
    for name, fact in components.describe().items():
        label = model_label(config.model) + ", " if name == "model" else ""
        _show_fact(console, name, label + fact)
    size = config.trainer.batch_size
    _show_fact(
        console,
        "work",
        f"{counted(work.steps, 'step')} of {size} blocks of {config.dataset.block_size} tokens, "
        f"{counted(work.evaluations, 'evaluation')}, {counted(work.windows, 'window')} scored",
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("memory" if processes == 1 else f"memory of each of {processes} processes")
    table.add_column("MiB", justify="right", no_wrap=True)
    for part, label in LABELS.items():
        if count := getattr(memory, part):
            table.add_row(label, f"{count / 2**20:,.1f}")
    table.add_row("peak", f"{memory.total / 2**20:,.1f}", style="bold")
    console.print(table)
    _show_fact(
        console,
        "disk",
        f"{readable_size(disk.final)} when finished, at most {readable_size(disk.peak)} while "
        f"running ({readable_size(disk.checkpoint)} a checkpoint), {readable_size(disk.free)} "
        f"free; {readable_size(disk.cache)} of tokens in the cache",
    )
    _show_fact(console, "time", describe_time(timing, work, processes))


def _show_fact(console: Console, name: str, fact: str) -> None:
    print_sentence(Text.assemble((name, "bold"), " ", fact), console)


def describe_time(timing: Timing | None, work: Workload, processes: int) -> str:
    """Describe the expected time in words."""
    if timing is None:
        return "not measured, and activations are extrapolated: there is too little memory here"
    text = (
        f"about {readable_time(timing.total(work))} to train and score: "
        f"{1000 * timing.step:,.1f} ms a step, {1000 * timing.window:,.1f} ms a window scored"
    )
    return text if processes == 1 else f"{text}; measured in one process, not in {processes}"
