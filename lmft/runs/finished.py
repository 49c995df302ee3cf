"""Show the result of a finished run, at once: nothing heavy is imported here."""

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
    """The entry of a run in a sweep."""

    name: str  # the knobs that vary: lr=3e-5 seed=1
    parent: str | None  # the id of the sweep in the tracker; None: the tracker has no sweeps


def report_finished(
    folder: RunFolder, tracker: Tracker, terminal: Terminal, job: Job | None = None
) -> dict[str, Any]:
    """Show and return a finished run's result, and send the tracker what it lacks."""
    shutil.rmtree(folder.checkpoints, ignore_errors=True)  # left if the run was killed at its end
    result = folder.read_json("result.json")
    if not tracker.is_up_to_date(folder.path):
        with run_lock(folder.path, wait=True):  # the process that finished it may still be sending
            update_tracker(folder, tracker)
    if job is not None and job.parent is not None:
        tracker.add_to_sweep(str(folder.path), job.parent, job.name)
    terminal.print(f"{folder.path.name} has finished already; start over with fresh=true.")
    show_result(result, folder, tracker, terminal)
    return result


def update_tracker(folder: RunFolder, tracker: Tracker) -> None:
    """Send the tracker what it lacks, unless another process has sent it by now."""
    if not tracker.is_up_to_date(folder.path):
        with closing(Record(folder.path)) as record, tracker.update_run(record):
            pass


def show_result(
    result: dict[str, Any], folder: RunFolder, tracker: Tracker, terminal: Terminal
) -> None:
    """Print the table of losses, the run's folder, and how to view more."""
    best = {split: result[split] for split in ("validation", "test") if result[split]}
    rows = [
        ("validation, before", 0, result["baseline"]),
        ("validation, last", result["steps"], result["final"]),
        *((f"{split}, best", result["best_step"], losses) for split, losses in best.items()),
    ]
    terminal.show_results(
        [(name, step, TokenLoss(losses["nats"], losses["targets"])) for name, step, losses in rows]
    )
    for losses in best.values():
        terminal.print(losses["label"])
    if terminal.brief:
        return
    timing = result["timing"]
    terminal.print(f"{timing['seconds']:,.0f} s, {timing['tokens_per_second']:,.0f} tokens/s")
    terminal.print(f"Folder  {folder.path}")
    terminal.print(f"Look    {tracker.how_to_view()}")
