"""The tracker that shows runs and sweeps in an MLflow store or server."""

import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmft.config.training_knobs import LogModel
from lmft.errors import Interrupted, StoreUnavailable, UserError
from lmft.output.sanitize import redact
from lmft.tracker.background import BackgroundUpload, mark_unavailable
from lmft.tracker.mlflow_errors import store_errors
from lmft.tracker.mlflow_model import ModelLogging, move_checkpoint
from lmft.tracker.mlflow_registry import LONGEST_NAME, find_version, is_name, set_best
from lmft.tracker.mlflow_store import (
    artifact_root,
    check_uri,
    find_run_of_folder,
    has_experiment,
    open_client,
    read_run_state,
    store_uri,
)
from lmft.tracker.mlflow_sweep import (
    FIRST_SWEEP_TAG,
    add_to_sweep,
    discard_sweep_run,
    end_dead_runs,
    log_numbers,
    open_sweep_run,
    set_tag,
)
from lmft.tracker.mlflow_system import SystemMonitor, is_asked_for
from lmft.tracker.mlflow_upload import RunUpload
from lmft.tracker.mlflow_view import default_tags, open_experiment
from lmft.tracker.protocol import BestJob, RunLog, SweepEntry
from lmft.tracker.run_log import Record, points_size, read_facts

logger = logging.getLogger(__name__)


EXPERIMENT = "lmft"  # unless the config or the environment names one


