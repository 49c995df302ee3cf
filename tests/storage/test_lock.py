"""A run is locked by one process at a time; a dead process holds no lock."""

import multiprocessing
import threading

import pytest

from lmft.errors import RunLocked
from lmft.storage.lock import is_locked, run_lock


def hold(path, started):
    with run_lock(path):
        started.set()
        threading.Event().wait()


def test_a_held_lock_is_refused_and_that_of_a_dead_process_is_free(tmp_path):
    path = tmp_path / "run"
    context = multiprocessing.get_context("forkserver")
    started = context.Event()
    process = context.Process(target=hold, args=(path, started))
    process.start()
    assert started.wait(60)
    assert is_locked(path)
    with pytest.raises(RunLocked, match=f"in process {process.pid} on "), run_lock(path):
        pass
    process.kill()
    process.join()
    assert not is_locked(path)
    with run_lock(path):
        assert is_locked(path)
    assert not is_locked(path)


def test_a_waiting_process_gets_the_lock_when_the_other_ends(tmp_path):
    order = []
    with run_lock(tmp_path / "run"):

        def other():
            with run_lock(tmp_path / "run", wait=True):
                order.append("other")

        thread = threading.Thread(target=other)
        thread.start()
        order.append("first")
    thread.join(timeout=30)
    assert order == ["first", "other"]
