"""No tracker: a run is told of by its folder alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmft.record import Record
from lmft.tracker.protocol import RunLog


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
