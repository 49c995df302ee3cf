"""What ends a run early, and whose turn it is then."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend: one sentence that names the knob, its value and the way out."""


class Stopped(BaseException):
    """A signal asked the run to end; not an Exception, so nothing swallows it on its way up."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'train'?` for a near miss, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
