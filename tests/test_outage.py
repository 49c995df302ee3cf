"""Long proofs with a real MLflow server and many processes; docs/faults.md has their figures."""

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from itertools import pairwise

import pytest

from lmft.record import read_points
from tests.conftest import Store, start, wait_for, warm_up
from tests.test_resume import line_of
from tests.test_sync import check_points

pytestmark = pytest.mark.soak


class RealServer:
    """`mlflow server` on a SQLite store, in a process that can be killed."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.start()

    def start(self):
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        place = f"sqlite:///{self._folder / 'mlflow.db'}"
        line = f"-m mlflow server --workers 1 --host 127.0.0.1 --port {self.port}"
        self._process = subprocess.Popen(
            [sys.executable, *line.split(), "--backend-store-uri", place],
            env=os.environ | quiet,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._answers, 120)

    def kill(self):
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self):
        with suppress(OSError):
            return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200


@pytest.fixture
def real_server(store_at_hand, tmp_path):
    server = RealServer(tmp_path)
    yield server
    server.kill()


def long_line(corpus, steps, *more):
    """A run of that many tiny steps, evaluated at its ends."""
    end = (
        "trainer.epochs=1000000",
        f"trainer.max_steps={steps}",
        f"trainer.evaluate_every={steps}",
    )
    return line_of(corpus, "clm", *end, "trainer.checkpoint_every=null", *more)


def steps_of(folder):
    """Optimizer steps noted so far."""
    return max((points.step for points in read_points(folder)), default=0)


def pace(folder, first, last):
    """Between the steps noted in that time (ms since 1970): the mean gap and the longest, ms."""
    times = [p.time for p in read_points(folder) if "train/loss" in p.metrics]
    gaps = [b - a for a, b in pairwise(t for t in times if first <= t <= last)]
    return statistics.fmean(gaps), max(gaps)


@pytest.mark.parametrize("back_after", [60, None])
def test_a_server_that_is_killed_neither_slows_nor_stops_a_run(
    back_after, real_server, corpus, tmp_path
):
    warm_up()
    line = long_line(corpus, 12_000, f"tracker.uri={real_server.uri}")
    log = tmp_path / "log.txt"
    process = start(line, tmp_path, log)
    (folder,) = wait_for(lambda: list(tmp_path.glob("runs/*-*")))
    wait_for(lambda: steps_of(folder) > 500)
    up = time.time() * 1000
    wait_for(lambda: steps_of(folder) > 3500, 120)
    killed = time.time() * 1000
    real_server.kill()
    time.sleep(back_after or 30)
    back = time.time() * 1000
    assert process.is_alive(), "the run was too short"
    if back_after:
        real_server.start()
    wait_for(lambda: (folder / "result.json").exists(), 300)
    ended = time.monotonic()
    process.join(120)
    waited = time.monotonic() - ended
    assert process.exitcode == 0, log.read_text()
    with_server, without = pace(folder, up, killed), pace(folder, killed, back)
    print(f"ms a step with a server {with_server}, without {without}; {waited:.1f} s at the end")
    print(log.read_text()[-3000:])
    assert without[0] < 1.2 * with_server[0] and without[1] < 1000
    assert waited < 60
    if back_after is None:
        assert "lmft sync" in log.read_text()
        real_server.start()
        sync = start("sync", tmp_path, log)
        sync.join(120)
        assert sync.exitcode == 0, log.read_text()
    store = Store(tmp_path)
    check_points(store, folder)
    assert store.run_of(folder).info.status == "FINISHED"
