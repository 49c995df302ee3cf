"""What two runs left behind, compared bit for bit."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lmft.config.knobs import flatten
from lmft.storage.hashing import digest_files
from lmft.tracker.mlflow_store import find_run_of_folder, open_client
from lmft.tracker.run_log import read_points

READ_BY_PEOPLE = (".md", ".svg")  # a card, which tells the time

MEASURED = re.compile("second|memory|limit")  # metrics of time, memory and speed; never equal

SHOWN = 40  # characters of a value

# What was found under each name, as exact text; in order, so that the first one is the earliest.
Values = dict[str, str]


@dataclass(frozen=True)
class Finding:
    """One thing that was compared."""

    what: str
    size: str  # 5 files
    difference: str | None  # None: identical


def compare_runs(whole: Path, broken: Path) -> list[Finding]:
    """What two finished runs left in their folders; what a clock or a meter measured is left out.

    Args:
        whole: the folder of the run that nothing interrupted.
        broken: the folder of the other one.
    """
    readings = {
        "checkpoint": (hash_files, "files"),
        "result.json": (read_result, "values"),
        "metrics.jsonl": (read_metrics, "points"),
    }
    sides = ("straight", "interrupted")
    return [
        compare(name, read(whole), read(broken), sides, unit)
        for name, (read, unit) in readings.items()
    ]


def compare_store(name: str, folder: Path, uri: str) -> Finding:
    """Whether MLflow holds each point of the run in `folder`, once; `name` says which run it is."""
    own, shown = read_points_of(folder), read_store(folder, uri)
    return compare(f"MLflow, {name} run", own, shown, ("folder", "MLflow"), "points")


def compare(name: str, one: Values, other: Values, sides: tuple[str, str], unit: str) -> Finding:
    """One finding: the first difference, and how many there are."""
    every = list(dict.fromkeys([*one, *other]))
    differing = [key for key in every if one.get(key) != other.get(key)]
    size = f"{len(every):,} {unit}"
    if not differing:
        return Finding(name, size, None)
    first = differing[0]
    pair = ", ".join(
        f"{values.get(first, 'nothing')[:SHOWN]} {side}"
        for values, side in zip((one, other), sides, strict=True)
    )
    return Finding(name, size, f"{first}: {pair}; {len(differing):,} of {size} differ")


def hash_files(folder: Path) -> Values:
    """A SHA-256 of each file of the best weights."""
    files = sorted((folder / "checkpoint").iterdir())
    return {file.name: digest_files([file]) for file in files if file.suffix not in READ_BY_PEOPLE}


def read_result(folder: Path) -> Values:
    """What the run reached."""
    result = json.loads((folder / "result.json").read_text())
    del result["timing"]
    return {name: json.dumps(value) for name, value in flatten(result).items()}


def read_metrics(folder: Path) -> Values:
    """The metric points that must repeat."""
    points = read_points_of(folder)
    return {name: value for name, value in points.items() if not MEASURED.search(name)}


def read_points_of(folder: Path) -> Values:
    """All metric points of the folder; one that was noted twice has two values."""
    noted = defaultdict(list)
    for points in read_points(folder):
        for key, value in points.metrics.items():
            noted[f"{key} at step {points.step}"].append(repr(float(value)))
    return {name: " and ".join(values) for name, values in noted.items()}


def read_store(folder: Path, uri: str) -> Values:
    """All metric points of the folder's run in MLflow; none where it has no such run."""
    client = open_client(uri)
    run = find_run_of_folder(client, str(folder))
    noted = defaultdict(list)
    if run is not None:
        for key in run.data.metrics:
            for point in client.get_metric_history(run.info.run_id, key):
                noted[f"{key} at step {point.step}"].append(repr(float(point.value)))
    return {name: " and ".join(values) for name, values in noted.items()}


def show_findings(findings: list[Finding], console: Console) -> None:
    """A line for each."""
    for finding in findings:
        found = (finding.difference or "identical", "red" if finding.difference else "green")
        line = Text.assemble(f"{finding.what:<24}{finding.size:>14}  ", found)
        console.print(line, soft_wrap=True)
