"""What ends a run early, and whose turn it is then."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend: one sentence that names the knob, its value and the way out."""


class Silent(UserError):
    """A store that does not answer now; it may do so later."""

    def __init__(self, what: str, way_out: str):
        super().__init__(f"{what}; {way_out}.")
        self.what = what


class Busy(RuntimeError):
    """Another process is at the same work."""


class Differs(RuntimeError):
    """A promise does not hold; its text says where."""


class Fault(RuntimeError):
    """The machine's, not the user's: one sentence that names what is wrong and the way out."""


class TeamFailed(RuntimeError):
    """Another process of the run ended; its text says which and why."""


class Stopped(BaseException):
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
