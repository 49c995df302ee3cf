"""Show the result of a finished run, at once: nothing heavy is imported here."""

import glob
import shlex
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmft.config.model_knobs import has_adapter
from lmft.metrics import TokenLoss
from lmft.output.sanitize import redact
from lmft.output.terminal import Terminal
from lmft.runs.run import RESULT, Run
from lmft.runs.source_run import find_source, names_model
from lmft.storage.atomic import read_json
from lmft.storage.hashing import digest
from lmft.storage.lock import run_lock
from lmft.tracker.protocol import SweepEntry, Tracker
from lmft.tracker.run_log import Record, read_facts

LENGTH = ("epochs", "max_steps")  # knobs of `trainer` that say how long a run is

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
    run.clear_checkpoints()  # left if the run was killed at its end
    tracker: Tracker = run.tracker
    if not tracker.is_up_to_date(run.folder):
        with run_lock(run.folder, wait=True):  # the process that finished it may still be sending
            update_tracker(run.folder, tracker)
    if job is not None and job.parent is not None:
        tracker.add_to_sweep(str(run.folder), job.parent, job.name)
    terminal.print(f"{run.folder.name} has finished already; start over with fresh=true.")
    show_result(run, terminal)
    if run.typed.trainer.keep_state and not run.state.exists():
        terminal.print("Its optimizer state was not kept; fresh=true trains again and keeps it.")


def offer_to_continue(run: Run, steps: int, terminal: Terminal) -> None:
    """Say how to train on from a finished run that is this one with fewer steps, if there is one.

    Args:
        run: a new run.
        steps: that it will take.
        terminal: the terminal to print to.
    """
    root, name = run.folder.parent, run.folder.name.rpartition("-")[0]
    shorter: dict[int, tuple[Path, dict[str, Any]]] = {}  # by steps
    # In this order, a run counts before one of equal key that was set aside.
    for folder in sorted(root.glob(f"{glob.escape(name)}-*"), reverse=True):
        facts, taken = read_facts(folder), read_json(folder / RESULT).get("steps", steps)
        length = {knob: facts.get("params", {}).get(f"trainer.{knob}") for knob in LENGTH}
        trainer = {**run.key_inputs["trainer"], **length}
        if taken < steps and facts.get("key") == digest({**run.key_inputs, "trainer": trainer}):
            shorter[taken] = folder, {**length, "max_steps": taken}
    if shorter:
        taken = max(shorter)
        folder, length = shorter[taken]
        terminal.print(
            f"{folder.name} is this run with {taken:,} steps, and has finished; to train on from "
            f"its {find_source(str(folder)).describe()}: {continue_command(run, folder, length)}"
        )


def continue_command(run: Run, folder: Path, length: dict[str, Any]) -> str:
    """Return the command that trains on from the run in `folder`, of this length, up to `run`'s."""
    values = run.values
    adapted = has_adapter(values["adapter"])
    parts = ("from_run=", *(("adapter",) if adapted else ()))  # which the weights have
    words = [w for w in run.words if not (names_model(w) or w.startswith(parts))]
    lr = values["optimizer"].get("lr")
    if lr and (adapted or values["model"]["from_scratch"]):  # else as by default
        words = [word for word in words if not word.startswith("optimizer.lr=")]
        words.append(f"optimizer.lr={lr}")
    for knob, before in length.items():
        wanted = values["trainer"][knob]
        if before is not None and wanted is not None and wanted > before:
            words = [word for word in words if not word.startswith(f"trainer.{knob}=")]
            words.append(f"trainer.{knob}={wanted - before:g}")
    return shlex.join(["lmft", f"from_run={folder.name}", *map(redact, words)])


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
