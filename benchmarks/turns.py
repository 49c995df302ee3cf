"""Two live processes that take turns: while one is at work, the other waits on a pipe.

So both meet the same state of the machine, step by step, and pairs are short. The driver's end is
`Side`, the process's own is `Turns`. What passes over the pipes are lines of JSON: the job, then
from the driver a line for each turn, and from the process one when it is ready, one after each
turn, and one at its end.
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

# Threads of the process that waits must not spin on the cores that the other one needs.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


@dataclass(frozen=True)
class Job:
    """What a side works at; both read the same blocks, in the same order."""

    model: str  # a folder
    scratch: bool  # new weights in place of the folder's
    block: int  # tokens
    batch: int  # blocks
    precision: str  # fp32 or bf16
    objective: str = "clm"
    dropout: bool = True  # as the model comes; else none at all
    compiled: bool = False  # with torch.compile
    evaluates: bool = False  # a turn is a batch scored, and not an optimizer step
    tracked: bool = False  # in MLflow
    turns: int = 1
    folder: str = ""  # for what is made; both sides share it

    @property
    def blocks(self) -> Path:
        """The blocks, (B, T) of integers, as our side cuts them."""
        return Path(self.folder) / "blocks.npy"

    def within(self, turns: int, folder: Path) -> "Job":
        """The same work, so many turns of it, in this folder."""
        return replace(self, turns=turns, folder=str(folder))


class Side:
    """A process at `job`, as the driver sees it; `facts` is what it said when it was ready."""

    def __init__(self, module: str, job: Job):
        cache = {"TORCHINDUCTOR_CACHE_DIR": f"{job.folder}/compiled"}  # no older run's
        log = Path(job.folder) / f"{module}.log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            env=os.environ | PATIENT | cache,
            text=True,
        )
        self._log = log
        self._tell(asdict(job))
        self.facts = self._hear()

    def turn(self) -> dict[str, float]:
        """Let it take one turn; what it measured, `seconds` among it."""
        self._tell("your turn")
        return self._hear()

    def end(self) -> dict[str, float]:
        """What it says at its end, after its last turn."""
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
            raise RuntimeError(f"A process ended early:\n{self._log.read_text()[-3000:]}")
        heard: dict[str, float] = json.loads(line)
        return heard


class Turns:
    """The pipes, as the process at work sees them."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print goes to the log
        self.job = Job(**json.loads(self._listen()))
        self._left = self.job.turns

    def begin(self, **facts: float) -> None:
        """Say that all is ready, and wait for the first turn."""
        self._say(facts)
        self._wait()

    def done(self, **measured: float) -> None:
        """Say that a turn was taken; wait for the next, if there is one, else say the last."""
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
            raise SystemExit("The driver is gone.")
        return line

    def _say(self, what: dict[str, float]) -> None:
        self._answers.write(json.dumps(what) + "\n")
        self._answers.flush()


def synchronize() -> None:
    """Wait for what a GPU has still to do."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> float:
    """The most that this process ever held, in bytes: of the GPU's memory, where there is one."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_reserved())
    return float(allocator.peak_memory())
