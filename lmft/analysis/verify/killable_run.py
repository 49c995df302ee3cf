"""Run the lmft command in processes that can be killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmft.errors import UserError
from lmft.runs.listing import is_run
from lmft.tracker.run_log import read_points

USER_ERROR_CODE = 2  # the exit code of a command that can't be run


@dataclass(frozen=True)
class KillableRun:
    """A run with a run_root of its own, started as a command."""

    root: Path
    words: list[str]  # of the command line

    @property
    def folder(self) -> Path:
        """The run's folder.

        Raises:
            FileNotFoundError: it does not exist yet.
        """
        for path in self.root.glob("runs/*"):
            if is_run(path):
                return path
        raise FileNotFoundError(f"{self.root} holds no run yet.")

    def finish(self) -> Path:
        """Run the command to its end; return the run's folder.

        Raises:
            UserError: the command can't be run.
            ChildProcessError: it failed.
        """
        with self.started() as process:
            code = process.wait()
        if code != 0:
            raise self.read_error(code)
        return self.folder

    def kill_at(self, step: int, poll: float) -> int | None:
        """Run the command, and kill it when it has logged `step` and has a checkpoint.

        Args:
            step: optimizer steps.
            poll: seconds between two looks at the run's folder.

        Returns:
            The last logged step; None: the run ended before it could be killed.

        Raises:
            UserError: the command can't be run.
            ChildProcessError: it failed.
        """
        reached = 0
        with self.started() as process:
            while process.poll() is None and (reached := self.last_step()) < step:
                time.sleep(poll)
            kill(process)
            code = process.wait()
        if code not in (0, -signal.SIGKILL) or (code != 0 and reached < step):
            raise self.read_error(code)
        return None if (self.folder / "result.json").exists() else self.last_step()

    def last_step(self) -> int:
        """Return the last logged step; 0 while there is no checkpoint."""
        checkpoints = self.root.glob("runs/*/checkpoints/step-*")
        if next(checkpoints, None) is None:
            return 0
        return max((points.step for points in read_points(self.folder)), default=0)

    def resumed_from(self) -> int | None:
        """Return the step from which the run was last resumed; None if it never was."""
        log = (self.folder / "run.log").read_text()
        steps = re.findall(r"resuming from step (\d+)", log)
        return int(steps[-1]) if steps else None

    @contextmanager
    def started(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Start the command; on exit, kill it and its children if they still run."""
        command = [sys.executable, "-m", "lmft", *self.words, f"run_root={self.root / 'runs'}"]
        self.root.mkdir(exist_ok=True)
        quiet = subprocess.DEVNULL
        with (
            (self.root / "stderr").open("wb") as stderr,
            # In a process group of its own, so that its children can be killed with it.
            subprocess.Popen(
                command, stdin=quiet, stdout=quiet, stderr=stderr, process_group=0
            ) as process,
        ):
            try:
                yield process
            finally:
                kill(process)

    def read_error(self, code: int) -> Exception:
        """Return the error that the command printed, as an exception."""
        lines = (self.root / "stderr").read_text(errors="replace").splitlines()
        messages = [line.removeprefix("lmft: ") for line in lines if line.startswith("lmft: ")]
        messages = [message for message in messages if not message.startswith("debug=true")]
        message = messages[-1] if messages else "it printed no error"
        if code == USER_ERROR_CODE:
            return UserError(message)
        return ChildProcessError(f"The run ended with exit code {code}: {message}")


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGKILL to a process and its children, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
