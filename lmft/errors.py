"""Exceptions that end a command, and what libraries raise when the machine runs out of something.

A `UserError` is the user's to fix, a `Fault` the machine's; each is one sentence with the way out.
"""

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """Something the user can mend: one sentence that names the knob, its value and the way out."""


class StoreUnavailable(UserError):
    """A store that does not answer now; it may do so later."""

    def __init__(self, what: str, way_out: str):
        super().__init__(f"{what}; {way_out}.")
        self.what = what


class RunLocked(RuntimeError):
    """Another process is at the same work."""


class VerificationError(RuntimeError):
    """A promise does not hold; its text says where."""


class Fault(RuntimeError):
    """The machine's, not the user's: one sentence that names what is wrong and the way out."""


class WorkerFailed(RuntimeError):
    """Another process of the run ended; its text says which and why."""


class Interrupted(BaseException):
    """A signal asked the run to end; not an Exception, so nothing swallows it on its way up."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number

    def __str__(self) -> str:
        return f"stopped by signal {self.signal_number}"


class Refused(BaseException):
    """Carries an error through a library that would swallow it and go on."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'train'?` for a near miss, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


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
