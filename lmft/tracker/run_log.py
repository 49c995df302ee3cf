"""What a run remembers of itself, in its folder: facts, metric points and texts.

The folder is what counts; a tracker mirrors it, and can be filled from it at any time.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmft.errors import room_for
from lmft.output.sanitize import redact, redact_all
from lmft.storage.atomic import write_json, write_text

FACTS, POINTS = "run.json", "metrics.jsonl"

ID = "lmft.id"  # a tag: no other folder has it, also not one that was at the same place before

TEXTS = (".hydra/config.yaml", "samples_*.txt", "*.md", "*.svg", "*.html")


@dataclass(frozen=True)
class Facts:
    """What is known of a run when it first starts."""

    name: str  # as people see it
    key: str  # a hash of all that decides its numbers
    params: dict[str, Any]  # every knob, by full name
    corpus: str  # the dataset's name
    corpus_digest: str
    precision: str  # never auto


@dataclass(frozen=True)
class Points:
    """Metrics that were noted together."""

    metrics: dict[str, float]
    step: int  # optimizer steps taken
    time: int  # ms since 1970
    end: int  # bytes of the file up to here


class Record:
    """The memory of the run in the folder `path`; one process at a time may write to it."""

    def __init__(self, path: Path):
        self.path = path
        _cut_torn_line(path / POINTS)
        # Of each metric, the last step: what is computed again after a kill is noted once.
        self._last: dict[str, int] = {}
        for points in read_points(path):
            self._last |= dict.fromkeys(points.metrics, points.step)
        self._file = (path / POINTS).open("ab", buffering=0)

    def start(self, facts: Facts, tags: dict[str, str]) -> None:
        """Keep the facts of a first start; the tags of every one."""
        known = read_facts(self.path) or {"tags": {ID: uuid.uuid4().hex}}
        self._write({**redact_all(asdict(facts)), **known}, tags)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Note `values`, measured after optimizer step `step`, but those it has of that step."""
        new = {key: value for key, value in values.items() if self._last.get(key, -1) < step}
        if new:
            line = {"step": step, "time": time.time_ns() // 1_000_000, "metrics": new}
            self._append(json.dumps(line).encode() + b"\n")
            self._last |= dict.fromkeys(new, step)

    def text(self, text: str, file_name: str) -> None:
        """Keep a text beside the run."""
        write_text(self.path / file_name, redact(text))

    def tags(self, tags: dict[str, str]) -> None:
        """Set facts that the run can be found by."""
        self._write(read_facts(self.path), tags)

    def end(self, status: str) -> None:
        """Keep how the work on it ended: FINISHED, FAILED or KILLED."""
        self._write({**read_facts(self.path), "status": status}, {})

    def sync(self) -> None:
        """Let the points survive a loss of power."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more points."""
        self._file.close()

    def _append(self, line: bytes) -> None:
        """The whole line, or nothing of it."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            with room_for(self.path / POINTS):
                while line:
                    line = line[self._file.write(line) :]
        except BaseException:
            self._file.truncate(end)
            raise

    def _write(self, facts: dict[str, Any], tags: dict[str, str]) -> None:
        write_json(
            self.path / FACTS, {**facts, "tags": {**facts.get("tags", {}), **redact_all(tags)}}
        )


def read_facts(path: Path) -> dict[str, Any]:
    """The facts and tags of the run in the folder `path`; nothing where there are none."""
    place = path / FACTS
    return json.loads(place.read_text()) if place.exists() else {}


def read_points(path: Path, start: int = 0) -> Iterator[Points]:
    """The metric points of the run in the folder `path`, in order, from byte `start` on."""
    place = path / POINTS
    if not place.exists():
        return
    with place.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):  # it is being written
                return
            start += len(line)
            yield Points(**json.loads(line), end=start)


def size_of_points(path: Path) -> int:
    """Bytes of the metric points of the run in the folder `path`."""
    place = path / POINTS
    return place.stat().st_size if place.exists() else 0


def read_values(path: Path, key: str) -> Iterator[tuple[int, float]]:
    """One metric of the run in the folder `path`: step and value, in order."""
    for points in read_points(path):
        if key in points.metrics:
            yield points.step, points.metrics[key]


def read_curve(path: Path, key: str) -> dict[int, float]:
    """One metric of the run in the folder `path`, by step."""
    return dict(read_values(path, key))


def find_texts(path: Path) -> list[Path]:
    """The texts that were kept in the folder `path`."""
    return sorted(found for pattern in TEXTS for found in path.glob(pattern))


def _cut_torn_line(place: Path) -> None:
    """Drop what a killed process wrote of its last line."""
    if not place.exists():
        return
    with place.open("rb+") as file:
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
        file.truncate(whole)
