"""Open an MLflow store, create it atomically, and find runs in it.

A local SQLite store is also read by SQL of our own (`read_run_state`, `has_experiment`): importing
mlflow takes 2 s, and a run that has finished answers without it.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from lmft.errors import UserError, writable
from lmft.storage.lock import file_lock
from lmft.tracker.mlflow_errors import load_mlflow, store_errors
from lmft.tracker.mlflow_schema import check_schema
from lmft.tracker.mlflow_view import TAG as VIEW_TAG
from lmft.tracker.run_log import ID_TAG, read_facts

LINK_TAG = "lmft.link"  # of a linked copy: the run itself
SWEEP_FOLDER_TAG = "lmft.sweep_folder"  # of a sweep's parent run
SENT_TAG = "lmft.sent"  # how much of metrics.jsonl the store has, in bytes
UNSENT_TAG = "lmft.unsent"  # of a run whose files or model the store refused


class RunState(NamedTuple):
    """What a store knows of a run."""

    run_id: str
    status: str
    sent: int  # bytes of points


def tag_filter(tag: str, value: str) -> str:
    """Return the filter string that finds runs with that tag."""
    quote = '"' if "'" in value else "'"
    return f"tags.`{tag}` = {quote}{value}{quote}"


def find_folder_of_run(run_id: str, uri: str | None) -> str | None:
    """Return the folder of an MLflow run or of a sweep; None if the store has no such run."""
    from mlflow.exceptions import MlflowException

    path = sqlite_path(store_uri(uri))
    if path is not None and not path.exists():
        return None
    client = open_client(uri)
    try:
        tags: dict[str, str] = client.get_run(run_id).data.tags
        if LINK_TAG in tags:
            tags = client.get_run(tags[LINK_TAG]).data.tags
    except MlflowException:
        return None
    return tags.get("lmft.folder") or tags.get(SWEEP_FOLDER_TAG)


def read_run_state(uri: str, path: Path) -> RunState | None:
    """Return what the store knows of the run of the folder `path`.

    None if the store has no such run, or refused its files or its model.

    Raises:
        UserError: the store can't be used.
        StoreUnavailable: it does not answer.
    """
    database, key = sqlite_path(uri), read_facts(path)["tags"].get(ID_TAG)
    if database is None:
        with store_errors(uri):
            run = find_run_of_folder(open_client(uri), str(path))
        if run is None or run.data.tags.get(ID_TAG) != key or UNSENT_TAG in run.data.tags:
            return None
        sent = int(run.data.tags.get(SENT_TAG, 0))
        return RunState(run.info.run_id, run.info.status, sent)
    row = query_first(
        database,
        "SELECT runs.run_uuid, runs.status, sent.value "
        "FROM runs JOIN tags AS folder USING (run_uuid) "
        f"LEFT JOIN tags AS own ON own.run_uuid = runs.run_uuid AND own.key = '{ID_TAG}' "
        f"LEFT JOIN tags AS sent ON sent.run_uuid = runs.run_uuid AND sent.key = '{SENT_TAG}' "
        f"LEFT JOIN tags AS lack ON lack.run_uuid = runs.run_uuid AND lack.key = '{UNSENT_TAG}' "
        "WHERE folder.key = 'lmft.folder' AND folder.value = ? AND own.value IS ? "
        "AND lack.key IS NULL AND runs.lifecycle_stage = 'active'",
        str(path),
        key,
    )
    return None if row is None else RunState(row[0], row[1], int(row[2] or 0))


def has_experiment(uri: str, name: str) -> bool:
    """Return whether a SQLite store has the experiment as lmft creates it; False for others."""
    database = sqlite_path(uri)
    query = (
        "SELECT 1 FROM experiments JOIN experiment_tags AS view USING (experiment_id) "
        f"WHERE name = ? AND lifecycle_stage = 'active' AND view.key = '{VIEW_TAG}'"
    )
    return database is not None and query_first(database, query, name) is not None


def query_first(database: Path, query: str, *values: str | None) -> Any:
    """Return the first row of a query; None without one, or if the database can't be read."""
    if not database.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchone()
    except sqlite3.Error:
        return None


