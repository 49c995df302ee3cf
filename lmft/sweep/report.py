"""The end of a sweep: its table of jobs, leaderboard, plots and comparison."""

import json
from pathlib import Path

from lmft.analysis.compare.ranking import compare_runs
from lmft.analysis.compare.report import as_texts
from lmft.metrics import TokenLoss
from lmft.output.markdown import table
from lmft.output.terminal import Terminal
from lmft.sweep.job import Note
from lmft.sweep.plots import draw_knobs

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


def write_report(
    notes: list[Note], groups: list[list[Note]], folder: Path, terminal: Terminal
) -> Path:
    """Write the report's files into the sweep's folder; returns the one that tells most.

    Args:
        notes: all jobs.
        groups: the finished ones, best first, by what makes them comparable.
        folder: of the sweep; what an earlier launch left there and this one lacks goes.
        terminal: hears why jobs can't be compared.
    """
    texts = {"leaderboard.md": leaderboard(notes, groups)}
    page, board = folder / FILES[-1], folder / "leaderboard.md"
    if page.exists() and board.exists() and board.read_text() == texts["leaderboard.md"]:
        return page  # the same jobs ended the same
    texts |= draw_knobs(groups) | compare_jobs(groups, terminal)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if name in texts:
            (folder / name).write_text(texts[name], encoding="utf-8")
        else:
            (folder / name).unlink(missing_ok=True)
    return folder / max(texts, key=FILES.index)


def leaderboard(notes: list[Note], groups: list[list[Note]]) -> str:
    """All jobs as Markdown, best first; those without a result follow."""
    knobs = list(dict.fromkeys(knob for note in notes for knob in note.knobs))
    rows = []
    for number, group in enumerate(groups, 1):
        for note in group:
            loss = TokenLoss(note.loss, 1)
            numbers = [f"{loss.mean:.4f}", f"{loss.perplexity:,.2f}"]
            rows.append([str(number), *cells_of(note, knobs), *numbers, note.reason])
    others = [note for note in notes if note.state != "finished"]
    rows += [["", *cells_of(note, knobs), "", "", note.reason] for note in others]
    head = ["group", "job", *knobs, "state", "validation loss", "perplexity", "reason"]
    if len(groups) > 1:
        return f"# Leaderboard\n\n{UNLIKE}\n\n{table(head, rows)}\n"
    return f"# Leaderboard\n\n{table(head[1:], [row[1:] for row in rows])}\n"


def cells_of(note: Note, knobs: list[str]) -> list[str]:
    """A job's number, its values of these knobs, and its state."""
    return [str(note.number), *(note.knobs.get(knob, "") for knob in knobs), note.state]


def compare_jobs(groups: list[list[Note]], terminal: Terminal) -> dict[str, str]:
    """What `lmft compare` would leave of the finished jobs; nothing where it refuses."""
    folders = dict.fromkeys(Path(note.folder) for group in groups for note in group)
    if len(folders) < 2:
        return {}
    try:
        return as_texts(compare_runs(list(folders), None), [])
    except Exception as error:  # whatever it is, the jobs are done and the sweep must end
        terminal.say(f"The jobs are not compared: {error}", style="yellow")
        return {}
