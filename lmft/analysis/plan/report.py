"""What `lmft plan` prints: the estimate, and the knob to change where it would not fit."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmft.analysis.plan.duration import Pace, Work
from lmft.analysis.plan.estimate import Disk, Memory
from lmft.config.schema import RunConfig, Strategy
from lmft.hardware.memory import memory_for_each
from lmft.output.terminal import readable_size
from lmft.runs.run_id import model_label
from lmft.trainer.components import Components


def advise(
    config: RunConfig, components: Components, processes: int, memory: Memory, disk: Disk
) -> list[str]:
    """A sentence for each thing that would not fit."""
    found = []
    device = components.hardware.device
    room = memory_for_each(device, processes)
    if memory.total > room:
        size = min(components.hardware.micro_batch_size, config.trainer.batch_size)
        knobs = " or ".join(find_knobs(config, memory, room, size))
        found.append(
            f"A process would take {readable_size(memory.total)}, but {device} has "
            f"{readable_size(room)} for each; try {knobs}."
        )
    if disk.while_running > disk.free:
        found.append(
            f"Checkpoints would take {readable_size(disk.while_running)}, but at "
            f"run_root={config.run_root} {readable_size(disk.free)} are free; try run_root=PATH on "
            "another disk, or trainer.checkpoint_minutes=null."
        )
    return found


def find_knobs(config: RunConfig, memory: Memory, room: int, size: int) -> list[str]:
    """What makes a run with micro-batches of `size` smaller, first what costs only time."""
    hardware, knobs = config.hardware, []
    fixed = memory.total - memory.activations - memory.never_at_once
    if fixed < room:
        fitting = int(size * (room - fixed) / max(1, memory.activations))
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


PARTS = {
    "process": "the process, its libraries and tokens",
    "weights": "weights",
    "gradients": "gradients",
    "gathered": "gathered from other processes",
    "optimizer": "optimizer",
    "activations": "activations",
    "loss_chunk": "loss chunk",
    "never_at_once": "never at once",
    "allocator": "kept by the allocator",
}


def show(
    console: Console,
    config: RunConfig,
    components: Components,
    processes: int,
    memory: Memory,
    work: Work,
    pace: Pace | None,
    disk: Disk,
) -> None:
    """What the run does, and what it takes."""
    for name, fact in components.describe().items():
        label = model_label(config.model) + ", " if name == "model" else ""
        _say(console, name, label + fact)
    size = config.trainer.batch_size
    _say(
        console,
        "work",
        f"{work.steps:,} steps of {size} blocks of {config.dataset.block_size} tokens, "
        f"{work.evaluations} evaluations, {work.windows:,} windows scored",
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("memory" if processes == 1 else f"memory of each of {processes} processes")
    table.add_column("MiB", justify="right", no_wrap=True)
    for part, label in PARTS.items():
        if count := getattr(memory, part):
            table.add_row(label, f"{count / 2**20:,.1f}")
    table.add_row("at the highest", f"{memory.total / 2**20:,.1f}", style="bold")
    console.print(table)
    _say(
        console,
        "disk",
        f"{readable_size(disk.kept)} in the end, at most {readable_size(disk.while_running)} on "
        f"the way ({readable_size(disk.checkpoint)} a checkpoint), {readable_size(disk.free)} "
        f"free; {readable_size(disk.cache)} of tokens in the cache",
    )
    _say(console, "time", tell_time(pace, work, processes))


def _say(console: Console, what: str, fact: str) -> None:
    console.print(Text.assemble((what, "bold"), " ", fact), soft_wrap=True)


def tell_time(pace: Pace | None, work: Work, processes: int) -> str:
    """The expected time, in words."""
    if pace is None:
        return "not measured, and activations only estimated: a step has no room here"
    text = (
        f"about {readable_time(pace.seconds(work))} to train and score: "
        f"{1000 * pace.step:,.1f} ms a step, {1000 * pace.window:,.1f} ms a window scored"
    )
    return text if processes == 1 else f"{text}; measured in one process, not in {processes}"


def readable_time(seconds: float) -> str:
    """`seconds` in the two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
