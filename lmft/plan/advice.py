"""What would not fit, and the knob to turn."""

from lmft.archive import readable_size
from lmft.config import RunConfig, Strategy
from lmft.materials import Materials
from lmft.plan.device import memory_for_each
from lmft.plan.disk import Disk
from lmft.plan.memory import Memory


def advise(
    config: RunConfig, materials: Materials, processes: int, memory: Memory, disk: Disk
) -> list[str]:
    """A sentence for each thing that would not fit."""
    found = []
    device = materials.hardware.device
    room = memory_for_each(device, processes)
    if memory.total > room:
        size = min(materials.hardware.micro_batch_size, config.trainer.batch_size)
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
