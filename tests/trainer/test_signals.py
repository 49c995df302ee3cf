"""What a run does on a signal: of a terminal that closes, a scheduler, a user."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lmft.commands.isolation import as_library
from lmft.commands.local_launch import checkpoint_requests_forwarded, ending_signals
from lmft.commands.requeue import job_id
from lmft.errors import Interrupted
from lmft.signals import (
    HANDLED,
    install_signal_handlers,
    request_checkpoint,
    take_checkpoint_request,
)
from lmft.tracker.run_log import read_points
from lmft.trainer.checkpoint import Checkpoints
from tests.helpers.mlflow import Store
from tests.helpers.processes import kill, start, wait_for
from tests.helpers.runs import train_command

LONG = ("trainer.checkpoint_every=null", "trainer.epochs=400")


def last_step(root: Path) -> int:
    return max((p.step for f in root.glob("runs/*-*") for p in read_points(f)), default=0)


def newest_checkpoint(root: Path) -> int:
    (folder,) = root.glob("runs/*-*")
    newest = Checkpoints(folder / "checkpoints").newest()
    return newest.progress["step"] if newest else 0


@pytest.fixture
def running(corpus, tmp_path):
    """A run that has taken ten steps; `environment` is added to its own."""
    processes = []

    def begin(*words, log=None, environment=None, steps=9):
        line = train_command(corpus, "clm", *LONG, *words)
        log = log or tmp_path / "log"
        processes.append(start(line, tmp_path, log, environment))
        wait_for(lambda: last_step(tmp_path) > steps)
        return processes[-1]

    yield begin
    for process in processes:
        kill(process)


def end(process, root):
    """Wait for the end; returns the exit code."""
    process.join(60)
    assert newest_checkpoint(root) == last_step(root)
    return process.exitcode


def status_of(root):
    (folder,) = root.glob("runs/*-*")
    return Store(root).run_of(folder).info.status


def test_a_terminal_that_closes_stops_the_run_as_sigterm_does(running, tmp_path, store_at_hand):
    process = running()
    for _ in range(3):  # the kernel sends one, the shell another
        os.kill(process.pid, signal.SIGHUP)
    assert end(process, tmp_path) == 129
    assert status_of(tmp_path) == "KILLED"
    assert "stopped; the same command resumes" in (tmp_path / "log").read_text()


def test_an_interrupt_that_ends_the_reader_too_is_an_interrupt(corpus, tmp_path, store_at_hand):
    os.mkfifo(tmp_path / "pipe")
    line = train_command(corpus, "clm", *LONG)
    process = start(line, tmp_path, tmp_path / "pipe")
    with (tmp_path / "pipe").open() as pipe:  # as `tee` reads it
        wait_for(lambda: last_step(tmp_path) > 9)
        assert pipe.readline()
    os.kill(process.pid, signal.SIGINT)
    assert end(process, tmp_path) == 130
    assert status_of(tmp_path) == "KILLED"


def test_a_hangup_that_nohup_ignores_stays_ignored(running, tmp_path):
    signal_before = signal.getsignal(signal.SIGHUP)
    process = running("tracker=none", environment={"LMFT_TEST_IGNORED": "SIGHUP"})
    os.kill(process.pid, signal.SIGHUP)
    after = last_step(tmp_path)
    wait_for(lambda: last_step(tmp_path) > after + 5)
    os.kill(process.pid, signal.SIGTERM)
    assert end(process, tmp_path) == 143
    assert signal.getsignal(signal.SIGHUP) == signal_before


def test_sigusr1_saves_a_checkpoint_and_the_run_goes_on(running, tmp_path):
    process = running("tracker=none")
    assert newest_checkpoint(tmp_path) == 0
    for _ in range(2):
        before = newest_checkpoint(tmp_path)
        os.kill(process.pid, signal.SIGUSR1)
        wait_for(lambda before=before: newest_checkpoint(tmp_path) > before)
    saved = newest_checkpoint(tmp_path)
    wait_for(lambda: last_step(tmp_path) > saved + 5)
    os.kill(process.pid, signal.SIGTERM)
    assert end(process, tmp_path) == 143


def write_scontrol(folder, code=0):
    """Write a program that notes how it was called; returns the environment of a SLURM job."""
    program = folder / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\n[ {code} = 0 ] || echo "Access denied" >&2\n'
        f"exit {code}\n"
    )
    program.chmod(0o755)
    return {"SLURM_JOB_ID": "4711", "PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "stopped; SLURM requeues job 4711, which resumes."),
        (1, "SLURM did not requeue job 4711 (Access denied); the same command resumes."),
    ],
)
def test_the_warning_of_slurm_saves_and_asks_for_a_requeue(
    code, said, running, tmp_path, store_at_hand
):
    process = running(environment=write_scontrol(tmp_path, code))
    os.kill(process.pid, signal.SIGUSR1)
    assert end(process, tmp_path) == 138
    assert (tmp_path / "calls").read_text() == "requeue 4711\n"
    assert status_of(tmp_path) == "KILLED"
    assert said in (tmp_path / "log").read_text()


def test_a_signal_while_python_exits_ends_it_without_a_traceback():
    exiting = "import atexit, os, sys; atexit.register(os.kill, os.getpid(), 15); "
    exiting += "from lmft.cli import main; sys.exit(main())"
    line = [sys.executable, "-c", exiting, "--version"]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, "")


def test_a_task_of_an_array_is_requeued_alone():
    array = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    assert job_id(array) == "7_2"


def test_sigterm_in_a_job_of_slurm_asks_for_nothing(running, tmp_path):
    process = running("tracker=none", environment=write_scontrol(tmp_path))
    os.kill(process.pid, signal.SIGTERM)
    assert end(process, tmp_path) == 143 and not (tmp_path / "calls").exists()


def test_handlers_of_others_stay(monkeypatch):
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        install_signal_handlers()
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        monkeypatch.delenv("SUBMITIT_EXECUTOR")
        signal.signal(signal.SIGUSR1, print)
        install_signal_handlers()
        assert signal.getsignal(signal.SIGUSR1) is print
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        install_signal_handlers()
        assert signal.getsignal(signal.SIGUSR1) is request_checkpoint
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture
def handlers():
    """The handlers of lmft in this process, for a test."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    install_signal_handlers()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_launcher_of_processes_handles_what_ends_them(handlers, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert ending_signals() == ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert ending_signals() == ["SIGTERM", "SIGINT", "SIGQUIT", "SIGUSR1"]


