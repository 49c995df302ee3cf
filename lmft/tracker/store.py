"""The MLflow store: where it is, and made whole or not at all."""

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from filelock import FileLock

from lmft.errors import UserError


def by_tag(tag: str, value: str) -> str:
    """The filter of a search for runs with that tag."""
    quote = '"' if "'" in value else "'"
    return f"tags.`{tag}` = {quote}{value}{quote}"


def folder_of(run_id: str, uri: str | None) -> str | None:
    """The folder of an MLflow run; None where the store does not know it."""
    from mlflow.exceptions import MlflowException

    place = sqlite_path(store_uri(uri))
    if place is not None and not place.exists():
        return None
    try:
        tags: dict[str, str] = open_client(uri).get_run(run_id).data.tags
    except MlflowException:
        return None
    return tags.get("lmft.folder")


def holds_run(uri: str, folder: str) -> bool:
    """Whether the store has a FINISHED run of `folder`."""
    place = sqlite_path(uri)
    if place is None:
        query = f"{by_tag('lmft.folder', folder)} and attributes.status = 'FINISHED'"
        client = open_client(uri)
        experiments = [found.experiment_id for found in client.search_experiments()]
        return bool(client.search_runs(experiments, query, max_results=1))
    return _finds(
        place,
        "SELECT 1 FROM tags JOIN runs USING (run_uuid) WHERE tags.key = 'lmft.folder' "
        "AND tags.value = ? AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'",
        folder,
    )


def has_experiment(uri: str, name: str) -> bool:
    """Whether a SQLite store is sure to have the experiment of that name, and not deleted."""
    place = sqlite_path(uri)
    query = "SELECT 1 FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
    return place is not None and _finds(place, query, name)


def _finds(place: Path, query: str, value: str) -> bool:
    """Whether a query has an answer in a SQLite store; False where the store can't be read.

    SQLite is asked directly: importing mlflow would take longer than all the rest of an answer.
    """
    if not place.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(query, (value,)).fetchone() is not None
    except sqlite3.Error:
        return False


def find_mirror(client: Any, folder: str) -> Any | None:
    """The run of `folder` in the store; None where it has none."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, by_tag("lmft.folder", folder), max_results=1)
    return runs[0] if runs else None


def store_uri(uri: str | None) -> str:
    """Where runs are kept: `uri`, or mlflow.db in the working directory."""
    return uri or f"sqlite:///{Path('mlflow.db').absolute()}"


def artifact_root(uri: str | None) -> str | None:
    """Where a local store's artifacts go: beside it, wherever a process was started."""
    place = sqlite_path(store_uri(uri))
    return None if place is None else (place.parent / "mlartifacts").as_uri()


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a SQLite store; None for any other."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).absolute() if uri.startswith(prefix) else None


def open_client(uri: str | None) -> Any:
    """An MLflow client on the store `uri`, made first where it is missing.

    Raises:
        UserError: there is no such store.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DBAPIError

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # importing it had set INFO
    uri = store_uri(uri)
    try:
        place = sqlite_path(uri)
        if place is not None:
            make_store(place)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    except (MlflowException, DBAPIError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"tracker.uri is {uri!r}, which can't be opened: {reason}.") from error
    return client


def make_store(place: Path) -> None:
    """A new SQLite store, whole or not at all: two processes making one at once would break it."""
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f".{place.name}.lock")):
        if place.exists():
            return
        temporary = place.with_name(f".{place.name}-new")
        temporary.unlink(missing_ok=True)
        _create_schema(temporary)
        temporary.rename(place)


def _create_schema(place: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{place}", (place.parent / "mlartifacts").as_uri())
    store._dispose_engine()
    with sqlite3.connect(place) as connection:  # readers and writers no longer wait for each other
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
