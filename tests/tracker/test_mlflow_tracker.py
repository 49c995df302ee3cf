import signal
import socket
import sqlite3
import threading
import time
from contextlib import closing

import pytest
from mlflow import MlflowClient

from lmft.errors import Interrupted, UserError
from lmft.tracker.mlflow_query import open_existing_store
from lmft.tracker.mlflow_store import open_client
from lmft.tracker.mlflow_sweep import end_dead_runs
from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.tracker.protocol import NoTracker
from lmft.tracker.run_log import Record
from tests.helpers.processes import fork, wait_for

LOAD = "system/cpu_utilization_percentage"


def test_a_run_of_the_command_holds_every_step_and_knob(fit, store, corpus):
    folder = fit(*corpus, *store.overrides, "dataset.block_size=16", "trainer.evaluate_every=4")
    run = store.run_of(folder)
    steps = max(store.points(folder, "train/loss"))
    for key in (
        "loss",
        "perplexity",
        "learning_rate",
        "grad_norm",
        "share_of_limit",
    ):
        assert list(store.points(folder, f"train/{key}")) == list(range(1, steps + 1))
    speeds = set(store.points(folder, "train/tokens_per_second"))
    assert 1 in speeds and steps not in speeds  # whose batch is short
    evaluated = sorted({0, *range(4, steps + 1, 4), steps})
    assert list(store.points(folder, "validation/loss")) == evaluated
    assert len(store.points(folder, "test/perplexity")) == 1
    assert run.info.status == "FINISHED"
    assert run.data.params["trainer.batch_size"] == "8"
    assert run.data.params["optimizer.lr"] == "0.001"
    assert "None" not in run.data.params.values() and len(run.data.tags) <= 20
    assert "torch" in run.data.tags["versions"]
    assert run.info.run_name.endswith(f"evaluate_every=4 {folder.name}")
    assert run.data.tags["mlflow.source.git.commit"]
    shown = {kept.tags[0].value: kept.dataset for kept in run.inputs.dataset_inputs}
    assert shown.keys() == {"training", "validation", "test"}
    for context, dataset in shown.items():
        split = context.replace("training", "train")
        assert dataset.name == "text_files" and f"{split}.txt" in dataset.source
    names = {artifact.path for artifact in store.client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "samples_before.txt", "samples_after.txt"} <= names


@pytest.mark.parametrize(
    ("ending", "status"),
    [(None, "FINISHED"), (RuntimeError("no"), "FAILED"), (Interrupted(signal.SIGTERM), "KILLED")],
)
def test_however_a_run_ends_its_status_and_its_points_are_kept(store, record, ending, status):
    tracker = MlflowTracker(store.uri, "ends")
    try:
        with tracker.track_run(record) as log:
            log.log_metrics({"loss": 1.5}, 3)
            if ending is not None:
                raise ending
    except (RuntimeError, Interrupted):
        pass
    run = store.run_of(record.path)
    assert run.info.status == status
    assert run.data.metrics == {"loss": 1.5}
    assert len(run.data.params["long"]) == 6000
    assert run.data.tags.get("reason") == ("RuntimeError: no" if status == "FAILED" else None)
    assert tracker.is_up_to_date(record.path) == (status == "FINISHED")


def test_many_points_travel_together_and_arrive_once_each(store, record):
    with MlflowTracker(store.uri, "many").track_run(record) as log:
        for step in range(2500):
            log.log_metrics({"loss": float(step)}, step)
    assert store.points(record.path, "loss") == {step: float(step) for step in range(2500)}


def test_points_that_are_sent_twice_change_nothing(store, record):
    tracker = MlflowTracker(store.uri, "again")
    with tracker.track_run(record) as log:
        log.log_metrics({"loss": 1.0}, 1)
    store.client.set_tag(store.run_of(record.path).info.run_id, "lmft.sent", "0")
    with tracker.track_run(record) as log:
        log.log_metrics({"loss": 2.0}, 2)
    assert store.points(record.path, "loss") == {1: 1.0, 2: 2.0}


def test_a_store_that_lacks_a_run_is_filled_from_its_folder(store, record, tmp_path):
    with NoTracker().track_run(record) as log:
        log.log_metrics({"loss": 1.0}, 1)
        log.log_text("before", "samples_before.txt")
        log.set_tags({"label": "good"})
    tracker = MlflowTracker(store.uri, "filled")
    with tracker.update_run(record):
        pass
    run = store.run_of(record.path)
    assert run.info.status == "FINISHED" and run.data.tags["label"] == "good"
    assert [artifact.path for artifact in store.client.list_artifacts(run.info.run_id)] == [
        "samples_before.txt"
    ]
    assert store.points(record.path, "loss") == {1: 1.0}


