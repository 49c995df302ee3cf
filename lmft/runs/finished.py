"""What a finished run answers, at once: nothing heavy is imported here."""

import shutil
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from lmft.metrics import TokenLoss
from lmft.output.terminal import Terminal
from lmft.runs.run_dir import RunFolder
from lmft.storage.lock import run_lock
from lmft.tracker.protocol import Tracker
from lmft.tracker.run_log import Record


@dataclass(frozen=True)
class Job:
    """A run as part of a sweep."""

    name: str  # the knobs that vary: lr=3e-5 seed=1
    parent: str | None  # the id of the sweep in the tracker; None: it has none


def answer(
    folder: RunFolder, tracker: Tracker, terminal: Terminal, job: Job | None = None
) -> dict[str, Any]:
    """Show a finished run's result, and make up for what the tracker lacks; returns the result."""
    shutil.rmtree(folder.checkpoints, ignore_errors=True)  # of a start killed at its very end
    result = folder.read_json("result.json")
    if not tracker.holds(folder.path):
        with run_lock(folder.path, wait=True):  # the process that finished it may still be sending
            fill_tracker(folder, tracker)
    if job is not None and job.parent is not None:
        tracker.adopt(str(folder.path), job.parent, job.name)
    terminal.say(f"{folder.path.name} has finished already; fresh=true would start it anew.")
    show_result(result, folder, tracker, terminal)
    return result


def fill_tracker(folder: RunFolder, tracker: Tracker) -> None:
    """Send what the tracker lacks, if it still does."""
    if not tracker.holds(folder.path):
        with closing(Record(folder.path)) as record, tracker.amend(record):
            pass


def show_result(
    result: dict[str, Any], folder: RunFolder, tracker: Tracker, terminal: Terminal
) -> None:
    """The final table, the folder, and where to look further."""
    assessed = {name: result[name] for name in ("validation", "test") if result[name]}
    rows = [
        ("validation, before", 0, result["baseline"]),
        ("validation, last", result["steps"], result["final"]),
        *((f"{name}, best", result["best_step"], found) for name, found in assessed.items()),
    ]
    terminal.show_results(
        [(name, step, TokenLoss(found["nats"], found["targets"])) for name, step, found in rows]
    )
    for found in assessed.values():
        terminal.say(found["label"])
    if terminal.brief:
        return
    timing = result["timing"]
    terminal.say(f"{timing['seconds']:,.0f} s, {timing['tokens_per_second']:,.0f} tokens/s")
    terminal.say(f"Folder  {folder.path}")
    terminal.say(f"Look    {tracker.where()}")
