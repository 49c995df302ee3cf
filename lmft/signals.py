"""SIGINT and SIGTERM: they unwind the stack, but let a piece of work be finished first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lmft.errors import Interrupted

_waiting = 0  # how many `finish_first` we are inside of

_asked: int | None = None  # the signal that came meanwhile


def listen() -> None:
    """From now on both raise Stopped in the main thread, so that what is open is closed."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)


@contextmanager
def finish_first() -> Iterator[None]:
    """A signal that comes inside is heeded at the end of it."""
    global _waiting, _asked
    _waiting += 1
    try:
        yield
    finally:
        _waiting -= 1
        if _waiting == 0 and _asked is not None:
            number, _asked = _asked, None
            raise Interrupted(number)


def _stop(number: int, frame: FrameType | None) -> None:
    global _asked
    if _waiting:
        _asked = number
    else:
        raise Interrupted(number)
