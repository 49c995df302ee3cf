"""The command in processes of its own, and waiting for what they do."""

import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from lmft import cli

ROOT = Path(__file__).parents[2]  # of the repository


def fork(target, *arguments):
    """Call `target` in a process forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.preload"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def start(line: str, folder: Path, log: Path | None = None, environment=None):
    """Run the command in a forked process; its output goes to `log`."""
    return fork(run_command, line, str(folder), log and str(log), environment or {})


def run_command(line: str, folder: str, log: str | None, environment: dict[str, str]) -> None:
    """Run the command in this forked process, in a process group that can be killed."""
    import tests.helpers.preload  # noqa: F401  # an import that fails is ignored by the forkserver

    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ |= {"HF_HUB_OFFLINE": "1", **environment}
    if ignored := os.environ.get("LMFT_TEST_IGNORED"):  # as nohup does
        signal.signal(signal.Signals[ignored], signal.SIG_IGN)
    sys.argv = ["lmft", *shlex.split(line)]
    out = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.exit(cli.main())


def warm_up() -> None:
    """Let the process that others are forked from finish its imports."""
    start("--help", Path.cwd()).join()


def spawn(line: str, folder: Path, **more) -> subprocess.Popen:
    """Start `python -m lmft` as a user does: it imports everything itself."""
    words = [sys.executable, "-m", "lmft", *shlex.split(line)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(words, cwd=folder, env=environment, text=True, **more)


def kill(process) -> None:
    """Kill a forked process and all that it started."""
    with suppress(ProcessLookupError):  # it has ended, or not yet begun
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def wait_for(condition, seconds=60):
    """Wait until `condition()` is true; returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return result