def test_a_folder_that_was_moved_keeps_its_mlflow_run(store, record):
    tracker = MlflowTracker(store.uri, "moved")
    with tracker.track_run(record) as log:
        log.log_metrics({"loss": 1.0}, 1)
    run_id = store.run_of(record.path).info.run_id
    moved_to = record.path.rename(record.path.with_name(f"{record.path.name}-moved"))
    for _ in range(2):
        with closing(Record(moved_to)) as moved, tracker.update_run(moved):
            pass
        assert tracker.is_up_to_date(moved_to)
        assert store.run_of(moved_to).info.run_id == run_id
        assert store.points(moved_to, "loss") == {1: 1.0}


def test_a_run_of_another_sweep_is_linked_once(store, record):
    tracker = MlflowTracker(store.uri, "linked")
    with tracker.track_run(record) as log:
        log.log_metrics({"loss": 1.0}, 1)
    first, second = (tracker.open_sweep(key, key, {}) for key in ("one", "two"))
    assert tracker.open_sweep("one", "one", {}) == first
    for parent in (first, second, second):
        tracker.add_to_sweep(str(record.path), parent, f"lr={parent}")
    run = store.run_of(record.path)
    assert run.data.tags["mlflow.parentRunId"] == first
    history = open_existing_store(store.uri)
    for parent in (first, second):
        assert history.find_sweep_runs(parent).folders == [str(record.path)]


def open_when_told(uri, folder):
    (folder / "ready").touch()
    while not (folder / "start").exists():
        time.sleep(0.001)
    open_client(uri).search_experiments()


@pytest.mark.soak
def test_two_processes_making_one_store_at_once_both_find_it_whole(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    child = fork(open_when_told, uri, tmp_path)
    wait_for(lambda: (tmp_path / "ready").exists() or not child.is_alive())
    (tmp_path / "start").touch()
    assert open_client(uri).search_experiments()
    child.join(60)
    assert child.exitcode == 0
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_store_that_can_not_be_opened_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(UserError, match="tracker.uri"):
        open_client(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_deleted_experiment_is_named(store):
    store.client.delete_experiment(store.client.create_experiment("gone"))
    with pytest.raises(UserError, match="tracker.experiment_name"):
        MlflowTracker(store.uri, "gone").check()


@pytest.mark.parametrize("by", ["knob", "environment"])
def test_system_metrics_are_logged_until_the_run_ends(store, record, eager_sender, monkeypatch, by):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    if by == "environment":
        monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    tracker = MlflowTracker(store.uri, "system", system_metrics=by == "knob")

    def sampled():
        return [run for run in store.runs_of(record.path) if LOAD in run.data.metrics]

    def monitors():
        return [some for some in threading.enumerate() if some.name == "SystemMetricsMonitor"]

    with pytest.raises(RuntimeError), tracker.track_run(record) as log:
        log.log_metrics({"loss": 1.0}, 1)
        wait_for(sampled)
        assert len(monitors()) == 1
        raise RuntimeError("no")
    assert monitors() == []
    assert store.run_of(record.path).info.status == "FAILED"
    store.points(record.path, LOAD)  # each step once


@pytest.mark.parametrize("end", ["RUNNING", "FINISHED"])
def test_only_a_run_that_is_dead_is_called_killed_not_one_that_ends_meanwhile(store, tmp_path, end):
    class EndsMeanwhile(MlflowClient):
        def search_runs(self, *some, **more):
            found = super().search_runs(*some, **more)
            if end == "FINISHED":
                self.set_terminated(run.info.run_id, end)
            return found

    client = EndsMeanwhile(store.client.tracking_uri)
    tags = {"host": socket.gethostname(), "lmft.folder": str(tmp_path)}
    run = client.create_run(client.create_experiment(f"of {end}"), tags=tags)
    end_dead_runs(client, run.info.experiment_id)
    assert client.get_run(run.info.run_id).info.status == ("KILLED" if end == "RUNNING" else end)


def test_mlflow_environment_names_the_store_and_the_experiment(
    fit, corpus, store, monkeypatch, capsys
):
    words = [*corpus, "dataset.block_size=16", "trainer.max_steps=1", "tracker=mlflow"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")
    folder = fit(*words)
    experiment = store.client.get_experiment_by_name("from the environment")
    assert store.run_of(folder).info.experiment_id == experiment.experiment_id
    printed = "".join(capsys.readouterr().out.split())  # a long path is broken anywhere
    assert f"{store.uri},experimentfromtheenvironment" in printed
    other = fit(*words, "tracker.experiment_name=named", "seed=1")
    named = store.client.get_experiment_by_name("named")
    assert store.run_of(other).info.experiment_id == named.experiment_id
