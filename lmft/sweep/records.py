"""The records of a sweep's jobs: files in the folder of a launch, and in that of the sweep.

By those of a launch, the sweep learns how the jobs in other processes ended. Those in the sweep's
folder are of all launches.
"""

import math
import re
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmft.output.sanitize import redact
from lmft.runs.find_run import JOBS
from lmft.runs.run import RESULT
from lmft.storage.atomic import read_json, write_json
from lmft.storage.hashing import digest
from lmft.storage.lock import file_lock

NOT_STARTED = "not started"


@dataclass
class JobRecord:
    """The state and result of a job."""

    number: int  # in the sweep, over all launches
    knobs: dict[str, str]  # those that vary, by short name
    state: str = "running"  # finished, pruned, failed, stopped, not started; running: or killed
    reason: str = ""
    folder: str = ""  # of its run
    loss: float = math.inf  # validation, nats per target
    point: str = ""  # a hash of the values of the knobs that vary
    seconds: float = 0.0  # of its last start; 0: its run had finished before

    @property
    def name(self) -> str:
        """The name in MLflow, as in lr=3e-5 seed=1."""
        return " ".join(f"{knob}={value}" for knob, value in self.knobs.items())


def new_record(number: int, overrides: list[str], names: list[str]) -> JobRecord:
    """Return the record of a job that starts.

    Args:
        number: of the job in the sweep.
        overrides: all words that its config is composed from.
        names: the knobs that vary.
    """
    values = pick_values(overrides, names)
    return JobRecord(number, shorten_knobs(values, names), point=digest(values))


def pick_values(overrides: list[str], names: list[str]) -> dict[str, str]:
    """Return the values of the knobs `names` in overrides."""
    values = dict(word.lstrip("+").split("=", 1) for word in overrides if "=" in word)
    return {name: values[name] for name in names if name in values}


def shorten_knobs(values: dict[str, str], names: list[str]) -> dict[str, str]:
    """Return short values of knobs, by the shortest names that are unambiguous among `names`."""
    shorts = {name: name.rpartition(".")[2] for name in names}
    count = Counter(shorts.values())
    return {
        shorts[name] if count[shorts[name]] == 1 else name: shorten_number(redact(value))
        for name, value in values.items()
    }


def shorten_number(value: str) -> str:
    """Return 3e-5 for 3e-05, 1e30 for 1e+30, and a long number with four digits."""
    if re.fullmatch(r"-?\d*\.?\d+(e[+-]?\d+)?", value) and len(value) > 8:
        value = f"{float(value):.4g}"
    return re.sub(r"(?<=\d)e([+-])0*(\d+)$", lambda e: f"e{e[1].strip('+')}{e[2]}", value)


def record_path(folder: Path, number: int) -> Path:
    """Return the file of a job's record in the folder of a launch or a sweep."""
    return folder / JOBS / f"{number}.json"


def lock_records(folder: Path) -> Any:
    """Return the lock of the records in a folder: launches at the same time write the same ones."""
    (folder / JOBS).mkdir(parents=True, exist_ok=True)
    return file_lock(folder / JOBS / ".lock")


def write_record(folder: Path, number: int, record: JobRecord) -> None:
    """Write a record under this number into the folder of a launch or a sweep."""
    with lock_records(folder):
        write_json(record_path(folder, number), asdict(record))


def read_records(folder: Path) -> list[JobRecord]:
    """Return the records in the folder of a launch or a sweep, by number."""
    paths = (folder / JOBS).glob("*.json")
    records = [JobRecord(**content) for path in paths if (content := read_json(path))]
    return sorted(records, key=lambda record: record.number)


def read_jobs(folder: Path) -> list[JobRecord]:
    """Return the jobs of the sweep in `folder` over all launches, as their runs are now.

    A job whose run was deleted is left out.
    """
    jobs = []
    for job in read_records(folder):
        if job.folder:
            run = folder.parent / Path(job.folder).name  # the root of all runs may have been moved
            result = read_json(run / RESULT)
            if job.state == "finished" and not result:
                continue
            job.folder = str(run)
            if result:
                job.state, job.reason = "finished", ""
                job.loss = float(result["validation"]["loss"])
        jobs.append(job)
    return jobs


def number_jobs(folder: Path, grid: list[list[str]], names: list[str]) -> list[int]:
    """Return the number in the sweep of each job of a grid; write records of those that are new.

    Args:
        folder: of the sweep.
        grid: the overrides of each job.
        names: the knobs that vary.
    """
    records = read_records(folder)
    known = {record.point: record.number for record in records}
    numbers = []
    following = max(known.values(), default=-1) + 1
    for overrides in grid:
        record = new_record(following, overrides, names)
        if record.point not in known:
            record.state = NOT_STARTED
            write_record(folder, following, record)
            known[record.point] = following
            following += 1
        numbers.append(known[record.point])
    return numbers


def forget_unstarted(folder: Path, numbers: list[int]) -> None:
    """Remove those of the sweep's jobs with these numbers that were not started."""
    for record in read_records(folder):
        if record.number in numbers and record.state == NOT_STARTED:
            record_path(folder, record.number).unlink(missing_ok=True)
    if not read_records(folder):  # no job was ever started
        shutil.rmtree(folder / JOBS, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()
