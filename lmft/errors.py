"""Exceptions that end a command, and the translation of library errors into them.

A `UserError` is for the user to fix, a `Fault` is a problem of the machine. The message of either
is one sentence that names the way out.
"""

import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# torch's error for an operation in its deterministic mode.
NONDETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")


class UserError(ValueError):
    """A mistake that the user can fix: one sentence that names the knob, its value and a fix."""


class StoreUnavailable(UserError):
    """A tracking store that does not respond now, but may respond later.

    Args:
        what: the problem, as the first half of a sentence; kept for callers that retry.
        way_out: what the user can do, as its second half.
    """

    def __init__(self, what: str, way_out: str):
        super().__init__(f"{what}; {way_out}.")
        self.what = what


class RunLocked(RuntimeError):
    """Another process holds the lock of this run or study."""


class VerificationError(RuntimeError):
    """A check of `lmft verify` failed; the message names what differs."""


class Fault(RuntimeError):
    """A problem of the machine: one sentence that names it and the way out."""


class WorkerFailed(RuntimeError):
    """Another process of the process group failed; the message says which and why."""


class Interrupted(BaseException):
    """A signal that ends a command arrived. Not an `Exception`, so that no library catches it."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number

    def __str__(self) -> str:
        return f"stopped by signal {self.signal_number}"


class Refused(BaseException):
    """Wraps an error to pass it through a library that catches every `Exception`."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'train'?` if `word` is close to a known one, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text without its period; if it has none, its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")


DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

DISK_FULL_MESSAGES = (  # of libraries in Rust, C++ and SQL that do not pass on the errno
    "no space left on device",
    "disk quota exceeded",
    "file too large",
    "database or disk is full",
)

OUT_OF_MEMORY_MESSAGES = ("out of memory", "not enough memory", "allocate memory", "bad_alloc")

# Continues a sentence that ends in "lower".
LESS_MEMORY = "dataset.block_size, or add hardware.checkpoint_activations=true"


@contextmanager
def disk_full_as_fault(path: Path) -> Iterator[None]:
    """Raise a `Fault` if the disk is full while the body writes `path`.

    Raises:
        Fault: the disk, its quota or the largest allowed file size is used up.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, Fault) or not is_disk_full(error):
            raise
        raise disk_full_fault(path) from error


@contextmanager
def writable(knob: str, path: Path) -> Iterator[None]:
    """Explain in one sentence why the body cannot create a folder at `path`, the value of `knob`.

    Raises:
        UserError: a file is in the way.
        Fault: the operating system denies it.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        raise unwritable_path_error(knob, error, path) from error


def unwritable_path_error(knob: str, error: OSError, path: Path) -> UserError | Fault:
    """Return the error to raise where `path`, the value of `knob`, cannot be written to."""
    path = Path(error.filename or path)
    if isinstance(error, NotADirectoryError | FileExistsError):
        file = next((parent for parent in [path, *path.parents] if parent.exists()), path)
        return UserError(f"{knob} leads to {file}, which is a file, not a folder; choose another.")
    return Fault(
        f"{knob} leads to {path}, which can't be written to ({error.strerror}); fix its "
        f"permissions, or choose another {knob}."
    )


def disk_full_fault(path: Path | str) -> Fault:
    """Return the fault that the disk has no space for `path`."""
    return Fault(
        f"No space left on the disk for {Path(path).absolute()}; free some, then run the same "
        "command again to resume."
    )


def is_current_directory_gone() -> bool:
    """Check whether the current directory was deleted."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def is_disk_full(error: BaseException) -> bool:
    """Check whether `error` means a full disk, by its errno or by its text."""
    has_errno = isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS
    return has_errno or any(text in str(error).lower() for text in DISK_FULL_MESSAGES)


def is_out_of_memory(error: BaseException) -> bool:
    """Check whether `error` means out of memory, raised by torch (any device), NumPy or the OS."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError)
        and any(text in str(error).lower() for text in OUT_OF_MEMORY_MESSAGES)
    )


def as_fault(error: BaseException) -> Fault | None:
    """Return the `Fault` behind `error`, searching its causes too; None if there is none."""
    chain, seen = [error], {id(error)}
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and id(cause) not in seen:
        chain.append(cause)
        seen.add(id(cause))
    fault = next((link for link in chain if isinstance(link, Fault)), None)
    if fault is not None:
        return fault
    disk_full = next((link for link in chain if is_disk_full(link)), None)
    if disk_full is not None:
        return disk_full_fault(getattr(disk_full, "filename", None) or Path.cwd())
    if any(is_out_of_memory(link) for link in chain):
        return Fault(
            f"Memory ran out; lower hardware.micro_batch_size or {LESS_MEMORY}; lmft plan "
            "estimates what a run needs."
        )
    found = next(filter(None, (NONDETERMINISTIC.match(str(link)) for link in chain)), None)
    if found is not None:
        return Fault(
            f"{found[1]} has no kernel that computes the same bits each time; use "
            "hardware.deterministic=false."
        )
    if any(isinstance(link, FileNotFoundError) for link in chain) and is_current_directory_gone():
        return Fault("The current directory is gone; change to one that exists, and try again.")
    file_error = next((link for link in chain if isinstance(link, OSError) and link.filename), None)
    if file_error is not None:
        return Fault(
            f"{file_error.filename} can't be used ({file_error.strerror}); check that it exists "
            "and that you may read and write it."
        )
    return None
