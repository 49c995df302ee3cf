"""`lmft sync`: a store that was away gets what it lacks, once."""

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


def test_a_store_that_stays_away_ends_a_run_soon_and_sync_sends_what_waits(
    server, store, corpus, command, tmp_path, monkeypatch
):
    monkeypatch.setattr(background, "GIVE_UP_AFTER", 1.0)
    server.stop()
    line = train_command(corpus, "clm", "trainer.max_steps=3", f"tracker.uri={server.uri}")
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
    store.check_points(folder)
    names = {found.path for found in store.client.list_artifacts(store.run_of(folder).info.run_id)}
    assert {"config.yaml", "samples_after.txt", "card.md"} <= names
    assert "1 there already" in command("sync")[1]


def stopping(server, story):
    def tell(*args):
        server.stop()
        return story(*args)

    return tell


def test_what_a_sync_finds_decides_what_it_sends(store, command, corpus, tmp_path):
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


def test_who_answers_waits_for_who_still_sends(store, command, corpus, tmp_path, caplog):
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
