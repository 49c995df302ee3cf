"""A live process that takes a step whenever the driver asks for one.

`Side` is the driver's end of the pipes, `Turns` the process's end. Messages are lines of JSON: the
driver sends the job and then a line per turn; the process sends a line when it is ready, one after
each turn and one at its end.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lmft.hardware import allocator

# Idle threads of a waiting process must not spin on the cores that the driver needs.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


@dataclass(frozen=True)
class Job:
    """The work of one process; both sides read the same blocks in the same order."""

    model: str  # a folder
    scratch: bool  # random weights instead of those in the folder
    block: int  # tokens
    batch: int  # blocks
    precision: str  # fp32 or bf16
    objective: str = "clm"
    dropout: bool = True  # the model's own rates; False: no dropout
    compiled: bool = False  # with torch.compile
    rank: int = 0  # of a LoRA adapter on all linear maps of the layers; 0: whole weights
    evaluates: bool = False  # a turn is an evaluated batch instead of an optimizer step
    tracked: bool = False  # log to MLflow
    turns: int = 1
    folder: str = ""  # output folder, shared by both sides

    @property
    def blocks(self) -> Path:
        """The path of the blocks, integers of shape (B, T), which the lmft process saves."""
        return Path(self.folder) / "blocks.npy"

    def within(self, turns: int, folder: Path) -> "Job":
        """Return this job with the given number of turns and folder."""
        return replace(self, turns=turns, folder=str(folder))


class Side:
    """The driver's handle of a process; `facts` holds the values it sent when it was ready."""

    def __init__(self, module: str, job: Job, patient: bool = True):
        """Start the process; it waits patiently if something else computes between its turns."""
        cache = {"TORCHINDUCTOR_CACHE_DIR": f"{job.folder}/compiled"}  # not shared with older runs
        log = Path(job.folder) / f"{module}.log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            env=os.environ | (PATIENT if patient else {}) | cache,
            text=True,
        )
        self._log = log
        self._tell(asdict(job))
        self.facts = self._hear()

    def turn(self) -> dict[str, float]:
        """Run one turn and return its measurements, including `seconds`."""
        self._tell("your turn")
        return self._hear()

    def end(self) -> dict[str, float]:
        """Wait for the process to exit and return its final measurements."""
        last = self._hear()
        self._process.wait()
        return last

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _tell(self, what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"A benchmark process exited early:\n{self._log.read_text()[-3000:]}"
            )
        heard: dict[str, float] = json.loads(line)
        return heard


class Turns:
    """The measured process's end of the pipes."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # redirects the output of libraries to the log
        self.job = Job(**json.loads(self._listen()))
        self._left = self.job.turns

    def begin(self, **facts: float) -> None:
        """Report that the process is ready, and wait for the first turn."""
        self._say(facts)
        self._wait()

    def done(self, **measured: float) -> None:
        """Report a finished turn; then wait for the next one or, after the last, report memory."""
        synchronize()
        self._say({"seconds": time.perf_counter() - self._started, **measured})
        self._left -= 1
        if self._left:
            self._wait()
        else:
            self._say({"peak_memory": peak_memory()})

    def _wait(self) -> None:
        self._listen()
        self._started = time.perf_counter()

    def _listen(self) -> str:
        line = sys.stdin.readline()
        if not line:
            raise SystemExit("The driver closed the pipe.")
        return line

    def _say(self, what: dict[str, float]) -> None:
        self._answers.write(json.dumps(what) + "\n")
        self._answers.flush()


def synchronize() -> None:
    """Wait until the GPU, if there is one, has finished all queued work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> float:
    """Return this process's peak memory in bytes; GPU memory if there is a GPU."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_reserved())
    return float(allocator.peak_memory())
