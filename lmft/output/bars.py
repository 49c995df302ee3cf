"""The progress of a run: bars on a terminal; lines in a log file, and where other jobs print."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import Progress

from lmft.output.notebook import NotebookBars

FIRST, LONGEST = 10.0, 600.0  # seconds to the first line, and between two lines at most


class Bars:
    """The progress bars of one run."""

    def __init__(self, progress: Progress, steps: int):
        self._progress = progress
        self._training = progress.add_task("training", total=steps, visible=steps > 0, facts="")

    def show_step(self, number: int, text: str) -> None:
        """Advance the training bar to step `number` (1 is the first), with `text` beside it."""
        self._progress.update(self._training, completed=number, facts=text)

    @contextmanager
    def evaluation(self, split: str, blocks: int) -> Iterator[Any]:
        """Show a bar for an evaluation; yield a function that advances it by a number of blocks."""
        task = self._progress.add_task(split, total=blocks, facts="")
        yield lambda done: self._progress.advance(task, done)
        self._progress.remove_task(task)


class Lines:
    """Prints where a run is after 10 s, 20 s more, and so on; see `Bars`."""

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


AnyBars = Bars | NotebookBars | Lines


def readable_time(seconds: float) -> str:
    """Return a duration as text in seconds, minutes, hours or days."""
    for length, unit, below in ((1, "s", 100), (60, "min", 100), (3600, "h", 48)):
        if seconds < below * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
