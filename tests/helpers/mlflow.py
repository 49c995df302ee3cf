"""An MLflow store of a test, and what is in it."""

from pathlib import Path

from lmft.tracker.mlflow_store import open_client
from lmft.tracker.run_log import read_points


class Store:
    """The store in a folder."""

    def __init__(self, root: Path):
        self.uri = f"sqlite:///{root / 'mlflow.db'}"
        self.overrides = ["tracker=mlflow", f"tracker.uri={self.uri}"]

    @property
    def client(self):
        return open_client(self.uri)

    def runs(self, **options):
        """All runs of all experiments."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, **options))

    def runs_of(self, folder: Path):
        """All runs of this folder."""
        return self.runs(filter_string=f"tags.`lmft.folder` = '{folder}'")

    def run_of(self, folder: Path):
        """The one run of this folder."""
        (run,) = self.runs_of(folder)
        return run

    def points(self, folder: Path, key: str) -> dict[int, float]:
        """The values of one metric by step; each step must be there once."""
        run_id = self.run_of(folder).info.run_id
        history = self.client.get_metric_history(run_id, key)
        assert len(history) == len({point.step for point in history})
        return {point.step: point.value for point in history}

    def metrics(self, folder: Path) -> dict[tuple[int, str], float]:
        """Every metric of a run by step and name; each must be there once."""
        run, client, metrics = self.run_of(folder), self.client, {}
        for name in run.data.metrics:
            for point in client.get_metric_history(run.info.run_id, name):
                assert (point.step, name) not in metrics
                metrics[point.step, name] = point.value
        return metrics

    def sweeps(self):
        """The parent runs of sweeps, and their jobs; there must be no other run."""
        runs = self.runs()
        parents = {run.info.run_id: run for run in runs if "lmft.sweep" in run.data.tags}
        jobs = [run for run in runs if run.data.tags.get("mlflow.parentRunId") in parents]
        assert len(parents) + len(jobs) == len(runs)
        return list(parents.values()), jobs

    def check_points(self, folder: Path) -> None:
        """Check that the store has each point of the folder once, with its time, in order."""
        noted = {}
        for points in read_points(folder):
            for key, value in points.metrics.items():
                noted.setdefault(key, []).append((points.step, value, points.time))
        client, run_id = self.client, self.run_of(folder).info.run_id
        for key, expected in noted.items():
            history = client.get_metric_history(run_id, key)
            assert [(point.step, point.value, point.timestamp) for point in history] == expected
