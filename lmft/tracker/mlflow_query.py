"""What an MLflow store remembers: the runs of a sweep or an experiment, and their curves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmft.errors import UserError
from lmft.tracker.mlflow_store import (
    by_tag,
    find_run_of_folder,
    open_client,
    sqlite_path,
    store_uri,
)
from lmft.tracker.mlflow_sweep import LINK, PARENT
from lmft.tracker.run_log import read_curve

FOLDER = "lmft.folder"

CURVES = ("train/loss", "validation/loss")


@dataclass(frozen=True)
class Curve:
    """A metric by optimizer step."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class Found:
    """The finished runs' folders under one name; how many others had not finished."""

    folders: list[str]
    unfinished: int


@dataclass(frozen=True)
class History:
    """An MLflow store that is there; nothing is ever made."""

    client: Any

    def of_experiment(self, name: str) -> Found:
        """The runs of an experiment.

        Raises:
            UserError: there is no such experiment.
        """
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            known = [found.name for found in self.client.search_experiments()]
            raise UserError(
                f"tracker.experiment_name is {name!r}, but the store has only "
                f"{', '.join(map(repr, known))}."
            )
        return _found(self.client.search_runs([experiment.experiment_id]))

    def keep(self, run_id: str | None, folder: str, texts: dict[str, str]) -> bool:
        """Keep texts as artifacts of a run, else of the one of `folder`; False without one."""
        if run_id is None:
            run = find_run_of_folder(self.client, folder)
            if run is None:
                return False
            run_id = run.info.run_id
        for name, text in texts.items():
            self.client.log_text(run_id, text, name)
        return True

    def of_sweep(self, parent: str) -> Found:
        """The children of a sweep's run; none where `parent` is not a sweep's id."""
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        children = self.client.search_runs(experiments, by_tag(PARENT, parent))
        linked = [run.data.tags.get(LINK) for run in children]
        return _found(
            [
                self.client.get_run(link) if link else run
                for run, link in zip(children, linked, strict=True)
            ]
        )


def open_history(uri: str | None) -> History | None:
    """The store at `uri`, or None where there is none."""
    place = sqlite_path(store_uri(uri))
    return None if place is not None and not place.exists() else History(open_client(uri))


def read_curves(folder: Path) -> dict[str, Curve]:
    """The loss curves of the run in `folder`, by metric."""
    found = {key: read_curve(folder, key) for key in CURVES}
    return {key: Curve(list(by), list(by.values())) for key, by in found.items() if by}


def _found(runs: list[Any]) -> Found:
    kept = [run for run in runs if FOLDER in run.data.tags]
    finished = [run for run in kept if run.info.status == "FINISHED"]
    folders = [run.data.tags[FOLDER] for run in reversed(finished)]  # the oldest first
    return Found(list(dict.fromkeys(folders)), len(kept) - len(finished))
