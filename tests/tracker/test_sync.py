"""A store that is away, slow or locked: training does not notice, and each point arrives once."""

import shutil
import sqlite3
import threading
import time
from contextlib import closing, suppress

import pytest

from lmft.storage.lock import run_lock
from lmft.tracker import background as sender
from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.tracker.run_log import Facts, Record, read_points
from lmft.trainer.loop import fine_tune
from tests.conftest import wait_for
from tests.helpers.server import Server
from tests.trainer.test_resume import line_of

# MLflow's server is built on it.
pytestmark = pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")


@pytest.fixture
def quick(monkeypatch):
    """Sent so often that a test can wait for it."""
    monkeypatch.setattr(sender, "SEND_SECONDS", 0.05)
    monkeypatch.setattr(sender, "AGAIN_SECONDS", 0.05)
    yield
    sender._silent.clear()


@pytest.fixture
def server(store, monkeypatch, quick):
    with Server(store.uri, monkeypatch) as server:
        yield server


@pytest.fixture
def record(tmp_path):
    """The record of a run that has just begun."""
    with closing(Record(tmp_path)) as record:
        facts = Facts("run", "key", {"seed": 0}, "cats", "0123456789", "fp32")
        record.start(facts, {"lmft.folder": str(tmp_path)})
        yield record


def check_points(store, folder):
    """The store has each point of the folder once, with its time, in order."""
    noted = {}
    for points in read_points(folder):
        for key, value in points.metrics.items():
            noted.setdefault(key, []).append((points.step, value, points.time))
    client, run_id = store.client, store.run_of(folder).info.run_id
    for key, expected in noted.items():
        history = client.get_metric_history(run_id, key)
        assert [(point.step, point.value, point.timestamp) for point in history] == expected


def arrived(store, folder):
    def look():
        with suppress(ValueError):  # not even the run is there
            return "loss" in store.run_of(folder).data.metrics

    return look


def test_points_noted_while_the_server_is_away_arrive_once_each_when_it_is_back(
    server, store, record, caplog
):
    with MlflowTracker(server.uri, "away").follow(record) as log:
        log.metrics({"loss": 0.0}, 0)
        wait_for(arrived(store, record.path))
        server.stop()
        for step in range(1, 250):
            started = time.perf_counter()
            log.metrics({"loss": float(step)}, step)
            assert time.perf_counter() - started < 0.5
        wait_for(lambda: "does not take what it is sent" in caplog.text)
        server.start()
        wait_for(lambda: "answers again" in caplog.text)
        log.metrics({"loss": 250.0}, 250)
    check_points(store, record.path)
    assert store.run_of(record.path).info.status == "FINISHED"
    assert caplog.text.count("does not take what it is sent") == 1


def test_an_answer_that_is_lost_makes_no_point_and_no_run_twice(server, store, record):
    lost = []

    def lose(path):
        """The first answer to each kind of request, and the fourth and ninth to a batch."""
        lost.append(path)
        return lost.count(path) == 1 or (path.endswith("log-batch") and lost.count(path) in (4, 9))

    server.lose = lose
    with MlflowTracker(server.uri, "lossy").follow(record) as log:
        for step in range(900):
            log.metrics({"loss": float(step)}, step)
        log.text("a text", "samples_before.txt")
    assert lost.count("/api/2.0/mlflow/runs/create") == 1
    assert lost.count("/api/2.0/mlflow/runs/log-batch") > 9
    check_points(store, record.path)
    assert store.run_of(record.path).info.status == "FINISHED"


