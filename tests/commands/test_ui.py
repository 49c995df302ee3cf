"""`lmft ui`: the page of the store that runs go to, on this machine alone."""

import socket
import urllib.request

import pytest

from tests.helpers.processes import kill, start, wait_for


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.soak
def test_the_page_of_the_training_runs_is_served(store, fit, corpus, tmp_path):
    folder = fit(*corpus, *store.overrides, "dataset.block_size=16", "trainer.max_steps=1")
    port, log = free_port(), tmp_path / "log"
    process = start(f"ui tracker.uri={store.uri} port={port}", tmp_path, log)
    try:
        wait_for(lambda: log.exists() and "http" in log.read_text())
        address = log.read_text().splitlines()[0]
        experiment = store.run_of(folder).info.experiment_id
        assert address.startswith(f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs?")

        def answers():
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read() == b"OK"
            except OSError:
                return False

        wait_for(answers)
    finally:
        kill(process)


def test_a_store_that_is_missing_or_a_port_that_is_taken_is_said(command, store_at_hand, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, complaint = command(f"ui port={taken.getsockname()[1]}")
        assert code == 2 and "which another program uses; choose another" in complaint
    (tmp_path / "mlflow.db").unlink()
    code, _, complaint = command("ui")
    assert code == 2 and "There is no store" in complaint and "train a run first" in complaint
    assert command("ui tracker.uri=http://host:5000")[:2] == (0, "http://host:5000\n")
