"""The runs that lie under a root: what can be told of them without loading anything heavy."""

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmft.config.compose import load_composed
from lmft.config.knobs import flatten
from lmft.errors import UserError
from lmft.storage.lock import is_locked
from lmft.tracker.run_log import read_facts

# Knobs that say where things lie or how fast they go, not what a run is.
PLACES = ("run_root", "cache_root", "fresh", "debug", "tracker.", "hardware.", "dataset.source.")


class State(Enum):
    """How far a run has come."""

    finished = "finished"
    running = "running"
    evaluated = "evaluated"  # a model that was only scored
    pruned = "pruned"  # by a study; the same command takes it to its end
    unfinished = "unfinished"


@dataclass(frozen=True)
class ListedRun:
    """One run's folder."""

    path: Path
    state: State
    started: float  # seconds since 1970
    knobs: dict[str, Any]  # by full name, less PLACES
    results: dict[str, dict[str, Any]]  # by split

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return size_of(self.path)


def list_runs(root: Path) -> list[ListedRun]:
    """The runs in `root`, the oldest first; links are passed over."""
    folders = (path for path in root.glob("*") if path.is_dir() and not path.is_symlink())
    entries = (read_entry(path) for path in folders if is_run(path))
    return sorted(entries, key=lambda entry: (entry.started, entry.path.name))


def is_run(path: Path) -> bool:
    """Whether lmft made this folder for a run."""
    return (path / ".hydra" / "config.yaml").is_file()


def read_entry(path: Path) -> ListedRun:
    """What the run's folder `path` tells."""
    own = _read_json(path / "result.json")
    scored = _read_json(path / "evaluations.json")
    if own:
        state = State.finished
    elif is_locked(path):
        state = State.running
    elif scored:
        state = State.evaluated
    else:
        pruned = "pruned_at" in read_facts(path).get("tags", {})
        state = State.pruned if pruned else State.unfinished
    results = {found["conditions"]["split"]: found for found in scored.values()}
    results |= {split: own[split] for split in ("validation", "test") if own.get(split)}
    config = path / ".hydra" / "config.yaml"
    return ListedRun(path, state, config.stat().st_mtime, read_knobs(config), results)


def read_knobs(config: Path) -> dict[str, Any]:
    """The knobs of a composed config by full name; none where it was not written to its end."""
    try:
        tree: Any = OmegaConf.to_container(load_composed(config), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, UserError):
        return {}
    knobs = flatten(tree)
    return {name: value for name, value in knobs.items() if not name.startswith(PLACES)}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what links lead to does not count."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
