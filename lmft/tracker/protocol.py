"""What a run asks of its tracker, and the tracker that shows nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lmft.tracker.run_log import Record


class RunLog(Protocol):
    """What a run tells while it goes on."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Note `values`, measured after optimizer step `step`."""

    def text(self, text: str, file_name: str) -> None:
        """Keep a text beside the run."""

    def tags(self, tags: dict[str, str]) -> None:
        """Set facts that the run can be found by."""

    def sync(self) -> None:
        """Let the metrics survive a loss of power."""


class Tracker(Protocol):
    """Where runs are shown. All follows from their records: it can be made up for later."""

    def check(self) -> None:
        """Refuse settings under which no run could be shown.

        Raises:
            UserError: there are such; Silent where the run could be shown later.
        """

    def follow(self, record: Record, job: tuple[str, str] | None = None) -> Any:
        """A context: the run is open inside, and ends FINISHED, FAILED or KILLED with it.

        `job` is the id of the sweep that it is part of, and its name there.
        """

    def amend(self, record: Record) -> Any:
        """A context: the log of a run that has ended, filled from its record where it lacks."""

    def holds(self, path: Path, status: str = "FINISHED") -> bool:
        """Whether the run in the folder `path` is shown to its end, which was this."""

    def adopt(self, folder: str, parent: str, name: str) -> None:
        """Show the run of `folder` under the sweep `parent`, as `name`."""

    def move(self, folder: str, place: str) -> None:
        """The run of `folder` now lies at `place`, superseded by another one."""

    def open_sweep(self, key: str, name: str, tags: dict[str, str]) -> str | None:
        """The id of the sweep of that key, found or made; None: it is not shown."""

    def close_sweep(self, parent: str, succeeded: bool, texts: Path, best: str) -> None:
        """End a sweep, with the texts in that folder, if there is one, and its best job named."""

    def drop_sweep(self, parent: str) -> None:
        """End a sweep of which no job could begin: it is shown only if it has some of before."""

    def where(self) -> str:
        """How a person comes to see the runs."""


@dataclass(frozen=True)
class NoTracker:
    """The folder alone."""

    def check(self) -> None:
        """Nothing can go wrong."""

    @contextmanager
    def follow(self, record: Record, job: tuple[str, str] | None = None) -> Iterator[RunLog]:
        """The record itself."""
        yield record

    amend = follow

    def holds(self, path: Path, status: str = "FINISHED") -> bool:
        """There is nothing to make up for."""
        return True

    def adopt(self, folder: str, parent: str, name: str) -> None:
        """There are no sweeps."""

    def move(self, folder: str, place: str) -> None:
        """Nothing to say."""

    def open_sweep(self, key: str, name: str, tags: dict[str, str]) -> str | None:
        """There are no sweeps."""
        return None

    def close_sweep(self, parent: str, succeeded: bool, texts: Path, best: str) -> None:
        """There are no sweeps."""

    def drop_sweep(self, parent: str) -> None:
        """There are no sweeps."""

    def where(self) -> str:
        """Nowhere."""
        return "result.json in that folder; tracker=mlflow would show curves"
