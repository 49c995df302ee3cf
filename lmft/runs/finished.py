"""Show the result of a finished run, at once: nothing heavy is imported here."""

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmft.metrics import TokenLoss
from lmft.output.terminal import Terminal
from lmft.runs.run import RESULT, Run
from lmft.storage.lock import run_lock
from lmft.tracker.protocol import SweepEntry, Tracker
from lmft.tracker.run_log import Record

# Called with the step and the run's folder after each validation; returns whether to stop the run.
Prune = Callable[[int, Path], bool]


@dataclass(frozen=True)
class Job:
    """The entry of a run in a sweep."""

    name: str  # the knobs that vary: lr=3e-5 seed=1
    parent: str | None  # the id of the sweep in the tracker; None: the tracker has no sweeps
    prune: Prune = lambda step, folder: False  # whether to stop an unpromising run

    @property
    def sweep_entry(self) -> SweepEntry | None:
        """Where the tracker shows the run."""
        return None if self.parent is None else (self.parent, self.name)


def report_finished(run: Run, terminal: Terminal, job: Job | None = None) -> None:
    """Show a finished run's result, and send the tracker what it lacks."""
    shutil.rmtree(run.checkpoints, ignore_errors=True)  # left if the run was killed at its end
    tracker: Tracker = run.tracker
    if not tracker.is_up_to_date(run.folder):
        with run_lock(run.folder, wait=True):  # the process that finished it may still be sending
            update_tracker(run.folder, tracker)
    if job is not None and job.parent is not None:
        tracker.add_to_sweep(str(run.folder), job.parent, job.name)
    terminal.print(f"{run.folder.name} has finished already; start over with fresh=true.")
    show_result(run, terminal)


def update_tracker(folder: Path, tracker: Tracker) -> None:
    """Send the tracker what it lacks, unless another process has sent it by now."""
    if not tracker.is_up_to_date(folder):
        with closing(Record(folder)) as record, tracker.update_run(record):
            pass


def show_result(run: Run, terminal: Terminal) -> None:
    """Print the table of losses, the run's folder, and how to view more."""
    result: dict[str, Any] = run.read_json(RESULT)
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
        terminal.print_sentence(losses["label"])
    if terminal.brief:
        return
    timing = result["timing"]
    terminal.print(f"{timing['seconds']:,.0f} s, {timing['tokens_per_second']:,.0f} tokens/s")
    terminal.print(f"Folder  {run.folder}")
    terminal.print(f"Look    {run.tracker.how_to_view()}")
