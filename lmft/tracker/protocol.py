"""What a tracker must do, and the tracker that does nothing.

To use a tracker of your own, implement `Tracker` and name it by `tracker._target_`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lmft.tracker.run_log import Record

SweepEntry = tuple[str, str]  # the id of a sweep, and the display name of a run in it


@dataclass(frozen=True)
class BestJob:
    """The best job of a sweep, of all launches; if its jobs are not comparable, only sentences."""

    sentence: str = ""  # on the best job; of each group, if there are several
    metrics: dict[str, float] = field(default_factory=dict)  # by the names that its run logs
    folder: Path | None = None  # of its run


class RunLog(Protocol):
    """Takes what an open run logs. `Record` writes it to the run's folder."""

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """Log `values`, measured after optimizer step `step`.

        This is called once or more per optimizer step, so it must not wait for a server. A metric
        that is already logged for this step or a later one is skipped: after a kill, a resumed
        run computes the steps since its last checkpoint again.
        """

    def log_text(self, text: str, file_name: str) -> None:
        """Keep `text` as a file of the run."""

    def set_tags(self, tags: dict[str, str]) -> None:
        """Add or change tags of the run."""

    def flush(self) -> None:
        """Return once all metrics are on disk; called before each checkpoint."""


class NullLog:
    """Logs nothing: of the ranks other than 0."""

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """Do nothing."""

    def log_text(self, text: str, file_name: str) -> None:
        """Do nothing."""

    def set_tags(self, tags: dict[str, str]) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""


class Tracker(Protocol):
    """Shows runs and sweeps to people.

    The run's folder is the source of truth: its `Record` holds facts, metrics, texts and tags. A
    tracker shows a copy. A store that can't be reached must not stop or slow a run: whatever it
    misses can be sent later from the folder.

    Statuses are FINISHED, FAILED and KILLED. Only the rank-0 process of a run calls a tracker.
    """

    def check(self) -> None:
        """Check the settings and the connection before a run, a sweep or an evaluation starts.

        Raises:
            UserError: the settings can't be used.
            StoreUnavailable: the store does not answer now, but may do so later.
        """

    def track_run(
        self, record: Record, entry: SweepEntry | None = None
    ) -> AbstractContextManager[RunLog]:
        """Return a context manager that tracks the run of `record` while it trains.

        On entry, show the run as running; a run that is resumed continues under the same id. On
        exit, show how it ended: FINISHED; KILLED, if the block raised `Interrupted`; FAILED, if it
        raised another exception. Exceptions are passed on. `Record.end` keeps the status in the
        folder, where `lmft sync` reads it.

        Args:
            record: of the run's folder. The RunLog that is yielded must write to it.
            entry: the sweep that the run is part of; None: no sweep.
        """

    def update_run(self, record: Record) -> AbstractContextManager[RunLog]:
        """Return a context manager that adds metrics, texts or tags to a run that has finished.

        On exit, send what the tracker lacks of the record, including a run that it does not know
        at all. The status stays FINISHED.
        """

    def is_up_to_date(self, path: Path, status: str = "FINISHED") -> bool:
        """Return whether the tracker has all of the run in the folder `path`, and `status`.

        This is called before anything heavy is imported, so it should be fast. Return False if the
        store does not answer.
        """

    def add_to_sweep(self, folder: str, sweep_id: str, name: str) -> None:
        """Show the run of `folder`, which may belong to another sweep, in this sweep as `name`."""

    def move_run(self, folder: str, new_folder: str) -> None:
        """Change the folder of a run from `folder` to `new_folder`: a new run takes its place."""

    def open_sweep(self, key: str, name: str, tags: dict[str, str]) -> str | None:
        """Return the id of the sweep with this key, which is created if it is new, and show it.

        Two launches of one sweep have the same key. None: this tracker has no sweeps, and
        `add_to_sweep`, `close_sweep` and `discard_sweep` are not called.

        Raises:
            UserError: the settings can't be used.
            StoreUnavailable: the store does not answer now, but may do so later.
        """

    def close_sweep(self, sweep_id: str, succeeded: bool, texts: Path, best: BestJob) -> None:
        """End a sweep.

        Args:
            sweep_id: as `open_sweep` returned it.
            succeeded: whether no job failed.
            texts: a folder whose files, without its subfolders, are kept as artifacts; it may be
                missing.
            best: what is known of the best job.
        """

    def discard_sweep(self, sweep_id: str) -> None:
        """Delete a sweep in which no job started; mark it as failed if it has earlier runs."""

    def describe(self) -> str:
        """Return where runs are shown, for display."""

    def how_to_view(self) -> str:
        """Return how to see the runs: an address, or a command to type."""


@dataclass(frozen=True)
class NoTracker:
    """Shows nothing: only the run's folder is written."""

    def check(self) -> None:
        """Accept everything."""

    @contextmanager
    def track_run(self, record: Record, entry: SweepEntry | None = None) -> Iterator[RunLog]:
        """Yield the record itself."""
        yield record

    @contextmanager
    def update_run(self, record: Record) -> Iterator[RunLog]:
        """Yield the record itself."""
        yield record

    def is_up_to_date(self, path: Path, status: str = "FINISHED") -> bool:
        """Return True: there is nothing to send."""
        return True

    def add_to_sweep(self, folder: str, sweep_id: str, name: str) -> None:
        """Do nothing."""

    def move_run(self, folder: str, new_folder: str) -> None:
        """Do nothing."""

    def open_sweep(self, key: str, name: str, tags: dict[str, str]) -> str | None:
        """Return None: there are no sweeps."""
        return None

    def close_sweep(self, sweep_id: str, succeeded: bool, texts: Path, best: BestJob) -> None:
        """Do nothing."""

    def discard_sweep(self, sweep_id: str) -> None:
        """Do nothing."""

    def describe(self) -> str:
        """Return that only the folder is written."""
        return "none, only the run's folder"

    def how_to_view(self) -> str:
        """Return where the numbers are."""
        return "result.json in that folder; tracker=mlflow would show curves"
