"""One job of a sweep, in whatever process: its plan, what it reports, and how it ends."""

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lmft.errors import Interrupted
from lmft.metrics import VALIDATION_LOSS
from lmft.output.bars import readable_time
from lmft.runs.find_run import JOBS
from lmft.runs.finished import Job
from lmft.runs.run import RESULT
from lmft.storage.atomic import read_json, write_json
from lmft.sweep.optuna_study import Trial, open_trial
from lmft.sweep.records import JobRecord, new_record, read_records, record_path, write_record
from lmft.tracker.run_log import read_facts, read_points

PLAN = "sweep.json"


@dataclass(frozen=True)
class SweepPlan:
    """What every job must know of its sweep and of the launch that it is part of."""

    key: str  # a hash of all that the jobs have in common
    names: list[str]  # the knobs that vary
    folder: str  # of the sweep
    sweep_id: str | None  # in the tracker; None: it has no sweeps
    total: int  # jobs of this launch; of a search, trials of the study
    numbers: list[int] = field(default_factory=list)  # of a grid's jobs in the sweep, in order
    parallel: bool = False  # whether jobs run at the same time
    study: dict[str, Any] | None = None  # name, storage and pruner of an Optuna study


class SweepJob:
    """A job that is running."""

    def __init__(self, record: JobRecord, plan: SweepPlan):
        self.record, self.plan = record, plan
        self.entry = Job(record.name or f"job {record.number}", plan.sweep_id, self.prune)
        self._trial: Trial | None = open_trial(plan.study, record.number)
        self._started = time.monotonic()
        self._read = 0  # bytes of the run's metric points whose losses the study has

    @property
    def prefix(self) -> str:
        """What its lines start with, where other jobs print theirs."""
        return f"job {self.record.number}: " if self.plan.parallel else ""

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

    def end(self, folder: Path, was_finished: bool = False) -> float:
        """Record the result of the run, which may have finished before; return its loss."""
        self.record.seconds = 0.0 if was_finished else time.monotonic() - self._started
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
        self.record.state, self.record.reason, self.record.folder = "failed", reason, ""


@contextmanager
def open_job(launch_folder: Path, number: int, overrides: list[str]) -> Iterator[SweepJob]:
    """Yield a job of a sweep, in whatever process; its record is written at start and end.

    Args:
        launch_folder: of the launch that the job is part of.
        number: of the job in this launch.
        overrides: all words that its config was composed from.
    """
    plan = read_plan(launch_folder)
    sweep_folder = Path(plan.folder)
    record = new_record(plan.numbers[number] if plan.numbers else number, overrides, plan.names)
    # Another launch may be at the same job, and end before this one has read its result.
    record.folder = read_json(record_path(sweep_folder, record.number)).get("folder", "")
    job = SweepJob(record, plan)

    def save() -> None:
        write_record(launch_folder, number, record)
        write_record(sweep_folder, record.number, record)

    save()
    try:
        yield job
    except Interrupted:
        record.state = "stopped"
        raise
    finally:
        save()


def describe_start(job: SweepJob, launch_folder: Path, number: int) -> str:
    """Return the line that a job starts with.

    Args:
        job: that starts.
        launch_folder: of the launch that the job is part of.
        number: of the job in this launch.
    """
    total = max(job.plan.total, number + 1)
    line = f"Job {job.record.number} ({number + 1} of {total}): {job.record.name}"
    left = seconds_left(job.plan, launch_folder)
    return line if left is None else f"{line}  about {readable_time(left)} left for all jobs"


def seconds_left(plan: SweepPlan, launch_folder: Path) -> float | None:
    """Return how long the jobs of a launch may still take; None before one of them was trained."""
    records = read_records(launch_folder)
    trained = [record.seconds for record in records if record.seconds]
    if not trained:
        return None
    running = [record for record in records if record.state == "running"]
    over = {record.number for record in records if record.state != "running"}
    for record in read_records(Path(plan.folder)):  # those of earlier launches answer at once
        if record.state == "finished" and (not plan.numbers or record.number in plan.numbers):
            over.add(record.number)
    at_once = max(1, len(running))
    return statistics.mean(trained) * max(0, plan.total - len(over)) / at_once


def write_plan(launch_folder: Path, plan: SweepPlan) -> None:
    """Write the plan into the launch folder, which is created if it is missing."""
    (launch_folder / JOBS).mkdir(parents=True, exist_ok=True)
    write_json(launch_folder / PLAN, asdict(plan))


def read_plan(launch_folder: Path) -> SweepPlan:
    """Return the plan that `write_plan` wrote."""
    return SweepPlan(**json.loads((launch_folder / PLAN).read_text()))
