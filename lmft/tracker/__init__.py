"""Where the numbers of a run are kept: MLflow, or nowhere but in its folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from lmft.errors import Stopped, UserError
from lmft.tracker.log import Corpus, MlflowLog
from lmft.tracker.store import artifact_root, by_tag, folder_of, open_client, store_uri

__all__ = [
    "Corpus",
    "MlflowTracker",
    "NoTracker",
    "RunLog",
    "Tracker",
    "folder_of",
    "open_client",
    "store_uri",
]


class RunLog(Protocol):
    """What a run tells while it goes on."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Note `values`, measured after optimizer step `step`."""

    def text(self, text: str, file_name: str) -> None:
        """Keep a text beside the run."""

    def tags(self, tags: dict[str, str]) -> None:
        """Set facts that the run can be found by."""


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
        runs = client.search_runs(experiments, by_tag("lmft.folder", folder), max_results=1)
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
