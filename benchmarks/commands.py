"""Rows that time whole commands in separate processes."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Target
from benchmarks.turns import Job, Side


def tokenize(text: Path, target: Target, pairs: int, folder: Path) -> list[Figure]:
    """Run tokenizing.py and return the throughput of both tokenization pipelines."""
    found = folder / "found.json"
    run("benchmarks.tokenizing", "--pairs", str(pairs), "--json", str(found))
    size = text.stat().st_size / 1e6
    return [
        Figure(
            f"speed by {name}",
            "MB/s",
            [size / seconds for seconds in row["ours"]],
            [size / seconds for seconds in row["usual"]],
            target,
        )
        for name, row in json.loads(found.read_text())["results"].items()
    ]


def start_up(
    ours: list[str], theirs: Job, target: Target, pairs: int, folder: Path
) -> list[Figure]:
    """Measure the time from the command to the end of step 1, after one untimed pair."""
    with Side("ours", theirs.within(1, folder)) as us:  # caches the corpus and writes the blocks
        us.turn()
    seconds: tuple[list[float], list[float]] = [], []
    for pair in range(1 + pairs):
        words = [*ours, f"run_root={folder}/{pair}"]
        taken = first_step_of_command(words), first_step_of_peer(theirs.within(1, folder))
        if pair:
            for known, new in zip(seconds, taken, strict=True):
                known.append(new)
    return [Figure("from command to first step", "s", *seconds, target)]


def first_step_of_command(words: list[str]) -> float:
    """Return the seconds from the start of the command to the log entry of step 1."""
    started = time.time()
    run("lmft", *words)
    (folder,) = runs_in(words)
    return next(line["time"] / 1e3 for line in notes(folder) if line["step"] == 1) - started


def first_step_of_peer(job: Job) -> float:
    """Return the seconds from the start of the process to the end of its first step."""
    started = time.perf_counter()
    with Side("peer", job) as peer:
        peer.turn()
        return time.perf_counter() - started


def sweep(words: list[str], target: Target, pairs: int, folder: Path) -> list[Figure]:
    """Measure the overhead per sweep job: the time between job ends minus the training steps."""
    seeds = ",".join(str(seed) for seed in range(1 + pairs))
    words = [*words, f"run_root={folder}/runs", f"tracker.uri=sqlite:///{folder}/mlflow.db"]
    run("lmft", "-m", *words, f"seed={seeds}")
    ends = {(folder / "result.json").stat().st_mtime: folder for folder in runs_in(words)}
    beside = [end - before - training(ends[end]) for before, end in pairwise(sorted(ends))]
    return [Figure("a further job, beside its steps", "s", beside, target=target)]


def share(words: list[str], other: list[str], pairs: int, folder: Path) -> list[Figure]:
    """Run the same steps with two commands; compare their speed and rank 0's peak memory."""
    speeds: tuple[list[float], list[float]] = [], []
    memory: tuple[list[float], list[float]] = [], []
    for pair in range(pairs):
        for side, some in enumerate((words, other)):
            command = [*some, f"run_root={folder}/{pair}-{side}"]
            run("lmft", *command)
            (place,) = runs_in(command)
            speeds[side].append(usual_speed(place))
            timing = json.loads((place / "result.json").read_text())["timing"]
            memory[side].append(timing["peak_memory_bytes"] / 1e6)
    return [
        Figure("speed", "tokens/s", *speeds),
        Figure("peak memory of the leading process", "MB", *memory),
    ]


def usual_speed(folder: Path) -> float:
    """Return the median tokens/s over the steps, without the first two."""
    key = "train/tokens_per_second"
    found = [line["metrics"][key] for line in notes(folder) if key in line["metrics"]]
    return statistics.median(found[2:])


def training(folder: Path) -> float:
    """Return the total seconds of a run's training steps of 8 blocks of 128 tokens each."""
    key = "train/tokens_per_second"
    return sum(8 * 128 / line["metrics"][key] for line in notes(folder) if key in line["metrics"])


def run(*words: str) -> None:
    """Run a module as a command in a subprocess.

    Raises:
        RuntimeError: The command failed.
    """
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")


def runs_in(words: list[str]) -> list[Path]:
    """Return the folders of the finished runs that the command created."""
    (root,) = (word.removeprefix("run_root=") for word in words if word.startswith("run_root="))
    return [place.parent for place in Path(root).glob("*/result.json")]


def notes(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a run's metrics.jsonl, in order."""
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        yield json.loads(line)
