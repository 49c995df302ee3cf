"""Find finished runs in an MLflow store by experiment or sweep."""

from dataclasses import dataclass
from typing import Any

from lmft.errors import UserError
from lmft.tracker.mlflow_store import (
    LINK_TAG,
    find_run_of_folder,
    open_client,
    sqlite_path,
    store_uri,
    tag_filter,
)
from lmft.tracker.mlflow_sweep import PARENT_TAG

FOLDER_TAG = "lmft.folder"


@dataclass(frozen=True)
class FinishedRuns:
    """The folders of the finished runs of an experiment or a sweep."""

    folders: list[str]  # the oldest first
    unfinished: int  # how many other runs there are


@dataclass(frozen=True)
class ExistingStore:
    """Queries on an MLflow store that exists; nothing is created."""

    client: Any

    def find_experiment_runs(self, name: str) -> FinishedRuns:
        """Return the runs of an experiment.

        Raises:
            UserError: there is no such experiment.
        """
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            names = [experiment.name for experiment in self.client.search_experiments()]
            raise UserError(
                f"tracker.experiment_name is {name!r}, but the store has only "
                f"{', '.join(map(repr, names))}."
            )
        return _finished(self.client.search_runs([experiment.experiment_id]))

    def find_sweep_runs(self, sweep_id: str) -> FinishedRuns:
        """Return the children of a sweep's run; none if `sweep_id` is not the id of a sweep."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        children = self.client.search_runs(experiments, tag_filter(PARENT_TAG, sweep_id))
        linked = [run.data.tags.get(LINK_TAG) for run in children]
        return _finished(
            [
                self.client.get_run(link) if link else run
                for run, link in zip(children, linked, strict=True)
            ]
        )

    def name_of(self, run_id: str) -> str:
        """Return the name of a run or a sweep."""
        return str(self.client.get_run(run_id).info.run_name)

    def log_texts(self, run_id: str | None, folder: str, texts: dict[str, str]) -> bool:
        """Log texts as artifacts of a run; return False if there is no such run.

        Args:
            run_id: of the run; None: the run of `folder`.
            folder: of a run.
            texts: by file name.
        """
        if run_id is None:
            run = find_run_of_folder(self.client, folder)
            if run is None:
                return False
            run_id = run.info.run_id
        for name, text in texts.items():
            self.client.log_text(run_id, text, name)
        return True


def open_existing_store(uri: str | None) -> ExistingStore | None:
    """Open the store at `uri`; None if there is none."""
    path = sqlite_path(store_uri(uri))
    return None if path is not None and not path.exists() else ExistingStore(open_client(uri))


def _finished(runs: list[Any]) -> FinishedRuns:
    tracked = [run for run in runs if FOLDER_TAG in run.data.tags]
    finished = [run for run in tracked if run.info.status == "FINISHED"]
    folders = [run.data.tags[FOLDER_TAG] for run in reversed(finished)]
    return FinishedRuns(list(dict.fromkeys(folders)), len(tracked) - len(finished))
