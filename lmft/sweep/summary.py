"""What a sweep came to: a table of its jobs, which of them is best, and where the report lies."""

import json
from pathlib import Path

from lmft.metrics import TokenLoss
from lmft.sweep.job import Note
from lmft.terminal import Terminal

FILES = ("leaderboard.md", "knobs.svg", "compare.md", "compare.html")
UNLIKE = "The jobs were scored under different conditions, so only those of a group are comparable."


def summarize(notes: list[Note], folder: Path, terminal: Terminal) -> str:
    """Show each job's state and the best job; the sweep's folder gets the report on all.

    Returns:
        The best job of each group that is comparable, for the tracker.
    """
    if not notes:  # of a study that is complete
        return ""
    terminal.show_jobs(
        [(note.number, note.name, note.state, note.loss, note.reason) for note in notes]
    )
    groups = group_by_conditions(notes)
    if len(groups) > 1:
        terminal.say(UNLIKE, style="yellow")
    title = "Best" if len(groups) == 1 else "Best of a group"
    best = [tell_best(group[0]) for group in groups if len(group) > 1 or len(groups) == 1]
    for line in best:
        terminal.say(f"{title}    {line}", style="bold")
    from lmft.sweep.report import write_report  # heavy; lmft.sweep is imported for single runs too

    terminal.say(f"Look    {write_report(notes, groups, folder, terminal)}")
    return "; ".join(best)


def group_by_conditions(notes: list[Note]) -> list[list[Note]]:
    """The finished jobs whose losses are comparable, best first; the group of the best one first.

    Two jobs may be the same run.
    """
    groups: dict[str, list[Note]] = {}
    finished = [note for note in notes if note.state == "finished"]
    for note in sorted(finished, key=lambda note: note.loss):
        groups.setdefault(conditions_of(note), []).append(note)
    return list(groups.values())


def conditions_of(note: Note) -> str:
    """The fingerprint of what a job's validation loss is comparable by; empty: it is lost."""
    place = Path(note.folder) / "result.json"
    if not place.exists():
        return ""
    return str(json.loads(place.read_text())["validation"]["fingerprint"])


def tell_best(note: Note) -> str:
    """The best job in a line."""
    return (
        f"job {note.number}, {note.name or 'no knob'}: validation perplexity "
        f"{TokenLoss(note.loss, 1).perplexity:,.2f}, loss {note.loss:.4f}"
    )