def find_run_of_folder(client: Any, folder: str) -> Any | None:
    """Return the MLflow run of `folder`; None if there is none."""
    runs = _search(client, tag_filter("lmft.folder", folder), 1)
    return runs[0] if runs else None


def match_run(client: Any, path: Path, tags: dict[str, str]) -> Any | None:
    """Return the MLflow run that belongs to the folder `path`; None if there is none.

    Runs and folders are matched by `lmft.id`, so a folder that was moved keeps its run. A run of
    another folder that was at this path before is tagged as superseded and loses its folder.
    """
    folder, key = str(path), tags.get(ID_TAG)
    run = find_run_of_folder(client, folder)
    if run is None or run.data.tags.get(ID_TAG) == key:
        return run or _find_moved_run(client, key)
    client.set_tag(run.info.run_id, "superseded", "true")
    client.delete_tag(run.info.run_id, "lmft.folder")
    return match_run(client, path, tags)


def _find_moved_run(client: Any, key: str | None) -> Any | None:
    """Return the run with this id if its folder is gone; else the folder at hand is a copy."""
    for run in [] if key is None else _search(client, tag_filter(ID_TAG, key)):
        folder = run.data.tags.get("lmft.folder")
        if folder is None or read_facts(Path(folder)).get("tags", {}).get(ID_TAG) != key:
            return run
    return None


def find_run_by_id(client: Any, key: str) -> Any | None:
    """Return the MLflow run with this `lmft.id`; None if there is none."""
    runs = _search(client, tag_filter(ID_TAG, key))
    return next((run for run in runs if LINK_TAG not in run.data.tags), None)


def _search(client: Any, query: str, limit: int = 100) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, query, max_results=limit))


def store_uri(uri: str | None) -> str:
    """Return `uri`; if it is None, MLFLOW_TRACKING_URI, else mlflow.db in the working directory."""
    named = uri or os.environ.get("MLFLOW_TRACKING_URI")
    return named or f"sqlite:///{Path('mlflow.db').absolute()}"


def artifact_root(uri: str | None) -> str | None:
    """Return the URI of a SQLite store's artifacts, which are beside it; None for other stores."""
    path = sqlite_path(store_uri(uri))
    return None if path is None else (path.parent / "mlartifacts").as_uri()


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of a SQLite store; None for other stores."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).absolute() if uri.startswith(prefix) else None


def check_uri(uri: str) -> None:
    """Check that `uri` can be a store, as far as that is possible without importing MLflow.

    Raises:
        UserError: it can't.
    """
    if "://" not in uri or uri.startswith("file:"):
        raise UserError(
            f"tracker.uri is {uri!r}, which names no store or server; set it to "
            "sqlite:////path/mlflow.db, or http://host:5000."
        )
    path = sqlite_path(uri)
    if path is not None:
        check_schema(path)


def open_client(uri: str | None) -> Any:
    """Return an MLflow client of the store `uri`; create a SQLite store that is missing.

    Raises:
        UserError: the store can't be used.
        StoreUnavailable: it does not answer now, but may do so later.
    """
    mlflow = load_mlflow()
    uri = store_uri(uri)
    with store_errors(uri):
        path = sqlite_path(uri)
        if path is not None:
            create_store(path)
        elif "://" in uri and not uri.startswith("http"):
            _try_database(uri)
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _try_database(uri: str) -> None:
    """Connect to a database once: MLflow would try for 100 s."""
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import NoSuchModuleError

    try:
        with closing(create_engine(uri, poolclass=NullPool).connect()):
            pass
    except NoSuchModuleError:  # not a database, but what MLflow knows by a plug-in, or does not
        pass


def create_store(path: Path) -> None:
    """Create a SQLite store if it is missing, atomically, since several processes may do so.

    Raises:
        UserError: the file exists and can't be used as a store.
    """
    check_schema(path)
    if path.exists():
        return
    with writable("tracker.uri", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        temporary = path.with_name(f".{path.name}-new")
        temporary.unlink(missing_ok=True)
        _create_schema(temporary)
        temporary.rename(path)


def _create_schema(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{path}", (path.parent / "mlartifacts").as_uri())
    store._dispose_engine()
    with sqlite3.connect(path) as connection:  # write-ahead log: readers don't block writers
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