def test_a_store_that_stays_away_ends_a_run_soon_and_sync_sends_what_waits(
    server, store, corpus, command, tmp_path, monkeypatch
):
    monkeypatch.setattr(sender, "PATIENCE", 1.0)
    server.stop()
    line = line_of(corpus, "clm", "trainer.max_steps=3", f"tracker.uri={server.uri}")
    code, _, complaint = command(line)
    assert code == 2 and "tracker.uri" in complaint and "Connection refused" in complaint
    assert complaint.count("\n") == 1 and not list(tmp_path.glob("runs/*-*"))
    server.start()
    monkeypatch.setattr("lmft.trainer.run.fine_tune", stopping(server, fine_tune))
    code, printed, complaint = command(line)
    (folder,) = tmp_path.glob("runs/*-*")
    assert code == 0 and (folder / "result.json").exists()
    assert f"lmft sync {folder.name} sends them" in complaint and complaint.count("wait in") == 2
    code, printed, _ = command(line)
    assert code == 0 and "has finished already" in printed
    code, printed, complaint = command("sync")
    assert code == 2 and "does not answer" in complaint and "lmft sync again" in complaint
    server.start()
    code, printed, _ = command(f"sync {folder.name}")
    assert code == 0 and "1 sent" in printed and "FINISHED" in printed
    check_points(store, folder)
    names = {found.path for found in store.client.list_artifacts(store.run_of(folder).info.run_id)}
    assert {"config.yaml", "samples_after.txt", "card.md"} <= names
    assert "1 there already" in command("sync")[1]


def stopping(server, story):
    def tell(*args):
        server.stop()
        return story(*args)

    return tell


def test_a_locked_store_does_not_hold_up_a_run_and_gets_all_points(
    store, record, quick, caplog, monkeypatch
):
    longest = 0.0
    with MlflowTracker(store.uri, "locked").follow(record) as log:
        log.metrics({"loss": 0.0}, 0)
        wait_for(arrived(store, record.path))
        with closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN EXCLUSIVE")
            for step in range(1, 200):
                started = time.perf_counter()
                log.metrics({"loss": float(step)}, step)
                longest = max(longest, time.perf_counter() - started)
                time.sleep(0.01)
            assert store.run_of(record.path).data.metrics == {"loss": 0.0}
            other.rollback()
    assert longest < 0.5 and not caplog.text
    check_points(store, record.path)


def test_what_a_sync_finds_decides_what_it_sends(store, command, corpus, tmp_path):
    line = line_of(corpus, "clm", "trainer.max_steps=3")
    assert command(f"{line} tracker=none")[0] == 0
    (folder,) = tmp_path.glob("runs/*-*")
    assert "1 without a tracker" in command("sync")[1]
    to = f"tracker=mlflow tracker.uri={store.uri}"
    with run_lock(folder):
        assert "1 at work" in command(f"sync {to}")[1]
    assert "1 sent" in command(f"sync {to}")[1]
    assert "1 there already" in command(f"sync {folder} {to}")[1]
    check_points(store, folder)
    code, _, complaint = command("sync optimizer.lr=1")
    assert code == 2 and "optimizer.lr" in complaint


def test_who_answers_waits_for_who_still_sends(store, command, corpus, tmp_path, caplog):
    line = line_of(corpus, "clm", "trainer.max_steps=3")
    assert command(f"{line} tracker=none")[0] == 0
    (folder,) = tmp_path.glob("runs/*-*")
    tracker, before = MlflowTracker(store.uri, "sent"), []
    holding = threading.Event()

    def send():
        with run_lock(folder):
            holding.set()
            wait_for(lambda: "waiting for it" in caplog.text)
            before.extend(store.runs_of(folder))
            tracker.fill(folder, "FINISHED")

    sender = threading.Thread(target=send)
    sender.start()
    holding.wait()
    to = f"tracker=mlflow tracker.uri={store.uri} tracker.experiment_name=sent"
    assert command(f"{line} {to}")[0] == 0
    sender.join()
    assert before == [] and len(store.runs_of(folder)) == 1
    check_points(store, folder)


def test_a_new_run_at_the_place_of_one_that_was_removed_is_a_run_of_its_own(store, tmp_path, quick):
    tracker, ids = MlflowTracker(store.uri, "again"), []
    for value in (1.0, 2.0):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "run").mkdir()
        with closing(Record(tmp_path / "run")) as record:
            record.start(Facts("run", "key", {}, "cats", "0123", "fp32"), {})
            assert not tracker.holds(record.path)
            with tracker.follow(record) as log:
                log.metrics({"loss": value}, 1)
            assert tracker.holds(record.path)
        assert store.points(tmp_path / "run", "loss") == {1: value}
        ids.append(store.run_of(tmp_path / "run").info.run_id)
    assert len(set(ids)) == 2
    assert store.client.get_run(ids[0]).data.tags["superseded"] == "true"
