"""One run of the real command, in processes that can be killed."""

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

MISTAKE = 2  # the exit code of a command that can't be run


@dataclass(frozen=True)
class Trial:
    """A run under a root of its own."""

    root: Path
    words: list[str]  # of the command line

    @property
    def folder(self) -> Path:
        """The run's folder.

        Raises:
            FileNotFoundError: it has not begun.
        """
        for path in self.root.glob("runs/*"):
            if is_run(path):
                return path
        raise FileNotFoundError(f"{self.root} holds no run yet.")

    def finish(self) -> Path:
        """Run it to its end; returns its folder.

        Raises:
            UserError: the command can't be run.
            ChildProcessError: it failed.
        """
        with self.running() as process:
            code = process.wait()
        if code != 0:
            raise self.failure(code)
        return self.folder

    def break_off(self, step: int, poll: float) -> int | None:
        """Start it, and kill it at the first sight of `step` with a checkpoint to go on from.

        Args:
            step: optimizer steps.
            poll: seconds between two looks.

        Returns:
            The step it came to; None: it ended before it could be killed.

        Raises:
            UserError: the command can't be run.
            ChildProcessError: it failed.
        """
        seen = 0
        with self.running() as process:
            while process.poll() is None and (seen := self.look()) < step:
                time.sleep(poll)
            kill(process)
            code = process.wait()
        if code not in (0, -signal.SIGKILL) or (code != 0 and seen < step):
            raise self.failure(code)
        return None if (self.folder / "result.json").exists() else self.look()

    def look(self) -> int:
        """The step that was noted last; 0 while there is no checkpoint."""
        checkpoints = self.root.glob("runs/*/checkpoints/step-*")
        if next(checkpoints, None) is None:
            return 0
        return max((points.step for points in read_points(self.folder)), default=0)

    def went_on_from(self) -> int | None:
        """The step from which its last start went on; None: it began anew."""
        log = (self.folder / "run.log").read_text()
        found = re.findall(r"going on from step (\d+)", log)
        return int(found[-1]) if found else None

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """The command at work; nothing of it is left after that."""
        command = [sys.executable, "-m", "lmft", *self.words, f"run_root={self.root / 'runs'}"]
        self.root.mkdir(exist_ok=True)
        quiet = subprocess.DEVNULL
        with (
            (self.root / "stderr").open("wb") as complaints,
            # In a group of its own, so that what it starts can be killed with it.
            subprocess.Popen(
                command, stdin=quiet, stdout=quiet, stderr=complaints, process_group=0
            ) as process,
        ):
            try:
                yield process
            finally:
                kill(process)

    def failure(self, code: int) -> Exception:
        """What the command said of its end."""
        lines = (self.root / "stderr").read_text(errors="replace").splitlines()
        said = [line.removeprefix("lmft: ") for line in lines if line.startswith("lmft: ")]
        said = [line for line in said if not line.startswith("debug=true")]
        sentence = said[-1] if said else "it said nothing"
        if code == MISTAKE:
            return UserError(sentence)
        return ChildProcessError(f"The run ended with exit code {code}: {sentence}")


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL, if it has not ended, to it and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
