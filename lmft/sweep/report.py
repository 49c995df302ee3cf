"""The report on a sweep: a leaderboard, a picture of its knobs, and the finished jobs compared."""

from pathlib import Path

from lmft.comparison import compare_runs
from lmft.markdown import table
from lmft.metrics import TokenLoss
from lmft.report.texts import as_texts
from lmft.sweep.job import Note
from lmft.sweep.plot import draw_knobs
from lmft.sweep.summary import FILES, UNLIKE
from lmft.terminal import Terminal


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
