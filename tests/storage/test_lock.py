"""A run is locked by one process at a time; a dead process holds no lock."""

import errno
import fcntl
import multiprocessing
import os
import tempfile
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


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_on_a_drive_without_locks_this_machine_keeps_them(number, tmp_path, monkeypatch):
    drive, path, flock = tmp_path / "drive", tmp_path / "drive" / "run", fcntl.flock
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))

    def refuse(file, operation):
        where = os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
        if where.startswith(str(drive)):
            raise OSError(number, os.strerror(number))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)
    with run_lock(path):
        assert is_locked(path) and not is_locked(drive / "other")
        with pytest.raises(RunLocked, match=f"in process {os.getpid()} on "), run_lock(path):
            pass
    assert not is_locked(path)
    (drive / ".locks" / "run.json").write_text("{}")  # of a machine that was lost
    with run_lock(path):
        assert is_locked(path)
