"""One job of a sweep: its plan and its record are files in the sweep's launch folder.

By them, jobs in other processes know their sweep, and the sweep learns how its jobs ended.
"""

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
from lmft.metrics import VALIDATION_LOSS
from lmft.output.sanitize import redact
from lmft.runs.finished import Job
from lmft.runs.run import RESULT
from lmft.storage.atomic import read_json, write_json
from lmft.sweep.optuna_study import Trial, open_trial
from lmft.tracker.run_log import read_facts, read_points

PLAN, JOBS = "sweep.json", "jobs"


@dataclass(frozen=True)
class SweepPlan:
    """What every job must know of its sweep."""

    key: str  # a hash of all that the jobs have in common
    names: list[str]  # the knobs that vary
    sweep_id: str | None  # in the tracker; None: it has no sweeps
    study: dict[str, Any] | None  # name, storage and pruner of an Optuna study


@dataclass
class JobRecord:
    """The state and result of a job."""

    number: int
    knobs: dict[str, str]  # those that vary, by short name
    state: str = "running"  # finished, pruned, failed or stopped; running: its process was killed
    reason: str = ""
    folder: str = ""  # of its run
    loss: float = math.inf  # validation, nats per target

    @property
    def name(self) -> str:
        """The name in MLflow, as in lr=3e-5 seed=1."""
        return " ".join(f"{knob}={value}" for knob, value in self.knobs.items())


class SweepJob:
    """A job that is running."""

    def __init__(self, record: JobRecord, plan: SweepPlan):
        self.record, self.plan = record, plan
        self.entry = Job(record.name or f"job {record.number}", plan.sweep_id, self.prune)
        self._trial: Trial | None = open_trial(plan.study, record.number)
        self._read = 0  # bytes of the run's metric points whose losses the study has

    def prune(self, step: int, folder: Path) -> bool:
        """Report new validation losses to the study; return whether it prunes the run."""
        if self._trial is None:
            return False
        losses = {}
        for points in read_points(folder, self._read):
            self._read = points.end
            if VALIDATION_LOSS in points.metrics:
                losses[points.step] = points.metrics[VALIDATION_LOSS]
        return self._trial.should_prune(losses)

    def end(self, folder: Path) -> float:
        """Record the result of the run; return its validation loss."""
        result = read_json(folder / RESULT)
        self.record.folder = str(folder)
        if result:
            self.record.state, self.record.loss = "finished", float(result["validation"]["loss"])
        else:
            self.record.state = "pruned"
            self.record.reason = f"at step {read_facts(folder)['tags']['pruned_at']}"
        return self.record.loss

    def fail(self, reason: str) -> None:
        """Record why there is no result."""
        self.record.state, self.record.reason = "failed", reason


@contextmanager
def open_job(launch_folder: Path, number: int, overrides: list[str]) -> Iterator[SweepJob]:
    """Yield a job of a sweep, in whatever process; its record is written at start and end.

    Args:
        launch_folder: of the sweep.
        number: of the job.
        overrides: all words that its config was composed from.
    """
    plan = read_plan(launch_folder)
    record = JobRecord(number, pick_knobs(overrides, plan.names))
    job = SweepJob(record, plan)
    path = launch_folder / JOBS / f"{number}.json"
    write_json(path, asdict(record))
    try:
        yield job
    except Interrupted:
        record.state = "stopped"
        raise
    finally:
        write_json(path, asdict(record))


def pick_knobs(overrides: list[str], names: list[str]) -> dict[str, str]:
    """Return the values of the knobs `names` in overrides, by their shortest unambiguous names."""
    values = dict(word.lstrip("+").split("=", 1) for word in overrides if "=" in word)
    shorts = {name: name.rpartition(".")[2] for name in names}
    count = Counter(shorts.values())
    return {
        shorts[name] if count[shorts[name]] == 1 else name: shorten_number(redact(values[name]))
        for name in names
        if name in values
    }


def shorten_number(value: str) -> str:
    """Return 3e-5 for 3e-05, 1e30 for 1e+30, and a long number with four digits."""
    if re.fullmatch(r"-?\d*\.?\d+(e[+-]?\d+)?", value) and len(value) > 8:
        value = f"{float(value):.4g}"
    return re.sub(r"(?<=\d)e([+-])0*(\d+)$", lambda e: f"e{e[1].strip('+')}{e[2]}", value)


def write_plan(launch_folder: Path, plan: SweepPlan) -> None:
    """Write the plan into the launch folder, which is created if it is missing."""
    (launch_folder / JOBS).mkdir(parents=True, exist_ok=True)
    write_json(launch_folder / PLAN, asdict(plan))


def read_plan(launch_folder: Path) -> SweepPlan:
    """Return the plan that `write_plan` wrote."""
    return SweepPlan(**json.loads((launch_folder / PLAN).read_text()))


def read_job_records(launch_folder: Path) -> list[JobRecord]:
    """Return the records of all jobs that were started, by number."""
    paths = (launch_folder / JOBS).glob("*.json")
    records = [JobRecord(**json.loads(path.read_text())) for path in paths]
    return sorted(records, key=lambda record: record.number)
