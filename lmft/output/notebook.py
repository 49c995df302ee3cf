"""Progress bars that a notebook draws, without widgets."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

REFRESH = 0.25  # seconds between two updates of the page


def in_notebook() -> bool:
    """Return whether a Jupyter kernel runs this process."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


class NotebookBars:
    """The progress bars of one run, in the cell that started it; see `bars.Bars`."""

    def __init__(self, steps: int):
        from IPython.display import HTML, display

        self._html: Any = HTML
        self._training: tuple[int, int, str] = (0, steps, "")  # done, total, text
        self._evaluations: dict[str, tuple[int, int, str]] = {}
        self._display: Any = display
        self._handle: Any = None  # of the output, once there is something to draw
        self._drawn = 0.0

    def show_step(self, number: int, text: str) -> None:
        """Advance the training bar to step `number` (1 is the first), with `text` beside it."""
        self._training = (number, self._training[1], text)
        self._draw(force=number == self._training[1])

    @contextmanager
    def evaluation(self, split: str, blocks: int) -> Iterator[Callable[[int], None]]:
        """Show a bar for an evaluation; yield a function that advances it by a number of blocks."""

        def advance(count: int) -> None:
            done = self._evaluations[split][0]
            self._evaluations[split] = (done + count, blocks, "")
            self._draw()

        self._evaluations[split] = (0, blocks, "")
        try:
            yield advance
        finally:
            if self._training[1]:  # else this bar alone is what stays
                del self._evaluations[split]
            self._draw(force=True)

    def _draw(self, force: bool = False) -> None:
        if force or time.monotonic() - self._drawn > REFRESH:
            bars = {"training": self._training, **self._evaluations}
            shown = [_bar(name, *bar) for name, bar in bars.items() if bar[1]]
            html = self._html("".join(shown))
            if self._handle is None:
                self._handle = self._display(html, display_id=True)
            else:
                self._handle.update(html)
            self._drawn = time.monotonic()


def _bar(name: str, done: int, total: int, text: str) -> str:
    """Return a bar as HTML."""
    return (
        f"<div>{escape(name)} <progress value='{min(done, total)}' max='{total}'></progress> "
        f"{done:,} of {total:,} {escape(text)}</div>"
    )
