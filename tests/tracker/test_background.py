"""A store that is down, slow or locked does not delay training, and each point arrives once."""

import shutil
import sqlite3
import time
from contextlib import closing, suppress

import pytest

from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.tracker.run_log import Facts, Record
from tests.helpers.processes import wait_for

# MLflow's server is built on it.
pytestmark = pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")


def arrived(store, folder):
    def look():
        with suppress(ValueError):  # not even the run is there
            return "loss" in store.run_of(folder).data.metrics

    return look


def test_points_recorded_while_the_server_is_down_arrive_once_each(server, store, record, caplog):
    with MlflowTracker(server.uri, "away").track_run(record) as log:
        log.log_metrics({"loss": 0.0}, 0)
        wait_for(arrived(store, record.path))
        server.stop()
        for step in range(1, 250):
            started = time.perf_counter()
            log.log_metrics({"loss": float(step)}, step)
            assert time.perf_counter() - started < 0.5
        wait_for(lambda: "does not accept the upload" in caplog.text)
        server.start()
        wait_for(lambda: "answers again" in caplog.text)
        log.log_metrics({"loss": 250.0}, 250)
    store.check_points(record.path)
    assert store.run_of(record.path).info.status == "FINISHED"
    assert caplog.text.count("does not accept the upload") == 1


def test_a_lost_response_duplicates_no_point_and_no_run(server, store, record):
    lost = []

    def lose(path):
        """The first answer to each kind of request, and the fourth and ninth to a batch."""
        lost.append(path)
        return lost.count(path) == 1 or (path.endswith("log-batch") and lost.count(path) in (4, 9))

    server.lose = lose
    with MlflowTracker(server.uri, "lossy").track_run(record) as log:
        for step in range(900):
            log.log_metrics({"loss": float(step)}, step)
        log.log_text("a text", "samples_before.txt")
    assert lost.count("/api/2.0/mlflow/runs/create") == 1
    assert lost.count("/api/2.0/mlflow/runs/log-batch") > 9
    store.check_points(record.path)
    assert store.run_of(record.path).info.status == "FINISHED"


def test_a_locked_store_does_not_delay_a_run_and_gets_all_points(
    store, record, eager_sender, caplog, monkeypatch
):
    longest = 0.0
    with MlflowTracker(store.uri, "locked").track_run(record) as log:
        log.log_metrics({"loss": 0.0}, 0)
        wait_for(arrived(store, record.path))
        with closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN EXCLUSIVE")
            for step in range(1, 200):
                started = time.perf_counter()
                log.log_metrics({"loss": float(step)}, step)
                longest = max(longest, time.perf_counter() - started)
                time.sleep(0.01)
            assert store.run_of(record.path).data.metrics == {"loss": 0.0}
            other.rollback()
    assert longest < 0.5 and not caplog.text
    store.check_points(record.path)


def test_a_new_run_in_the_folder_of_a_removed_one_is_a_run_of_its_own(
    store, tmp_path, eager_sender
):
    tracker, ids = MlflowTracker(store.uri, "again"), []
    for value in (1.0, 2.0):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "run").mkdir()
        with closing(Record(tmp_path / "run")) as record:
            record.start(Facts("run", "key", {}, [], "fp32"), {})
            assert not tracker.is_up_to_date(record.path)
            with tracker.track_run(record) as log:
                log.log_metrics({"loss": value}, 1)
            assert tracker.is_up_to_date(record.path)
        assert store.points(tmp_path / "run", "loss") == {1: value}
        ids.append(store.run_of(tmp_path / "run").info.run_id)
    assert len(set(ids)) == 2
    assert store.client.get_run(ids[0]).data.tags["superseded"] == "true"
