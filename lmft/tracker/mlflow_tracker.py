"""Runs and sweeps in an MLflow store or server."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmft.errors import Interrupted, StoreUnavailable, UserError
from lmft.output.sanitize import redact
from lmft.tracker.background import BackgroundUpload, give_up
from lmft.tracker.mlflow_model import move_checkpoint
from lmft.tracker.mlflow_schema import check_schema
from lmft.tracker.mlflow_store import (
    artifact_root,
    find_run_of_folder,
    has_experiment,
    open_client,
    sqlite_path,
    state_of,
    store_uri,
    told,
)
from lmft.tracker.mlflow_sweep import JOINED, adopt, drop_parent, end_stale, open_parent, set_tag
from lmft.tracker.mlflow_upload import Place, RunUpload
from lmft.tracker.protocol import RunLog
from lmft.tracker.run_log import Record, read_facts, size_of_points

logger = logging.getLogger(__name__)


LONGEST_NAME = 250  # characters of an experiment


def check_uri(uri: str) -> None:
    """Refuse what leads to no store, as far as that can be told before MLflow is imported.

    Raises:
        UserError: it does not.
    """
    if "://" not in uri or uri.startswith("file:"):
        raise UserError(
            f"tracker.uri is {uri!r}, which names no store or server; write "
            "sqlite:////path/mlflow.db, or http://host:5000."
        )
    place = sqlite_path(uri)
    if place is not None:
        check_schema(place)


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
            UserError: it is not so; Silent if it may be later.
        """
        check_uri(store_uri(self.uri))
        if not has_experiment(store_uri(self.uri), self.experiment_name):
            with told(store_uri(self.uri)):
                self._experiment(open_client(self.uri))

    @contextmanager
    def follow(self, record: Record, job: Place | None = None) -> Iterator[RunLog]:
        """The run of this record, found or made, as part of a sweep; sent every few seconds."""
        if job is not None and JOINED not in read_facts(record.path)["tags"]:
            record.tags({JOINED: job[0]})
        sender = self._send(record, job)
        status = "FAILED"
        try:
            yield sender
            status = "FINISHED"
        except Interrupted:
            status = "KILLED"
            raise
        except Exception as error:
            sender.tags({"reason": redact(f"{type(error).__name__}: {error}")[:500]})
            raise
        finally:
            record.end(status)
            sender.finish(status)

    @contextmanager
    def amend(self, record: Record) -> Iterator[RunLog]:
        """The run of this record, found or made, and FINISHED as before."""
        yield record
        self._send(record, None).finish("FINISHED")

    def holds(self, path: Path, status: str = "FINISHED") -> bool:
        """Whether the store has the whole run of `path`, ended so; False where it is silent."""
        uri = store_uri(self.uri)
        try:
            return state_of(uri, path) == (status, size_of_points(path))
        except StoreUnavailable:
            give_up(uri)
            return False

    def fill(self, path: Path, status: str) -> int:
        """Send what the store lacks of a run that has ended so; returns how many points.

        Raises:
            UserError: the store does not take it; Silent if it does not answer.
        """
        mirror = RunUpload(self._connect, path, None)
        with told(store_uri(self.uri)):
            mirror.update(live=False)
            mirror.end(status)
        return mirror.points

    def adopt(self, folder: str, parent: str, name: str) -> None:
        """Make the run a child of `parent`; one that has another parent is linked once finished."""
        with self._if_available("the run is not linked to its sweep"):
            adopt(open_client(self.uri), folder, parent, name)

    def move(self, folder: str, place: str) -> None:
        """Tag the run, if the store has it."""
        with self._if_available("the run that was there is shown as before"):
            client = open_client(self.uri)
            run = find_run_of_folder(client, folder)
            if run is not None:
                client.set_tag(run.info.run_id, "lmft.folder", place)
                client.set_tag(run.info.run_id, "superseded", "true")
                move_checkpoint(client, run, place)

    def open_sweep(self, key: str, name: str, tags: dict[str, str]) -> str | None:
        """The parent run, RUNNING.

        Raises:
            UserError: the store can't be used; Silent if it does not answer.
        """
        with told(store_uri(self.uri)):
            client = open_client(self.uri)
            return open_parent(client, self._experiment(client), key, name, tags)

    def close_sweep(self, parent: str, succeeded: bool, texts: Path, best: str) -> None:
        """The parent run, FINISHED or FAILED."""
        with self._if_available("the sweep is not ended there"):
            client = open_client(self.uri)
            set_tag(client, parent, "best", redact(best))
            if texts.is_dir():
                client.log_artifacts(parent, str(texts))
            client.set_terminated(parent, "FINISHED" if succeeded else "FAILED")

    def drop_sweep(self, parent: str) -> None:
        """No parent run, or where it has children, FAILED."""
        with self._if_available("the sweep is not ended there"):
            drop_parent(open_client(self.uri), parent)

    def where(self) -> str:
        """The command that opens the page."""
        uri = store_uri(self.uri)
        return uri if uri.startswith("http") else f"make ui STORE={uri}"

    def _send(self, record: Record, job: Place | None) -> BackgroundUpload:
        return BackgroundUpload(
            RunUpload(self._connect, record.path, job), record, store_uri(self.uri)
        )

    @contextmanager
    def _if_available(self, otherwise: str) -> Iterator[None]:
        """What is done inside can be made up for; it is, when the same command is given again."""
        try:
            with told(store_uri(self.uri)):
                yield
        except StoreUnavailable as silent:
            logger.warning("%s; %s until the same command is given again.", silent.what, otherwise)

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
