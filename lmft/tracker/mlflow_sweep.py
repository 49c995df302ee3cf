"""Sweeps in MLflow: a parent run, and a child for each job."""

import socket
from pathlib import Path
from typing import Any

import psutil

from lmft.storage.lock import is_locked
from lmft.tracker.mlflow_store import by_tag, find_run_of_folder

PARENT, SWEEP, LINK = "mlflow.parentRunId", "lmft.sweep", "lmft.link"

JOINED = "lmft.parent"  # the sweep that the run was first started in, as its folder remembers it


def open_parent(client: Any, experiment: str, key: str, name: str, tags: dict[str, str]) -> str:
    """The id of the run that stands for the sweep of that key: found, or made."""
    found = client.search_runs([experiment], by_tag(SWEEP, key), max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
        client.update_run(run_id, "RUNNING")
    else:
        run = client.create_run(experiment, run_name=name, tags={SWEEP: key})
        run_id = str(run.info.run_id)
    for tag, value in tags.items():
        set_tag(client, run_id, tag, value)
    return run_id


def drop_parent(client: Any, run_id: str) -> None:
    """End the run that stands for a sweep as FAILED, and delete it unless it has children."""
    client.set_terminated(run_id, "FAILED")
    experiment = client.get_run(run_id).info.experiment_id
    if not client.search_runs([experiment], by_tag(PARENT, run_id), max_results=1):
        client.delete_run(run_id)


def set_tag(client: Any, run_id: str, tag: str, value: str) -> None:
    """Set a tag that another process may be setting at this moment."""
    from mlflow.exceptions import MlflowException

    try:
        client.set_tag(run_id, tag, value)
    except MlflowException:  # both found it missing, and the other one was faster
        client.set_tag(run_id, tag, value)


def end_stale(client: Any, experiment: str) -> None:
    """Call KILLED what says RUNNING on this host although its process is dead.

    A run that is at work holds the lock of its folder; a sweep is known by its process.
    """
    running = client.search_runs(
        [experiment], f"attributes.status = 'RUNNING' and {by_tag('host', socket.gethostname())}"
    )
    for run in running:
        folder, pid = run.data.tags.get("lmft.folder"), run.data.tags.get("pid", "0")
        if is_locked(Path(folder)) if folder else psutil.pid_exists(int(pid)):
            continue
        if client.get_run(run.info.run_id).info.status == "RUNNING":  # it may have ended just now
            client.set_terminated(run.info.run_id, "KILLED")


def adopt(client: Any, folder: str, parent: str, name: str) -> None:
    """Show the run of `folder` under `parent`.

    A run has one parent in MLflow: where it is another sweep's, a link to it stands here, made once
    it has finished.
    """
    run = find_run_of_folder(client, folder)
    if run is None:
        return
    own = run.data.tags.get(PARENT)
    if own is None:
        set_tag(client, run.info.run_id, PARENT, parent)
        client.update_run(run.info.run_id, name=name)
    elif own != parent and run.info.status == "FINISHED":
        _link(client, run, parent, name)


def knows_run(client: Any, run_id: str) -> bool:
    """Whether the store has a run of that id."""
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


def _link(client: Any, run: Any, parent: str, name: str) -> None:
    from mlflow.entities import Metric, Param, RunTag

    query = f"{by_tag(LINK, run.info.run_id)} and {by_tag(PARENT, parent)}"
    experiment = run.info.experiment_id
    if client.search_runs([experiment], query, max_results=1):
        return
    link = client.create_run(
        experiment,
        start_time=run.info.start_time,
        run_name=name,
        tags={PARENT: parent, LINK: run.info.run_id},
    ).info.run_id
    points = [Metric(key, value, run.info.end_time, 0) for key, value in run.data.metrics.items()]
    params = [Param(key, value) for key, value in run.data.params.items()]
    note = f"The run itself is {run.info.run_id}."
    client.log_batch(link, points, params[:100], [RunTag("mlflow.note.content", note)])
    client.set_terminated(link, "FINISHED", end_time=run.info.end_time)
