"""The progress of a run as lines, ever rarer: for a log file, and where other jobs print, too."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FIRST, LONGEST = 10.0, 600.0  # seconds to the first line, and between two lines at most


class Lines:
    """Prints where a run is after 10 s, 20 s more, and so on; see `terminal.Bars`."""

    def __init__(self, print_line: Callable[[str], None], steps: int):
        """Take how to print a line, and the number of optimizer steps."""
        self._print, self._steps = print_line, steps
        self._started: tuple[int, float] | None = None  # the first step here, and when it ended
        self._wait = FIRST
        self._due = time.monotonic() + FIRST

    def show_step(self, number: int, text: str) -> None:
        """Print step `number` (1 is the first) with `text`, if a line is due."""
        first, at = self._started = self._started or (number, time.monotonic())
        if number > first and number < self._steps and self._is_due():
            left = (self._steps - number) * (time.monotonic() - at) / (number - first)
            total = f"step {number:>6,} of {self._steps:,}"
            self._print(f"{total}  {text}  {readable_time(left)} left")

    @contextmanager
    def evaluation(self, split: str, blocks: int) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts the blocks of an evaluation; a line says how many."""
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if done < blocks and self._is_due():
                self._print(f"{split} {done:,} of {blocks:,} blocks")

        yield advance

    def _is_due(self) -> bool:
        if time.monotonic() < self._due:
            return False
        self._wait = min(2 * self._wait, LONGEST)
        self._due = time.monotonic() + self._wait
        return True


def readable_time(seconds: float) -> str:
    """Return a duration as text in seconds, minutes, hours or days."""
    for length, unit, below in ((1, "s", 100), (60, "min", 100), (3600, "h", 48)):
        if seconds < below * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
