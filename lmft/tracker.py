"""Where the numbers of a run are kept: MLflow, or nowhere but in its folder."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from lmft.errors import Stopped, UserError

FLUSH_SECONDS = 5.0
FLUSH_POINTS = 1000  # the most that a REST call takes
PARAM_SIZE = 6000  # characters; MLflow's limit


class RunLog(Protocol):
    """What a run tells while it goes on."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Note `values`, measured after optimizer step `step`."""

    def text(self, text: str, file_name: str) -> None:
        """Keep a text beside the run."""

    def tags(self, tags: dict[str, str]) -> None:
        """Set facts that the run can be found by."""


@dataclass(frozen=True)
class Corpus:
    """The dataset input of a run, as MLflow shows it."""

    name: str
    digest: str


class Tracker(Protocol):
    """Where runs are kept."""

    def check(self) -> None:
        """Refuse settings under which no run could be kept."""

    def start(self, name: str, params: dict[str, Any], tags: dict[str, str], corpus: Corpus) -> Any:
        """A context: the run is open inside, and ends FINISHED, FAILED or KILLED with it."""

    def reopen(self, folder: str) -> Any:
        """A context: the log of the run kept in `folder`, its status left alone; None without."""

    def where(self) -> str:
        """How a person comes to see the runs."""


@dataclass(frozen=True)
class NoTracker:
    """Keeps nothing."""

    def check(self) -> None:
        """Nothing can go wrong."""

    @contextmanager
    def start(
        self, name: str, params: dict[str, Any], tags: dict[str, str], corpus: Corpus
    ) -> Iterator[RunLog]:
        """A run that forgets what it is told."""
        yield Forgetful()

    @contextmanager
    def reopen(self, folder: str) -> Iterator[RunLog | None]:
        """A run that forgets what it is told."""
        yield Forgetful()

    def where(self) -> str:
        """Nowhere."""
        return "result.json in that folder; tracker=mlflow would show curves"


class Forgetful:
    """A run that nobody tracks."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Nothing."""

    def text(self, text: str, file_name: str) -> None:
        """Nothing."""

    def tags(self, tags: dict[str, str]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class MlflowTracker:
    """Runs in an MLflow store or server."""

    uri: str | None  # null: mlflow.db in the working directory
    experiment_name: str

    def check(self) -> None:
        """The store must open, or be made, and the experiment must not be a deleted one.

        Raises:
            UserError: it is not so.
        """
        self._experiment(open_client(self.uri))

    @contextmanager
    def start(
        self, name: str, params: dict[str, Any], tags: dict[str, str], corpus: Corpus
    ) -> Iterator[RunLog]:
        """A new run, its points sent in batches."""
        client = open_client(self.uri)
        run = client.create_run(self._experiment(client), run_name=name, tags=tags)
        run_id = run.info.run_id
        log = MlflowLog(client, run_id)
        status = "FAILED"
        try:
            log.describe(params, corpus)
            yield log
            status = "FINISHED"
        except (Stopped, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            log.flush()
            client.set_terminated(run_id, status)

    @contextmanager
    def reopen(self, folder: str) -> Iterator[RunLog | None]:
        """The newest run of `folder`, to add to what it holds; None where the store has none."""
        client = open_client(self.uri)
        experiments = [found.experiment_id for found in client.search_experiments()]
        runs = client.search_runs(experiments, f"tags.`lmft.folder` = '{folder}'", max_results=1)
        if not runs:
            yield None
            return
        log = MlflowLog(client, runs[0].info.run_id)
        yield log
        log.flush()

    def where(self) -> str:
        """The command that opens the page."""
        uri = store_uri(self.uri)
        return (
            uri if uri.startswith("http") else f"make ui, or: mlflow ui --backend-store-uri {uri}"
        )

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


class MlflowLog:
    """One open run; its metric points wait a few seconds so that many travel together."""

    def __init__(self, client: Any, run_id: str):
        self.run_id = run_id
        self._client = client
        self._points: list[Any] = []
        self._sent = time.monotonic()

    def describe(self, params: dict[str, Any], corpus: Corpus) -> None:
        """Log what the run is made of."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        texts = [Param(key, str(value)[:PARAM_SIZE]) for key, value in params.items()]
        for start in range(0, len(texts), 100):  # the most that a REST call takes
            self._client.log_batch(self.run_id, params=texts[start : start + 100])
        dataset = Dataset(corpus.name, corpus.digest[:36], "code", "{}")
        tags = [InputTag("mlflow.data.context", "train")]
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Note `values`; they are sent when enough have gathered or a few seconds have passed."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._points += [Metric(key, value, now, step) for key, value in values.items()]
        late = time.monotonic() - self._sent > FLUSH_SECONDS
        if late or len(self._points) >= FLUSH_POINTS:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        for start in range(0, len(self._points), FLUSH_POINTS):
            self._client.log_batch(self.run_id, metrics=self._points[start : start + FLUSH_POINTS])
        self._points = []
        self._sent = time.monotonic()

    def text(self, text: str, file_name: str) -> None:
        """Keep `text` as an artifact."""
        self._client.log_text(self.run_id, text, file_name)

    def tags(self, tags: dict[str, str]) -> None:
        """Set tags on the run."""
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)


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
    # Read when mlflow is imported: it shall not look for the network, nor tell of its tables.
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DBAPIError

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
    import sqlite3

    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{place}", (place.parent / "mlartifacts").as_uri())
    store._dispose_engine()
    with sqlite3.connect(place) as connection:  # readers and writers no longer wait for each other
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