def test_the_launcher_of_processes_forwards_requests_to_rank_0(handlers, tmp_path):
    pid = tmp_path / "pid"
    with checkpoint_requests_forwarded(pid):
        signal.raise_signal(signal.SIGUSR1)  # rank 0 has not begun
        with subprocess.Popen(["sleep", "60"]) as rank_0:
            pid.write_text(str(rank_0.pid))
            signal.raise_signal(signal.SIGUSR1)
            assert rank_0.wait(10) == -signal.SIGUSR1
        signal.raise_signal(signal.SIGUSR1)  # rank 0 has ended
    assert signal.getsignal(signal.SIGUSR1) is request_checkpoint
    assert not take_checkpoint_request()


def test_a_library_call_restores_handlers_and_asks_slurm_too(tmp_path, monkeypatch, capsys):
    for name, value in write_scontrol(tmp_path).items():
        monkeypatch.setenv(name, value)
    arrived = []
    before = {number: signal.getsignal(number) for number in HANDLED}
    with pytest.raises(Interrupted), as_library():
        raised = Interrupted(signal.SIGUSR1)
        monkeypatch.setattr(signal, "raise_signal", arrived.append)
        raise raised
    assert arrived == [signal.SIGUSR1]
    assert {number: signal.getsignal(number) for number in HANDLED} == before
    assert (tmp_path / "calls").read_text() == "requeue 4711\n"
    assert "SLURM requeues job 4711" in capsys.readouterr().err


@pytest.mark.soak
def test_signals_reach_the_processes_of_a_run(running, tmp_path):
    process = running("tracker=none", "hardware=ddp", "hardware.processes=2")
    os.kill(process.pid, signal.SIGUSR1)
    wait_for(lambda: newest_checkpoint(tmp_path) > 0)
    saved = newest_checkpoint(tmp_path)
    wait_for(lambda: last_step(tmp_path) > saved + 2)
    os.kill(process.pid, signal.SIGHUP)
    assert end(process, tmp_path) == 129