@dataclass(frozen=True)
class MlflowTracker:
    """Shows runs in an MLflow store or server."""

    uri: str | None  # null: MLFLOW_TRACKING_URI, else mlflow.db in the working directory
    experiment_name: str | None  # null: MLFLOW_EXPERIMENT_NAME, else lmft
    # Saved configs of before lack the knobs below.
    # Also if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is true.
    system_metrics: bool = False
    log_model: str = LogModel.best.value
    register: str | None = None

    @property
    def model_logging(self) -> ModelLogging:
        """How the weights of a finished run are logged and registered."""
        return ModelLogging(self.log_model, self.register)

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        return self.experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT

    def __post_init__(self) -> None:
        _ = self.model_logging  # checks its knobs
        if not isinstance(self.system_metrics, bool):
            raise UserError(
                f"tracker.system_metrics is {self.system_metrics!r}; set it to true or false."
            )
        if not is_name(self.experiment):
            raise UserError(
                f"tracker.experiment_name is {self.experiment!r}; set it to a text on one line, of "
                f"at most {LONGEST_NAME} characters."
            )

    def check(self) -> None:
        """Open the store, or create it; check that the experiment can be written.

        Raises:
            UserError: the settings can't be used.
            StoreUnavailable: the store does not answer now, but may do so later.
        """
        check_uri(store_uri(self.uri))
        if not has_experiment(store_uri(self.uri), self.experiment):
            with store_errors(store_uri(self.uri)):
                client = open_client(self.uri)
                experiment = client.get_experiment(self._experiment(client))
                # Asks for the right to edit, which is needed to create runs.
                for tag, value in default_tags().items():
                    kept = experiment.tags.get(tag, value)
                    client.set_experiment_tag(experiment.experiment_id, tag, kept)

    @contextmanager
    def track_run(self, record: Record, entry: SweepEntry | None = None) -> Iterator[RunLog]:
        """Find or create the record's run in MLflow, and upload the record every few seconds."""
        if entry is not None and FIRST_SWEEP_TAG not in read_facts(record.path)["tags"]:
            record.set_tags({FIRST_SWEEP_TAG: entry[0]})
        wants_metrics = self.system_metrics or is_asked_for()
        monitor = SystemMonitor(store_uri(self.uri)) if wants_metrics else None
        upload = self._start_upload(record, entry, monitor)
        status = "FAILED"
        try:
            yield upload
            status = "FINISHED"
        except Interrupted:
            status = "KILLED"
            raise
        except Exception as error:
            upload.set_tags({"reason": redact(f"{type(error).__name__}: {error}")[:500]})
            raise
        finally:
            record.end(status)
            upload.finish(status)

    @contextmanager
    def update_run(self, record: Record) -> Iterator[RunLog]:
        """Find or create the record's run in MLflow, upload what it lacks, and end it FINISHED."""
        yield record
        self._start_upload(record, None).finish("FINISHED")

    def is_up_to_date(self, path: Path, status: str = "FINISHED") -> bool:
        """Return whether the store has all of the run in the folder `path`, and `status`.

        False if the store does not answer.
        """
        uri = store_uri(self.uri)
        try:
            state = read_run_state(uri, path)
            if state is None or (state.status, state.sent) != (status, points_size(path)):
                return False
            return status != "FINISHED" or self.model_logging.is_logged(uri, path, state.run_id)
        except StoreUnavailable:
            mark_unavailable(uri)
            return False

    def upload(self, path: Path, status: str) -> int:
        """Upload what the store lacks of a run that has ended; return the number of points sent.

        Raises:
            UserError: the store does not take it.
            StoreUnavailable: the store does not answer.
        """
        upload = RunUpload(self._connect, path, None, self.model_logging)
        with store_errors(store_uri(self.uri)):
            upload.update(live=False)
            upload.end(status)
        return upload.points_sent

    def add_to_sweep(self, folder: str, sweep_id: str, name: str) -> None:
        """Make the run a child of the sweep's run; link it if it is part of another sweep."""
        with self._warn_if_unavailable("the run is not linked to its sweep"):
            add_to_sweep(open_client(self.uri), folder, sweep_id, name)

    def move_run(self, folder: str, new_folder: str) -> None:
        """Change the folder in the run's tags, and tag it as superseded."""
        with self._warn_if_unavailable("the earlier run keeps its old folder there"):
            client = open_client(self.uri)
            run = find_run_of_folder(client, folder)
            if run is not None:
                client.set_tag(run.info.run_id, "lmft.folder", new_folder)
                client.set_tag(run.info.run_id, "superseded", "true")
                move_checkpoint(client, run, new_folder)

    def open_sweep(self, key: str, name: str, tags: dict[str, str]) -> str | None:
        """Find or create the parent run with this key, and set it to RUNNING.

        Raises:
            UserError: the store can't be used.
            StoreUnavailable: the store does not answer.
        """
        with store_errors(store_uri(self.uri)):
            client = open_client(self.uri)
            return open_sweep_run(client, self._experiment(client), key, name, tags)

    def close_sweep(self, sweep_id: str, succeeded: bool, texts: Path, best: BestJob) -> None:
        """Log files, best job and metrics to the parent run, and set it to FINISHED or FAILED.

        The alias `best` of the registered model moves to the best run's version.
        """
        with self._warn_if_unavailable("the sweep is still shown as running"):
            client = open_client(self.uri)
            if best.folder is not None and self.register is not None:
                self._set_best(client, best.folder, self.register)
            set_tag(client, sweep_id, "best", redact(best.sentence))
            log_numbers(client, sweep_id, best.metrics)
            for file in texts.glob("*.*"):
                client.log_artifact(sweep_id, str(file))
            client.set_terminated(sweep_id, "FINISHED" if succeeded else "FAILED")

    def discard_sweep(self, sweep_id: str) -> None:
        """Delete the parent run; if it has children, set it to FAILED instead."""
        with self._warn_if_unavailable("the sweep is still shown as running"):
            discard_sweep_run(open_client(self.uri), sweep_id)

    def describe(self) -> str:
        """Return the store and the experiment."""
        return f"{store_uri(self.uri)}, experiment {self.experiment}"

    def how_to_view(self) -> str:
        """Return the server's address, or the command that opens the page on the store."""
        uri = store_uri(self.uri)
        if uri.startswith("http"):
            return uri
        words = ["lmft", "ui"]
        words += [] if uri == store_uri(None) else [f"tracker.uri={uri}"]
        words += [f"tracker.experiment_name={self.experiment_name}"] if self.experiment_name else []
        return shlex.join(words)

    def _set_best(self, client: Any, path: Path, name: str) -> None:
        """Move the alias to the version of the run in the folder `path`, which may have none yet.

        It may be of an earlier launch, which registered nothing.
        """
        if not self.is_up_to_date(path):
            self.upload(path, "FINISHED")
        run = find_run_of_folder(client, str(path))
        version = find_version(client, name, run.info.run_id) if run else None
        if version is not None:
            set_best(client, name, version)

    def _start_upload(
        self, record: Record, entry: SweepEntry | None, monitor: SystemMonitor | None = None
    ) -> BackgroundUpload:
        upload = RunUpload(self._connect, record.path, entry, self.model_logging)
        return BackgroundUpload(upload, record, store_uri(self.uri), monitor)

    @contextmanager
    def _warn_if_unavailable(self, consequence: str) -> Iterator[None]:
        """Log a warning if the store does not answer: running the same command again fixes that."""
        try:
            with store_errors(store_uri(self.uri)):
                yield
        except StoreUnavailable as error:
            logger.warning("%s; %s until the same command is run again.", error.what, consequence)

    def _connect(self) -> tuple[Any, str]:
        client = open_client(self.uri)
        experiment = self._experiment(client)
        end_dead_runs(client, experiment)
        return client, experiment

    def _experiment(self, client: Any) -> str:
        return open_experiment(client, self.experiment, artifact_root(self.uri))
