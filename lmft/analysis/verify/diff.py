"""Compare what two runs left behind, bit for bit."""

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

NOT_COMPARED = (".md", ".svg")  # suffixes of the model card, which contains times
MEASURED = re.compile("second|memory|limit")  # metrics of time, memory and speed: never equal
LONGEST_VALUE = 40  # characters

# What was read, as exact text by name; in order, so that the first difference is the earliest.
Values = dict[str, str]


@dataclass(frozen=True)
class Finding:
    """One thing that was compared."""

    what: str
    size: str  # as in `5 files`
    difference: str | None  # None: identical


def compare_folders(straight: Path, interrupted: Path) -> list[Finding]:
    """Compare the folders of two finished runs, except for measured time, memory and speed.

    Args:
        straight: the folder of the run that was not interrupted.
        interrupted: the folder of the other run.
    """
    readers = {
        "checkpoint": (hash_files, "files"),
        "result.json": (read_result, "values"),
        "metrics.jsonl": (read_repeatable_points, "points"),
    }
    sides = ("straight", "interrupted")
    return [
        compare_values(name, read(straight), read(interrupted), sides, unit)
        for name, (read, unit) in readers.items()
    ]


def compare_with_store(name: str, folder: Path, uri: str) -> Finding:
    """Check that MLflow has each metric point of a run exactly once.

    Args:
        name: of the run, for the output.
        folder: of the run.
        uri: of the store.
    """
    own, stored = read_folder_points(folder), read_store_points(folder, uri)
    return compare_values(f"MLflow, {name} run", own, stored, ("folder", "MLflow"), "points")


def compare_values(
    name: str, first: Values, second: Values, sides: tuple[str, str], unit: str
) -> Finding:
    """Return the first difference between two sets of values, and how many there are."""
    keys = list(dict.fromkeys([*first, *second]))
    differing = [key for key in keys if first.get(key) != second.get(key)]
    size = f"{len(keys):,} {unit}"
    if not differing:
        return Finding(name, size, None)
    key = differing[0]
    pair = ", ".join(
        f"{values.get(key, 'nothing')[:LONGEST_VALUE]} {side}"
        for values, side in zip((first, second), sides, strict=True)
    )
    return Finding(name, size, f"{key}: {pair}; {len(differing):,} of {size} differ")


def hash_files(folder: Path) -> Values:
    """Return the SHA-256 of each file of the best weights."""
    files = sorted((folder / "checkpoint").iterdir())
    return {file.name: digest_files([file]) for file in files if file.suffix not in NOT_COMPARED}


def read_result(folder: Path) -> Values:
    """Return the values of result.json without its timing."""
    result = json.loads((folder / "result.json").read_text())
    del result["timing"]
    return {name: json.dumps(value) for name, value in flatten(result).items()}


def read_repeatable_points(folder: Path) -> Values:
    """Return the metric points of the folder that are the same in each run."""
    points = read_folder_points(folder)
    return {name: value for name, value in points.items() if not MEASURED.search(name)}


def read_folder_points(folder: Path) -> Values:
    """Return all metric points of the folder; one that was logged twice has two values."""
    logged = defaultdict(list)
    for points in read_points(folder):
        for key, value in points.metrics.items():
            logged[f"{key} at step {points.step}"].append(repr(float(value)))
    return {name: " and ".join(values) for name, values in logged.items()}


def read_store_points(folder: Path, uri: str) -> Values:
    """Return all metric points of the folder's run in MLflow; none if it has no such run."""
    client = open_client(uri)
    run = find_run_of_folder(client, str(folder))
    logged = defaultdict(list)
    if run is not None:
        for key in run.data.metrics:
            for point in client.get_metric_history(run.info.run_id, key):
                logged[f"{key} at step {point.step}"].append(repr(float(point.value)))
    return {name: " and ".join(values) for name, values in logged.items()}


def show_findings(findings: list[Finding], console: Console) -> None:
    """Print a line for each finding."""
    for finding in findings:
        outcome = (finding.difference or "identical", "red" if finding.difference else "green")
        line = Text.assemble(f"{finding.what:<24}{finding.size:>14}  ", outcome)
        console.print(line, soft_wrap=True)
