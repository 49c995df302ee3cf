"""One process at a time; a dead one holds nothing."""

import multiprocessing
import threading

import pytest

from lmft.errors import RunLocked
from lmft.storage.lock import is_locked, run_lock


def hold(path, started):
    with run_lock(path):
        started.set()
        threading.Event().wait()


def test_a_lock_is_refused_while_it_is_held_and_taken_over_from_a_dead_process(tmp_path):
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


def test_who_waits_gets_it_when_the_other_ends(tmp_path):
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
