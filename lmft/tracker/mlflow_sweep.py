"""Show a sweep in MLflow: a parent run with a child for each job."""

import socket
import time
from pathlib import Path
from typing import Any

import psutil

from lmft.storage.lock import is_locked
from lmft.tracker.mlflow_store import LINK_TAG, find_run_of_folder, tag_filter

PARENT_TAG, SWEEP_TAG = "mlflow.parentRunId", "lmft.sweep"
FIRST_SWEEP_TAG = "lmft.parent"  # the sweep that a run was first started in, kept in its folder


def open_sweep_run(client: Any, experiment: str, key: str, name: str, tags: dict[str, str]) -> str:
    """Return the id of the parent run of the sweep with this key; create it if it is new."""
    runs = client.search_runs([experiment], tag_filter(SWEEP_TAG, key), max_results=1)
    if runs:
        run_id = str(runs[0].info.run_id)
        client.update_run(run_id, "RUNNING")
    else:
        run = client.create_run(experiment, run_name=name, tags={SWEEP_TAG: key})
        run_id = str(run.info.run_id)
    for tag, value in tags.items():
        set_tag(client, run_id, tag, value)
    return run_id


def discard_sweep_run(client: Any, run_id: str) -> None:
    """End a sweep's run as FAILED, and delete it unless it has children."""
    client.set_terminated(run_id, "FAILED")
    experiment = client.get_run(run_id).info.experiment_id
    if not client.search_runs([experiment], tag_filter(PARENT_TAG, run_id), max_results=1):
        client.delete_run(run_id)


def log_numbers(client: Any, run_id: str, metrics: dict[str, float]) -> None:
    """Log numbers of a sweep as its latest: MLflow shows those of the last step and time."""
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    client.log_batch(run_id, [Metric(name, value, now, 0) for name, value in metrics.items()])


def set_tag(client: Any, run_id: str, tag: str, value: str) -> None:
    """Set a tag that another process may be setting at the same time."""
    from mlflow.exceptions import MlflowException

    try:
        client.set_tag(run_id, tag, value)
    except MlflowException:  # both tried to insert it, and the other one was first
        client.set_tag(run_id, tag, value)


def end_dead_runs(client: Any, experiment: str) -> None:
    """Set the status KILLED of runs that are RUNNING on this host but whose process is dead.

    A live run holds the lock of its folder; a sweep's run has no folder, but the id of its process.
    """
    query = f"attributes.status = 'RUNNING' and {tag_filter('host', socket.gethostname())}"
    for run in client.search_runs([experiment], query):
        folder, pid = run.data.tags.get("lmft.folder"), run.data.tags.get("pid", "0")
        if is_locked(Path(folder)) if folder else psutil.pid_exists(int(pid)):
            continue
        if client.get_run(run.info.run_id).info.status == "RUNNING":  # not ended since the search
            client.set_terminated(run.info.run_id, "KILLED")


def add_to_sweep(client: Any, folder: str, sweep_id: str, name: str) -> None:
    """Show the run of `folder` in a sweep, as `name`.

    MLflow allows a run one parent. If the run is part of another sweep, a linked copy of it is
    created, once it has finished.
    """
    run = find_run_of_folder(client, folder)
    if run is None:
        return
    parent = run.data.tags.get(PARENT_TAG)
    if parent is None:
        set_tag(client, run.info.run_id, PARENT_TAG, sweep_id)
        client.update_run(run.info.run_id, name=name)
    elif parent != sweep_id and run.info.status == "FINISHED":
        _link(client, run, sweep_id, name)


def has_run(client: Any, run_id: str) -> bool:
    """Return whether the store has a run with that id."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return False
    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def _link(client: Any, run: Any, sweep_id: str, name: str) -> None:
    """Create a run in the sweep with the params and last metrics of `run`, unless there is one."""
    from mlflow.entities import Metric, Param, RunTag

    query = f"{tag_filter(LINK_TAG, run.info.run_id)} and {tag_filter(PARENT_TAG, sweep_id)}"
    experiment = run.info.experiment_id
    if client.search_runs([experiment], query, max_results=1):
        return
    link = client.create_run(
        experiment,
        start_time=run.info.start_time,
        run_name=name,
        tags={PARENT_TAG: sweep_id, LINK_TAG: run.info.run_id},
    ).info.run_id
    points = [Metric(key, value, run.info.end_time, 0) for key, value in run.data.metrics.items()]
    params = [Param(key, value) for key, value in run.data.params.items()]
    note = f"The run itself is {run.info.run_id}."
    client.log_batch(link, points, params[:100], [RunTag("mlflow.note.content", note)])
    client.set_terminated(link, "FINISHED", end_time=run.info.end_time)
