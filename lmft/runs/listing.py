"""List the runs of a root folder, without importing anything heavy."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmft.config.compose import load_composed
from lmft.config.knob_metadata import Decides
from lmft.config.knobs import flatten, is_unused
from lmft.config.schema import decides
from lmft.errors import UserError
from lmft.storage.atomic import read_json
from lmft.storage.lock import is_locked
from lmft.tracker.run_log import read_facts

NOT_LISTED = (Decides.location, Decides.speed)


class State(Enum):
    """The state of a run."""

    finished = "finished"
    running = "running"
    evaluated = "evaluated"  # by `lmft evaluate`, not trained
    pruned = "pruned"  # by a study; the same command resumes it
    unfinished = "unfinished"


@dataclass(frozen=True)
class ListedRun:
    """A run, as its folder describes it."""

    path: Path
    state: State
    started: float  # seconds since 1970
    knobs: dict[str, Any]  # by full name, without those of location and speed
    results: dict[str, dict[str, Any]]  # by split

    @property
    def size(self) -> int:
        """The size on disk, in bytes."""
        return size_of(self.path)


def list_runs(root: Path) -> list[ListedRun]:
    """Return the runs in `root`, the oldest first; symbolic links are skipped."""
    folders = (path for path in root.glob("*") if path.is_dir() and not path.is_symlink())
    entries = (read_entry(path) for path in folders if is_run(path))
    return sorted(entries, key=lambda entry: (entry.started, entry.path.name))


def is_run(path: Path) -> bool:
    """Return whether `path` is the folder of a run."""
    return (path / ".hydra" / "config.yaml").is_file()


def read_entry(path: Path) -> ListedRun:
    """Read the run's folder `path`."""
    result = read_json(path / "result.json")
    evaluations = read_json(path / "evaluations.json")
    if result:
        state = State.finished
    elif is_locked(path):
        state = State.running
    elif evaluations:
        state = State.evaluated
    else:
        pruned = "pruned_at" in read_facts(path).get("tags", {})
        state = State.pruned if pruned else State.unfinished
    results = {scored["conditions"]["split"]: scored for scored in evaluations.values()}
    results |= {split: result[split] for split in ("validation", "test") if result.get(split)}
    config = path / ".hydra" / "config.yaml"
    return ListedRun(path, state, config.stat().st_mtime, read_knobs(config), results)


def read_knobs(config: Path) -> dict[str, Any]:
    """Return the knobs of a composed config by full name; empty if the file is incomplete."""
    try:
        tree: Any = OmegaConf.to_container(load_composed(config), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, UserError):
        return {}
    knobs = flatten(tree)
    if knobs.get("from_run") is not None:  # which names the model
        knobs = {name: value for name, value in knobs.items() if not name.startswith("model.")}
        knobs["from_run"] = Path(str(knobs["from_run"])).name
    return {
        name: value
        for name, value in knobs.items()
        if decides(name) not in NOT_LISTED and not is_unused(name, value)
    }


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder, without following links."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())
