"""What an MLflow store remembers: the runs of a sweep or an experiment, and their curves."""

from dataclasses import dataclass
from typing import Any

from lmft.errors import UserError
from lmft.tracker import open_client, store_uri
from lmft.tracker.log import MlflowLog
from lmft.tracker.store import by_tag, sqlite_path

PARENT = "mlflow.parentRunId"
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

    def of_sweep(self, parent: str) -> Found:
        """The children of a sweep's run; none where `parent` is not a sweep's id."""
        return _found(self._search(PARENT, parent))

    def curves(self, folder: str) -> dict[str, Curve]:
        """The loss curves of the newest run of `folder`, by metric."""
        runs = self._search(FOLDER, folder, most=1)
        found = {}
        for key in CURVES if runs else ():
            points = self.client.get_metric_history(runs[0].info.run_id, key)
            by_step = dict(sorted((point.step, point.value) for point in points))
            if by_step:
                found[key] = Curve(list(by_step), list(by_step.values()))
        return found

    def keep(self, run_id: str | None, folder: str, texts: dict[str, str]) -> bool:
        """Keep texts as artifacts of a run, else of the newest of `folder`; False without one."""
        if run_id is None:
            runs = self._search(FOLDER, folder, most=1)
            if not runs:
                return False
            run_id = runs[0].info.run_id
        log = MlflowLog(self.client, run_id)
        for name, text in texts.items():
            log.text(text, name)
        return True

    def _search(self, tag: str, value: str, most: int = 1000) -> list[Any]:
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, by_tag(tag, value), max_results=most))


def open_history(uri: str | None) -> History | None:
    """The store at `uri`, or None where there is none."""
    place = sqlite_path(store_uri(uri))
    return None if place is not None and not place.exists() else History(open_client(uri))


def _found(runs: list[Any]) -> Found:
    kept = [run for run in runs if FOLDER in run.data.tags]
    finished = [run for run in kept if run.info.status == "FINISHED"]
    folders = [run.data.tags[FOLDER] for run in reversed(finished)]  # the oldest first
    return Found(list(dict.fromkeys(folders)), len(kept) - len(finished))
