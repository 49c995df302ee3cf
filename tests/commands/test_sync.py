"""`lmft sync`: a store gets what it lacks of runs, once."""

import threading

import pytest

from lmft.storage.lock import run_lock
from lmft.tracker import background
from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.trainer.loop import fine_tune
from tests.helpers.processes import wait_for
from tests.helpers.runs import train_command

# MLflow's server is built on it.
pytestmark = pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")


def test_a_run_ends_soon_without_its_store_and_sync_sends_its_points(
    server, store, corpus, command, tmp_path, monkeypatch
):
    monkeypatch.setattr(background, "GIVE_UP_AFTER", 1.0)
    server.stop()
    line = train_command(corpus, "clm", "trainer.max_steps=3", f"tracker.uri={server.uri}")
    code, _, complaint = command(line)
    assert code == 2 and "tracker.uri" in complaint and "Connection refused" in complaint
    assert complaint.count("\n") == 1 and not list(tmp_path.glob("runs/*-*"))
    server.start()
    monkeypatch.setattr("lmft.trainer.train.fine_tune", stopping(server, fine_tune))
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
    store.check_points(folder)
    names = {found.path for found in store.client.list_artifacts(store.run_of(folder).info.run_id)}
    assert {"config.yaml", "samples_after.txt", "card.md"} <= names
    assert "1 there already" in command("sync")[1]


def stopping(server, train):
    def stop_and_train(*args):
        server.stop()
        return train(*args)

    return stop_and_train


def test_sync_sends_only_what_the_store_lacks(store, command, corpus, tmp_path):
    line = train_command(corpus, "clm", "trainer.max_steps=3")
    assert command(f"{line} tracker=none")[0] == 0
    (folder,) = tmp_path.glob("runs/*-*")
    assert "1 without a tracker" in command("sync")[1]
    to = f"tracker=mlflow tracker.uri={store.uri}"
    with run_lock(folder):
        assert "1 at work" in command(f"sync {to}")[1]
    assert "1 sent" in command(f"sync {to}")[1]
    assert "1 there already" in command(f"sync {folder} {to}")[1]
    store.check_points(folder)
    code, _, complaint = command("sync optimizer.lr=1")
    assert code == 2 and "optimizer.lr" in complaint


def test_a_finished_run_waits_for_another_process_that_still_uploads_it(
    store, command, corpus, tmp_path, caplog
):
    line = train_command(corpus, "clm", "trainer.max_steps=3")
    assert command(f"{line} tracker=none")[0] == 0
    (folder,) = tmp_path.glob("runs/*-*")
    tracker, before = MlflowTracker(store.uri, "sent"), []
    holding = threading.Event()

    def send():
        with run_lock(folder):
            holding.set()
            wait_for(lambda: "waiting for it" in caplog.text)
            before.extend(store.runs_of(folder))
            tracker.upload(folder, "FINISHED")

    sender = threading.Thread(target=send)
    sender.start()
    holding.wait()
    to = f"tracker=mlflow tracker.uri={store.uri} tracker.experiment_name=sent"
    assert command(f"{line} {to}")[0] == 0
    sender.join()
    assert before == [] and len(store.runs_of(folder)) == 1
    store.check_points(folder)
