"""Rows in which whole commands are timed from outside."""

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
    """Both ways of cutting a text into blocks, as tokenizing.py measures them."""
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
    """From command to the end of the first step, after one untimed pair."""
    with Side("ours", theirs.within(1, folder)) as us:  # the corpus is cached, the blocks are cut
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
    """Seconds from its start to the note of step 1."""
    started = time.time()
    run("lmft", *words)
    (folder,) = runs_in(words)
    return next(line["time"] / 1e3 for line in notes(folder) if line["step"] == 1) - started


def first_step_of_peer(job: Job) -> float:
    """Seconds from the process's start to the end of its first step, which waits for nothing."""
    started = time.perf_counter()
    with Side("peer", job) as peer:
        peer.turn()
        return time.perf_counter() - started


def sweep(words: list[str], target: Target, pairs: int, folder: Path) -> list[Figure]:
    """What a further job takes from the end of the one before it, less its training steps."""
    seeds = ",".join(str(seed) for seed in range(1 + pairs))
    words = [*words, f"run_root={folder}/runs", f"tracker.uri=sqlite:///{folder}/mlflow.db"]
    run("lmft", "-m", *words, f"seed={seeds}")
    ends = {(folder / "result.json").stat().st_mtime: folder for folder in runs_in(words)}
    beside = [end - before - training(ends[end]) for before, end in pairwise(sorted(ends))]
    return [Figure("a further job, beside its steps", "s", beside, target=target)]


def share(words: list[str], other: list[str], pairs: int, folder: Path) -> list[Figure]:
    """Two ways to run the same steps as commands: their speed, and the leader's peak memory."""
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
    """Tokens/s of the median step, without the first two."""
    key = "train/tokens_per_second"
    found = [line["metrics"][key] for line in notes(folder) if key in line["metrics"]]
    return statistics.median(found[2:])


def training(folder: Path) -> float:
    """Seconds of a run's steps, all of which read 8 blocks of 128 tokens."""
    key = "train/tokens_per_second"
    return sum(8 * 128 / line["metrics"][key] for line in notes(folder) if key in line["metrics"])


def run(*words: str) -> None:
    """A module as a command, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")


def runs_in(words: list[str]) -> list[Path]:
    """The folders of the finished runs that the command made."""
    (root,) = (word.removeprefix("run_root=") for word in words if word.startswith("run_root="))
    return [place.parent for place in Path(root).glob("*/result.json")]


def notes(folder: Path) -> Iterator[dict[str, Any]]:
    """The metric points of a run, in order."""
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        yield json.loads(line)
