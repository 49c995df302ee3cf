"""SIGINT and SIGTERM raise `Interrupted`, except inside `defer_signals`, which delays them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lmft.errors import Interrupted

_depth = 0  # of nested `defer_signals`

_pending: int | None = None  # the signal that arrived inside them


def install_signal_handlers() -> None:
    """Raise `Interrupted` in the main thread on either signal, so that `finally` blocks run."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _handle)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Delay a signal that arrives inside until the block has ended.

    Raises:
        Interrupted: at the end of the outermost block, if a signal arrived.
    """
    global _depth, _pending
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0 and _pending is not None:
            number, _pending = _pending, None
            raise Interrupted(number)


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


def _handle(number: int, frame: FrameType | None) -> None:
    global _pending
    if _depth:
        _pending = number
    else:
        raise Interrupted(number)
