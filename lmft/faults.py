"""When the machine runs out of something: what libraries say then, and the way out."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmft.errors import Fault, UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_WORDS = (  # of libraries that keep the number to themselves, in Rust, C++ and SQL
    "no space left on device",
    "disk quota exceeded",
    "file too large",
    "database or disk is full",
)
MEMORY_WORDS = ("out of memory", "not enough memory", "allocate memory", "bad_alloc")
LESS_MEMORY = "dataset.block_size, or add hardware.checkpoint_activations=true."


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Inside, `path` is written.

    Raises:
        Fault: there is no room for it on its disk.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, Fault) or not is_disk_full(error):
            raise
        raise disk_fault(path) from error


@contextmanager
def writable(knob: str, path: Path) -> Iterator[None]:
    """Inside, folders are made at `path`, where `knob` leads.

    Raises:
        UserError: something else is there.
        Fault: the machine does not allow it.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        raise refused_place(knob, error, path) from error


def refused_place(knob: str, error: OSError, path: Path) -> UserError | Fault:
    """`path`, where `knob` leads, can't be written to: by whose fault, and the way out."""
    place = Path(error.filename or path)
    if isinstance(error, NotADirectoryError | FileExistsError):
        file = next((some for some in [place, *place.parents] if some.exists()), place)
        return UserError(f"{knob} leads to {file}, which is a file, not a folder; choose another.")
    return Fault(
        f"{knob} leads to {place}, which can't be written to ({error.strerror}); let it be, or "
        f"choose another {knob}."
    )


def disk_fault(path: Path | str) -> Fault:
    """There is no room for `path`."""
    return Fault(
        f"There is no room left on the disk for {Path(path).absolute()}; make some, then give the "
        "same command again, which goes on from there."
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether a library says so, in its own way."""
    numbered = isinstance(error, OSError) and error.errno in FULL
    return numbered or any(words in str(error).lower() for words in FULL_WORDS)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library says so: torch of any device, NumPy, or the kernel."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError)
        and any(words in str(error).lower() for words in MEMORY_WORDS)
    )


def as_fault(error: BaseException) -> Fault | None:
    """`error`, or what it came of, as a fault of the machine; None if it is none."""
    chain, links = [error], {id(error)}
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and id(cause) not in links:
        chain.append(cause)
        links.add(id(cause))
    known = next((link for link in chain if isinstance(link, Fault)), None)
    if known is not None:
        return known
    full = next((link for link in chain if is_disk_full(link)), None)
    if full is not None:
        return disk_fault(getattr(full, "filename", None) or Path.cwd())
    if any(is_out_of_memory(link) for link in chain):
        return Fault(
            f"Memory ran out; lower hardware.micro_batch_size or {LESS_MEMORY[:-1]}; lmft plan "
            "tells what a run takes."
        )
    lost = next((link for link in chain if isinstance(link, OSError) and link.filename), None)
    if lost is not None:
        return Fault(
            f"{lost.filename} can't be used ({lost.strerror}); see that it is there, and can be "
            "read and written."
        )
    return None
