"""Long proofs with a real MLflow server and many processes; docs/faults.md has their figures."""

import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from itertools import pairwise

import psutil
import pytest

from lmft.commands.clean import CACHES
from lmft.tracker.run_log import read_points
from tests.helpers.mlflow import Store
from tests.helpers.processes import kill, start, wait_for, warm_up
from tests.helpers.runs import train_command

pytestmark = pytest.mark.soak
# How long the proofs take; smaller values try the tests themselves.
MINUTES = float(os.environ.get("LMFT_SOAK_MINUTES", 5))
STEPS = int(os.environ.get("LMFT_SOAK_STEPS", 200_000))
MEGABYTES = int(os.environ.get("LMFT_SOAK_MEGABYTES", 2000))


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
        uri = f"sqlite:///{self._folder / 'mlflow.db'}"
        line = f"-m mlflow server --workers 1 --host 127.0.0.1 --port {self.port}"
        self._process = subprocess.Popen(
            [sys.executable, *line.split(), "--backend-store-uri", uri],
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
    return train_command(corpus, "clm", *end, "trainer.checkpoint_every=null", *more)


def steps_of(folder):
    """Optimizer steps recorded so far."""
    return max((points.step for points in read_points(folder)), default=0)


def last_step(folder):
    """The step of the last whole line of points, found without reading the others."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 2000), os.SEEK_END)
        lines = file.read().rpartition(b"\n")[0].splitlines()
    return json.loads(lines[-1])["step"] if len(lines) > 1 else 0


def pace(folder, first, last):
    """Between the steps noted in that time (ms since 1970): the mean gap and the longest, ms."""
    times = [p.time for p in read_points(folder) if "train/loss" in p.metrics]
    gaps = [b - a for a, b in pairwise(t for t in times if first <= t <= last)]
    return statistics.fmean(gaps), max(gaps)


@pytest.fixture
def beside(corpus, tmp_path):
    """A run of the same size without a store; other work on the machine slows both."""
    warm_up()
    (tmp_path / "beside").mkdir()
    process = start(long_line(corpus, 10**6, "tracker=none"), tmp_path / "beside")
    (folder,) = wait_for(lambda: list(tmp_path.glob("beside/runs/*-*")))
    wait_for(lambda: last_step(folder) > 100)
    yield folder
    kill(process)


def check_pace(folder, beside, before, after):
    """Check that a step takes no longer after than before, beyond what slows the other run as well.

    Args:
        folder: of the run.
        beside: of the run beside it.
        before: first and last moment (ms since 1970).
        after: the same.
    """
    own, other = [[pace(run, *time) for time in (before, after)] for run in (folder, beside)]
    print(f"ms a step, mean and longest: {own[0]}, then {own[1]}; beside it {other[0]}, {other[1]}")
    assert own[1][0] / own[0][0] < 1.2 * other[1][0] / other[0][0]
    assert own[1][1] < 1000 + other[1][1]


@pytest.mark.parametrize("back_after", [60, None])
def test_a_server_that_is_killed_neither_slows_nor_stops_a_run(
    back_after, real_server, corpus, tmp_path, beside
):
    line = long_line(corpus, 12_000, f"tracker.uri={real_server.uri}")
    log = tmp_path / "log.txt"
    process = start(line, tmp_path, log)
    (folder,) = wait_for(lambda: list(tmp_path.glob("runs/*-*")))
    wait_for(lambda: last_step(folder) > 500, 120)
    up = time.time() * 1000
    wait_for(lambda: last_step(folder) > 3500, 240)
    killed = time.time() * 1000
    real_server.kill()
    time.sleep(back_after or 30)
    back = time.time() * 1000
    assert process.is_alive(), "the run was too short"
    if back_after:
        real_server.start()
    wait_for(lambda: (folder / "result.json").exists(), 600)
    ended = time.monotonic()
    process.join(120)
    waited = time.monotonic() - ended
    assert process.exitcode == 0, log.read_text()
    check_pace(folder, beside, (up, killed), (killed, back))
    print(f"{waited:.1f} s at the end")
    assert waited < 60
    if back_after is None:
        assert "lmft sync" in log.read_text()
        real_server.start()
        sync = start("sync", tmp_path, log)
        sync.join(120)
        assert sync.exitcode == 0, log.read_text()
    store = Store(tmp_path)
    store.check_points(folder)
    assert store.run_of(folder).info.status == "FINISHED"


def test_a_store_that_another_program_locks_for_30_seconds_gets_all_points(
    corpus, tmp_path, store_at_hand, beside
):
    log = tmp_path / "log.txt"
    process = start(long_line(corpus, 6_000), tmp_path, log)
    (folder,) = wait_for(lambda: list(tmp_path.glob("runs/*-*")))
    wait_for(lambda: last_step(folder) > 500, 120)
    free = time.time() * 1000
    time.sleep(10)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=30)) as other:
        other.execute("BEGIN EXCLUSIVE")
        locked = time.time() * 1000
        time.sleep(30)
        other.rollback()
    unlocked = time.time() * 1000
    assert process.is_alive(), "the run was too short"
    process.join(400)
    assert process.exitcode == 0, log.read_text()
    check_pace(folder, beside, (free, locked), (locked, unlocked))
    Store(tmp_path).check_points(folder)
    assert Store(tmp_path).run_of(folder).info.status == "FINISHED"


def test_ten_processes_on_one_cache_and_one_store_leave_what_they_should(
    corpus, tmp_path, store_at_hand
):
    """Six runs that stand alone and two sweeps of two processes, round after round."""
    warm_up()
    until, rounds = time.monotonic() + MINUTES * 60, 0
    while time.monotonic() < until:
        lines = [long_line(corpus, 200, f"seed={100 * rounds + seed}") for seed in range(6)]
        for number in range(2):  # each launched twice at once: both share its jobs
            seeds = ",".join(str(100 * rounds + 10 * (number + 1) + seed) for seed in range(3))
            lines += 2 * [
                long_line(corpus, 200, f"-m seed={seeds} optimizer.weight_decay={number}")
            ]
        logs = [tmp_path / f"log-{rounds}-{number}.txt" for number in range(len(lines))]
        process_group = [start(line, tmp_path, log) for line, log in zip(lines, logs, strict=True)]
        for process, log in zip(process_group, logs, strict=True):
            process.join(600)
            assert process.exitcode == 0, log.read_text()[-3000:]
        rounds += 1
    folders = [path.parent for path in tmp_path.glob("runs/*/result.json")]
    assert len(folders) == 12 * rounds
    store = Store(tmp_path)
    runs = store.runs(max_results=50_000)
    parents = [run for run in runs if "lmft.sweep" in run.data.tags]
    assert len(parents) == 2 and len(runs) == 12 * rounds + 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    for folder in folders:
        assert steps_of(folder) == 200
        store.check_points(folder)
    cached = [path for path in tmp_path.glob("cache/*/*") if path.suffix != ".lock"]
    kinds = {kind: sum(path.parent.name == kind for path in cached) for kind in CACHES}
    print(f"{rounds} rounds, {len(runs)} runs, {len(folders) * 200} steps, cache {kinds}")
    assert kinds == {"tokens": 3, "tokenizers": 1}  # a stream for each split


def look_at(process, folder):
    """Steps so far, bytes of memory, seconds of processor time."""
    whole = psutil.Process(process.pid)
    return last_step(folder), whole.memory_info().rss, sum(whole.cpu_times()[:2])


def test_a_run_of_many_steps_takes_no_more_memory_and_no_more_time_a_step(
    corpus, tmp_path, store_at_hand
):
    warm_up()
    log = tmp_path / "log.txt"
    process = start(long_line(corpus, STEPS), tmp_path, log)
    (folder,) = wait_for(lambda: list(tmp_path.glob("runs/*-*")))
    wait_for(lambda: last_step(folder) >= STEPS // 20, 3600)
    seen = [look_at(process, folder)]
    while process.is_alive():
        with suppress(psutil.NoSuchProcess):
            seen.append(look_at(process, folder))
        time.sleep(1)
    process.join()
    assert process.exitcode == 0, log.read_text()[-3000:]
    training = [some for some in seen if some[0] < STEPS]
    grown, in_all = (max(some[1] - seen[0][1] for some in part) / 1e6 for part in (training, seen))
    fifths = [next(some for some in training if some[0] >= n * STEPS / 5) for n in range(5)]
    costs = [
        round(1000 * (after[2] - before[2]) / (after[0] - before[0]), 2)
        for before, after in pairwise([*fifths, training[-1]])
    ]
    print(f"after step {seen[0][0]} it grew by {grown:.1f} MB in training, {in_all:.1f} MB in all")
    print(f"ms of processor time a step, by fifths of the run: {costs}")
    assert grown < 20
    assert in_all - grown < 50  # once, at the end: samples, evaluation, the picture of the losses
    assert costs[-1] < 1.3 * costs[0]
    Store(tmp_path).check_points(folder)


def test_a_corpus_of_gigabytes_is_tokenized_in_bounded_memory(tmp_path, store_at_hand):
    words = "the cat sat on a mat and saw one red dog run by so the old man took his hat".split()
    generator = random.Random(0)
    page = "".join(" ".join(generator.choices(words, k=12)) + "\n" for _ in range(20_000))
    with (tmp_path / "train.txt").open("w") as file:
        while file.tell() < MEGABYTES * 1e6:
            file.write(page)
    (tmp_path / "validation.txt").write_text(page[:20_000])
    warm_up()
    line = long_line(
        ["dataset=text_files", "dataset.document=line", "model.vocab_size=300", "tracker=none"]
        + ["dataset.block_size=128"]
        + [f"dataset.{split}={tmp_path / split}.txt" for split in ("train", "validation")],
        2,
    )
    process, peak = start(line, tmp_path, tmp_path / "log.txt"), 0
    while process.is_alive():
        with suppress(psutil.NoSuchProcess):
            whole = psutil.Process(process.pid)
            peak = max(peak, own(whole) + sum(map(own, whole.children(recursive=True))))
        time.sleep(0.1)
    process.join()
    size = (tmp_path / "train.txt").stat().st_size
    print(f"{size / 1e6:.0f} MB of text, at most {peak / 1e6:.0f} MB of memory")
    assert process.exitcode == 0, (tmp_path / "log.txt").read_text()[-3000:]
    assert peak < 1e9


def own(process):
    """Bytes that only the process has: not the pages of files that it has mapped."""
    memory = process.memory_info()
    return memory.rss - memory.shared
