"""Signals end a command by `Interrupted`, except inside `defer_signals`, which delays them.

SIGUSR1 asks a training run for a checkpoint; a job of SLURM is stopped by it, to be requeued.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lmft.errors import Interrupted

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HANDLED = (*ENDING, signal.SIGUSR1)

_depth = 0  # of nested `defer_signals`

_pending: int | None = None  # the signal that arrived inside them

_checkpoint_requested = False  # by SIGUSR1


def install_signal_handlers() -> None:
    """Raise `Interrupted` in the main thread on a signal that ends, so that `finally` blocks run.

    A SIGHUP that nohup ignores stays ignored; so does a handler of SIGUSR1 that another program
    has installed, such as submitit in its jobs.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)
    if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL and "SUBMITIT_EXECUTOR" not in os.environ:
        signal.signal(signal.SIGUSR1, request_checkpoint)


def end_at_signals() -> None:
    """Let a further signal end the process at once, when nothing is left to save.

    While Python exits, an exception would only be printed. SLURM sends SIGTERM to a job that has
    asked for its requeue.
    """
    for number in HANDLED:
        if signal.getsignal(number) in (_handle, request_checkpoint):
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Delay a signal that arrives inside until the block has ended.

    Raises:
        Interrupted: at the end of the outermost block, if a signal arrived.
    """
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            raise_deferred()


def raise_deferred() -> None:
    """Raise a signal that arrived inside `defer_signals` now, where work can be left safely.

    Raises:
        Interrupted: there is one.
    """
    global _pending
    if _pending is not None:
        number, _pending = _pending, None
        raise Interrupted(number)


def is_deferred() -> bool:
    """Return whether a signal arrived inside `defer_signals`."""
    return _pending is not None


def in_slurm() -> bool:
    """Return whether this is a job of SLURM, which warns of its time limit by SIGUSR1."""
    return "SLURM_JOB_ID" in os.environ


def take_checkpoint_request() -> bool:
    """Return whether SIGUSR1 has asked for a checkpoint since the last call."""
    global _checkpoint_requested
    requested, _checkpoint_requested = _checkpoint_requested, False
    return requested


def request_checkpoint(number: int, frame: FrameType | None) -> None:
    """Save a checkpoint after this step; in a job of SLURM, also stop then."""
    global _checkpoint_requested, _pending
    if in_slurm():  # the time limit is near
        _pending = _pending or number
    else:
        _checkpoint_requested = True


def _handle(number: int, frame: FrameType | None) -> None:
    global _pending
    if number == signal.SIGHUP:  # a shell passes on the one that its terminal sent to both
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if _depth:
        _pending = _pending or number  # SIGTERM may follow SLURM's warning
    else:
        raise Interrupted(number)
