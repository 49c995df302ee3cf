"""The MLflow store: where it is, and made whole or not at all."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from lmft.errors import StoreUnavailable, UserError, writable
from lmft.tracker.mlflow_schema import check_schema
from lmft.tracker.run_log import ID, read_facts

NO_ANSWER = r"API request to .* failed with ((timeout )?exception|error code 5)"  # MLflow's words

SENT = "lmft.sent"  # a tag: bytes of metrics.jsonl that the store has


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


def state_of(uri: str, path: Path) -> tuple[str, int] | None:
    """The status of the run of the folder `path`, and how far the store has it (bytes of points).

    None where the store has no such run.

    Raises:
        UserError: the store can't be used; Silent if it does not answer.
    """
    place, key = sqlite_path(uri), read_facts(path)["tags"].get(ID)
    if place is None:
        with told(uri):
            run = find_run_of_folder(open_client(uri), str(path))
        if run is None or run.data.tags.get(ID) != key:
            return None
        return run.info.status, int(run.data.tags.get(SENT, 0))
    found = _find(
        place,
        "SELECT runs.status, sent.value FROM runs JOIN tags AS folder USING (run_uuid) "
        f"LEFT JOIN tags AS own ON own.run_uuid = runs.run_uuid AND own.key = '{ID}' "
        f"LEFT JOIN tags AS sent ON sent.run_uuid = runs.run_uuid AND sent.key = '{SENT}' "
        "WHERE folder.key = 'lmft.folder' AND folder.value = ? AND own.value IS ? "
        "AND runs.lifecycle_stage = 'active'",
        str(path),
        key,
    )
    return None if found is None else (found[0], int(found[1] or 0))


def has_experiment(uri: str, name: str) -> bool:
    """Whether a SQLite store is sure to have the experiment of that name, and not deleted."""
    place = sqlite_path(uri)
    query = "SELECT 1 FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
    return place is not None and _find(place, query, name) is not None


def _find(place: Path, query: str, *values: str | None) -> Any:
    """The first answer to a query in a SQLite store; None without one, or if it can't be read.

    SQLite is asked directly: importing mlflow would take longer than all the rest of an answer.
    """
    if not place.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchone()
    except sqlite3.Error:
        return None


def find_run_of_folder(client: Any, folder: str) -> Any | None:
    """The run of `folder` in the store; None where it has none."""
    runs = _search(client, by_tag("lmft.folder", folder), 1)
    return runs[0] if runs else None


def find_own(client: Any, path: Path, tags: dict[str, str]) -> Any | None:
    """The run in the store that is of the very folder `path`, wherever it lay; None: it has none.

    One of another folder, which was at that place before, no longer says that it is there.
    """
    folder, key = str(path), tags.get(ID)
    there = find_run_of_folder(client, folder)
    if there is None or there.data.tags.get(ID) == key:
        return there or _find_moved(client, key)
    client.set_tag(there.info.run_id, "superseded", "true")
    client.delete_tag(there.info.run_id, "lmft.folder")
    return find_own(client, path, tags)


def _find_moved(client: Any, key: str | None) -> Any | None:
    """The run of a folder that was elsewhere; not that of one which was copied, and still is."""
    for run in [] if key is None else _search(client, by_tag(ID, key)):
        place = run.data.tags.get("lmft.folder")
        if place is None or read_facts(Path(place)).get("tags", {}).get(ID) != key:
            return run
    return None


def _search(client: Any, query: str, most: int = 100) -> list[Any]:
    experiments = [found.experiment_id for found in client.search_experiments()]
    return list(client.search_runs(experiments, query, max_results=most))


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
        UserError: there is no such store; Silent if it may be there and does not answer.
    """
    mlflow = load_mlflow()
    uri = store_uri(uri)
    with told(uri):
        place = sqlite_path(uri)
        if place is not None:
            make_store(place)
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def load_mlflow() -> Any:
    """The library, imported as we want it to behave."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # with its password
    # A request whose answer was lost must not be repeated before the store is asked what it has.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # seconds
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # importing it had set INFO
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # we tell it ourselves
    return mlflow


@contextmanager
def told(uri: str) -> Iterator[None]:
    """What goes wrong inside with the store is told in one sentence.

    Raises:
        UserError: it can't be used; Silent if it may be later.
    """
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (MlflowException, DBAPIError, OSError) as error:
        reason = reason_of(error)
        if is_unavailable(error):
            raise StoreUnavailable(
                f"tracker.uri is {uri!r}, which does not answer: {reason}",
                "start it first, or set tracker=none and lmft sync the run later",
            ) from error
        raise UserError(f"tracker.uri is {uri!r}, which can't be used: {reason}.") from error


def is_unavailable(error: BaseException) -> bool:
    """Whether the store did not answer, or was locked; else it refused."""
    from mlflow.exceptions import RestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, RestException):
        return bool(error.get_http_status_code() >= 500)
    if isinstance(error, OperationalError) and "(sqlite3." not in str(error):
        return True
    return re.search(f"{NO_ANSWER}|database is locked", str(error)) is not None


def reason_of(error: BaseException) -> str:
    """Why the store did not take something, in a few words."""
    if isinstance(error, StoreUnavailable) and error.__cause__ is not None:
        error = error.__cause__
    words = r"\[Errno -?\d+\] ([^'\")\\]+)|(database is locked)|(\w+ timed out|Connection aborted)"
    known = re.search(words, str(error))
    if known:
        return next(found for found in known.groups() if found)
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def make_store(place: Path) -> None:
    """A new SQLite store, whole or not at all: two processes making one at once would break it.

    Raises:
        UserError: what is there is no store that can be used.
    """
    check_schema(place)
    if place.exists():
        return
    with writable("tracker.uri", place):
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
