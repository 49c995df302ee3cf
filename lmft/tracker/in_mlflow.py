"""Runs and sweeps in an MLflow store or server."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmft.errors import Stopped, UserError
from lmft.record import Record
from lmft.secrets import redact
from lmft.tracker.checkpoint import move_checkpoint
from lmft.tracker.mirror import Mirror, Place
from lmft.tracker.protocol import RunLog
from lmft.tracker.store import (
    artifact_root,
    find_mirror,
    has_experiment,
    holds_run,
    open_client,
    store_uri,
)
from lmft.tracker.sweep import adopt, end_stale, open_parent

LONGEST_NAME = 250  # characters of an experiment


@dataclass(frozen=True)
class MlflowTracker:
    """Runs in an MLflow store or server."""

    uri: str | None  # null: mlflow.db in the working directory
    experiment_name: str

    def __post_init__(self) -> None:
        name = self.experiment_name
        if not (name.isprintable() and name.strip() and len(name) <= LONGEST_NAME):
            raise UserError(
                f"tracker.experiment_name is {name!r}; it must be a text on one line, of at most "
                f"{LONGEST_NAME} characters."
            )

    def check(self) -> None:
        """The store must open, or be made, and the experiment must not be a deleted one.

        Raises:
            UserError: it is not so.
        """
        if not has_experiment(store_uri(self.uri), self.experiment_name):
            self._experiment(open_client(self.uri))

    @contextmanager
    def follow(self, record: Record, job: Place | None = None) -> Iterator[RunLog]:
        """The run of this record, found or made, as part of a sweep; sent every few seconds."""
        mirror = Mirror(self._connect, record, job)
        status = "FAILED"
        try:
            yield mirror
            status = "FINISHED"
        except Stopped:
            status = "KILLED"
            raise
        except Exception as error:
            mirror.tags({"reason": redact(f"{type(error).__name__}: {error}")[:500]})
            raise
        finally:
            mirror.flush()
            mirror.set_status(status)

    @contextmanager
    def amend(self, record: Record) -> Iterator[RunLog]:
        """The run of this record, found or made, and FINISHED as before."""
        mirror = Mirror(self._connect, record, None)
        mirror.open()
        yield mirror
        mirror.flush()
        mirror.set_status("FINISHED")

    def holds(self, folder: str) -> bool:
        """Whether the store has the run of `folder`, and FINISHED."""
        return holds_run(store_uri(self.uri), folder)

    def adopt(self, folder: str, parent: str, name: str) -> None:
        """Make the run a child of `parent`; one that has another parent is linked once finished."""
        adopt(open_client(self.uri), folder, parent, name)

    def move(self, folder: str, place: str) -> None:
        """Tag the run, if the store has it."""
        client = open_client(self.uri)
        run = find_mirror(client, folder)
        if run is not None:
            client.set_tag(run.info.run_id, "lmft.folder", place)
            client.set_tag(run.info.run_id, "superseded", "true")
            move_checkpoint(client, run, place)

    def open_sweep(self, key: str, name: str, tags: dict[str, str]) -> str | None:
        """The parent run, RUNNING."""
        client = open_client(self.uri)
        return open_parent(client, self._experiment(client), key, name, tags)

    def close_sweep(self, parent: str, succeeded: bool, texts: Path, best: str) -> None:
        """The parent run, FINISHED or FAILED."""
        client = open_client(self.uri)
        client.set_tag(parent, "best", redact(best))
        if texts.is_dir():
            client.log_artifacts(parent, str(texts))
        client.set_terminated(parent, "FINISHED" if succeeded else "FAILED")

    def where(self) -> str:
        """The command that opens the page."""
        uri = store_uri(self.uri)
        return uri if uri.startswith("http") else f"make ui STORE={uri}"

    def _connect(self) -> tuple[Any, str]:
        client = open_client(self.uri)
        experiment = self._experiment(client)
        end_stale(client, experiment)
        return client, experiment

    def _experiment(self, client: Any) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment_name)
        if found is None:
            place = artifact_root(self.uri)
            try:
                return str(client.create_experiment(self.experiment_name, place))
            except MlflowException:  # another process was faster
                found = client.get_experiment_by_name(self.experiment_name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise UserError(
                f"tracker.experiment_name is {self.experiment_name!r}, which was deleted in "
                "MLflow; restore it there, or choose another name."
            )
        return str(found.experiment_id)
