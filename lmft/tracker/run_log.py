"""The record of a run in its folder: facts, metric points and texts.

The folder is the source of truth. A tracker shows a copy, which can be rebuilt from it at any time.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmft.errors import disk_full_as_fault
from lmft.metrics import TRAIN_LOSS, VALIDATION_LOSS
from lmft.output.sanitize import redact, redact_all
from lmft.storage.atomic import read_json, write_json, write_text

if TYPE_CHECKING:
    import numpy as np

FACTS, POINTS = "run.json", "metrics.jsonl"
ID_TAG = "lmft.id"  # unique to a folder: a new run at the same path gets another one
FROM_TAG = "lmft.from_id"  # of a run that continues another one: the id of that
TEXTS = (".hydra/config.yaml", "samples_*.txt", "*.md", "*.svg", "*.html")


@dataclass(frozen=True)
class Corpus:
    """A split that a run read."""

    name: str  # of the dataset
    split: str
    digest: str
    source: str  # a path or the name of a dataset


@dataclass(frozen=True)
class Facts:
    """What is known of a run when it first starts."""

    name: str  # for display
    key: str  # a hash of all that decides its numbers
    params: dict[str, Any]  # every knob, by full name
    corpora: list[Corpus]
    precision: str  # never auto


@dataclass(frozen=True)
class Points:
    """Metrics that were logged together: one line of metrics.jsonl."""

    metrics: dict[str, float]
    step: int  # optimizer steps taken
    time: int  # ms since 1970
    end: int  # offset in the file of the next line, in bytes


class Record:
    """Writes the record of the run in the folder `path`; for one process at a time."""

    def __init__(self, path: Path):
        self.path = path
        _truncate_torn_line(path / POINTS)
        # The last step of each metric: steps that are recomputed after a kill are logged once.
        self._last: dict[str, int] = {}
        for points in read_points(path):
            self._last |= dict.fromkeys(points.metrics, points.step)
        self._file = (path / POINTS).open("ab", buffering=0)

    def start(self, facts: Facts, tags: dict[str, str]) -> None:
        """Write the tags of this start, and the facts if it is the first one."""
        kept = read_facts(self.path) or {"tags": {ID_TAG: uuid.uuid4().hex}}
        self._write({**redact_all(asdict(facts)), **kept}, tags)

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """Log `values` after optimizer step `step`; skip metrics that are logged up to there."""
        new = {key: value for key, value in values.items() if self._last.get(key, -1) < step}
        if new:
            line = {"step": step, "time": time.time_ns() // 1_000_000, "metrics": new}
            self._append(json.dumps(line).encode() + b"\n")
            self._last |= dict.fromkeys(new, step)

    def log_text(self, text: str, file_name: str) -> None:
        """Write `text` to a file in the run's folder."""
        write_text(self.path / file_name, redact(text))

    def set_tags(self, tags: dict[str, str]) -> None:
        """Add or change tags."""
        self._write(read_facts(self.path), tags)

    def add_corpus(self, corpus: Corpus) -> None:
        """Add a corpus that the run reads after its end."""
        facts = read_facts(self.path)
        known = facts.get("corpora", [])
        if redact_all(asdict(corpus)) not in known:
            self._write({**facts, "corpora": [*known, redact_all(asdict(corpus))]}, {})

    def end(self, status: str) -> None:
        """Write how the run ended: FINISHED, FAILED or KILLED."""
        self._write({**read_facts(self.path), "status": status}, {})

    def flush(self) -> None:
        """Write all metric points to disk, so that they survive a power loss."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file of metric points."""
        self._file.close()

    def _append(self, line: bytes) -> None:
        """Append the whole line, or nothing."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            with disk_full_as_fault(self.path / POINTS):
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
    """Return the facts and tags of the run in the folder `path`; an empty dict without any."""
    return read_json(path / FACTS)


def read_points(path: Path, start: int = 0) -> Iterator[Points]:
    """Yield the metric points of the run in the folder `path`, in order, from byte `start` on."""
    file_path = path / POINTS
    if not file_path.exists():
        return
    with file_path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):  # still being written
                return
            start += len(line)
            yield Points(**json.loads(line), end=start)


def points_size(path: Path) -> int:
    """Return the bytes of the metric points of the run in the folder `path`."""
    file_path = path / POINTS
    return file_path.stat().st_size if file_path.exists() else 0


def read_values(path: Path, key: str) -> Iterator[tuple[int, float]]:
    """Yield step and value of one metric of the run in the folder `path`, in order."""
    for points in read_points(path):
        if key in points.metrics:
            yield points.step, points.metrics[key]


def read_losses(path: Path) -> "dict[str, np.ndarray]":
    """Return the losses of the run in the folder `path`: step and nats per target (N, 2), by split.

    As arrays, since a long run has hundreds of thousands.
    """
    import numpy as np

    point = np.dtype((float, 2))
    return {
        split: np.fromiter(read_values(path, name), point)
        for split, name in {"train": TRAIN_LOSS, "validation": VALIDATION_LOSS}.items()
    }


def find_texts(path: Path) -> list[Path]:
    """Return the text files in the folder `path` that a tracker keeps as artifacts."""
    return sorted(file for pattern in TEXTS for file in path.glob(pattern))


def _truncate_torn_line(file_path: Path) -> None:
    """Remove an incomplete last line, which a killed process leaves."""
    if not file_path.exists():
        return
    with file_path.open("rb+") as file:
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
        file.truncate(whole)
