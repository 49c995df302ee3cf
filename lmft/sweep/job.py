"""One job of a sweep: what it must know, and what became of it, by files in the launch folder."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmft.errors import Interrupted
from lmft.output.sanitize import redact
from lmft.runs.finished import Job
from lmft.runs.run_dir import RunFolder
from lmft.storage.atomic import write_json
from lmft.sweep.optuna_study import Trial, open_trial
from lmft.tracker.run_log import read_facts, read_points

PLAN, JOBS = "sweep.json", "jobs"


@dataclass(frozen=True)
class Plan:
    """What every job must know of its sweep."""

    key: str  # a hash of all that the jobs have in common
    names: list[str]  # the knobs that vary
    parent: str | None  # the sweep's id in the tracker
    study: dict[str, Any] | None  # of an Optuna study, so that jobs can ask to be pruned


@dataclass
class Note:
    """What became of a job."""

    number: int
    knobs: dict[str, str]  # those that vary, by short name
    state: str = "running"  # finished, pruned, failed or stopped; running: its process was killed
    reason: str = ""
    folder: str = ""
    loss: float = math.inf  # validation, nats per target

    @property
    def name(self) -> str:
        """As MLflow shows it: lr=3e-5 seed=1."""
        return " ".join(f"{knob}={value}" for knob, value in self.knobs.items())


class OpenJob:
    """A job at work."""

    def __init__(self, note: Note, plan: Plan):
        self.note = note
        self.place = Job(note.name or f"job {note.number}", plan.parent)
        self._trial: Trial | None = open_trial(plan.study, note.number)
        self._read = 0  # bytes of the run's points, of which the study knows

    def prune(self, step: int, folder: RunFolder) -> bool:
        """Whether the study has seen enough of this run."""
        if self._trial is None:
            return False
        losses = {}
        for points in read_points(folder.path, self._read):
            self._read = points.end
            if "validation/loss" in points.metrics:
                losses[points.step] = points.metrics["validation/loss"]
        return self._trial.should_prune(losses)

    def end(self, folder: RunFolder) -> float:
        """Note what became of the run; returns its validation loss."""
        result = folder.read_json("result.json")
        self.note.folder = str(folder.path)
        if result:
            self.note.state, self.note.loss = "finished", float(result["validation"]["loss"])
        else:
            self.note.state = "pruned"
            self.note.reason = f"at step {read_facts(folder.path)['tags']['pruned_at']}"
        return self.note.loss

    def fail(self, reason: str) -> None:
        """Note why there is no result."""
        self.note.state, self.note.reason = "failed", reason


@contextmanager
def open_job(launch: Path, number: int, overrides: list[str]) -> Iterator[OpenJob]:
    """The job of that number, in whatever process; a note of what became of it stays.

    Args:
        launch: the sweep's launch folder.
        number: of the job.
        overrides: all words that it was composed from.
    """
    plan = read_plan(launch)
    note = Note(number, pick_knobs(overrides, plan.names))
    job = OpenJob(note, plan)
    place = launch / JOBS / f"{number}.json"
    write_json(place, asdict(note))
    try:
        yield job
    except Interrupted:
        note.state = "stopped"
        raise
    finally:
        write_json(place, asdict(note))


def pick_knobs(overrides: list[str], names: list[str]) -> dict[str, str]:
    """The values of the knobs `names` among overrides; each by the shortest name of its own."""
    values = dict(word.lstrip("+").split("=", 1) for word in overrides if "=" in word)
    count = Counter(name.rpartition(".")[2] for name in names)
    shorts = {name: name.rpartition(".")[2] for name in names}
    return {
        shorts[name] if count[shorts[name]] == 1 else name: as_people_write(redact(values[name]))
        for name in names
        if name in values
    }


def as_people_write(value: str) -> str:
    """3e-5 for 3e-05, 1e30 for 1e+30, and four digits of a number that was drawn."""
    if re.fullmatch(r"-?\d*\.?\d+(e[+-]?\d+)?", value) and len(value) > 8:
        value = f"{float(value):.4g}"
    return re.sub(r"(?<=\d)e([+-])0*(\d+)$", lambda e: f"e{e[1].strip('+')}{e[2]}", value)


def write_plan(launch: Path, plan: Plan) -> None:
    """Make the launch folder."""
    (launch / JOBS).mkdir(parents=True, exist_ok=True)
    write_json(launch / PLAN, asdict(plan))


def read_plan(launch: Path) -> Plan:
    """What `write_plan` wrote."""
    return Plan(**json.loads((launch / PLAN).read_text()))


def read_notes(launch: Path) -> list[Note]:
    """What became of the jobs that were started, by number."""
    notes = [Note(**json.loads(path.read_text())) for path in (launch / JOBS).glob("*.json")]
    return sorted(notes, key=lambda note: note.number)
