"""The sizes that hardware.micro_batch_size=auto came to, so that going on repeats them.

Dropout's dice follow the micro-batch: of another size from some step on, a run would be another.
"""

from lmft.session import Session

SIZES = "micro_batch.json"  # in the run's folder: the first step of each size, and the size


def recall_size(session: Session, step: int) -> None:
    """Let `step`, and an evaluation just before it, have the size that was in force there."""
    hardware = session.materials.hardware
    if hardware.adapts:
        hardware.micro_batch_size = _known_size(session, step)


def keep_size(session: Session, step: int) -> None:
    """Remember the size in force from `step` on, if it is a new one."""
    hardware = session.materials.hardware
    if hardware.adapts and hardware.micro_batch_size < _known_size(session, step):
        known = session.folder.read_json(SIZES)
        session.folder.write_json(SIZES, {**known, str(step): hardware.micro_batch_size})
        session.log.tags({"micro_batch_size": str(hardware.micro_batch_size)})


def _known_size(session: Session, step: int) -> int:
    known = session.folder.read_json(SIZES)
    sizes = [int(size) for first, size in known.items() if int(first) <= step]
    return min([session.config.trainer.batch_size, *sizes])
