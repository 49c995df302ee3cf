"""What a sweep came to: a table of its jobs, and which of them is best."""

from pathlib import Path

from lmft.sweep.job import Note
from lmft.terminal import Terminal


def summarize(notes: list[Note], folder: Path, terminal: Terminal) -> None:
    """Show each job's state; the sweep's folder gets the rest."""
    terminal.show_jobs(
        [(note.number, note.name, note.state, note.loss, note.reason) for note in notes]
    )
