"""The disk space that a run takes, and what is free there."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lmft.checkpoint import KEPT
from lmft.config import RunConfig
from lmft.materials import Materials
from lmft.plan.memory import weight_bytes
from lmft.runs import root_of


@dataclass(frozen=True)
class Disk:
    """Bytes."""

    checkpoint: int  # one of them: weights and optimizer
    while_running: int  # at most: checkpoints, one more while it is written, and best weights
    kept: int  # when it has finished
    cache: int  # the tokenized corpus, which is there already
    free: int  # where runs are kept


def find_disk(config: RunConfig, materials: Materials, optimizer: int) -> Disk:
    """What the run writes, `optimizer` bytes of state among it; texts and tables are small."""
    weights = weight_bytes([materials.network.model])
    checkpoint = weights + optimizer
    streams = [batches.blocks.stream for batches in materials.batches.values()]
    cache = sum(some.ids.nbytes + some.ends.nbytes + some.bytes.nbytes for some in streams)
    # Each checkpoint may name other best weights, and new ones are written before old ones go.
    most = (KEPT + 1) * (checkpoint + weights)
    return Disk(checkpoint, most, weights, cache, free_space(root_of(config.run_root)))


def free_space(folder: Path) -> int:
    """Bytes that are free where `folder` is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free
