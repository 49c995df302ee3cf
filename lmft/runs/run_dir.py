"""A run's folder and what is in it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmft.errors import UserError
from lmft.output.sanitize import redact_all, redact_yaml
from lmft.storage.atomic import new_folder, write_json
from lmft.tracker.mlflow_store import folder_of, store_uri


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it makes."""

    path: Path
    key: str  # a hash of all that decides its numbers

    @property
    def checkpoint(self) -> Path:
        """The best weights, as a Hugging Face folder."""
        return self.path / "checkpoint"

    @property
    def checkpoints(self) -> Path:
        """What going on takes, while the run has not finished."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """What was said while it ran."""
        return self.path / "run.log"

    def read_json(self, name: str) -> dict[str, Any]:
        """What the file `name` holds; nothing where there is none."""
        path = self.path / name
        return json.loads(path.read_text()) if path.exists() else {}

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` to the file `name`, whole or not at all."""
        write_json(self.path / name, redact_all(value))


def find_run(place: str, tracker_uri: str | None) -> RunFolder:
    """The finished run that `place` names: its folder, or the id of its MLflow run.

    Raises:
        UserError: there is none, or it has not finished.
    """
    path = Path(place).expanduser().absolute()
    if not path.is_dir():
        found = folder_of(place, tracker_uri)
        if found is None:
            raise UserError(
                f"run={place} is neither a run's folder nor an MLflow run of "
                f"{store_uri(tracker_uri)}; lmft runs lists those there are."
            )
        path = Path(found)
    folder = RunFolder(path, path.name.rpartition("-")[2])
    if not folder.checkpoint.is_dir():
        raise UserError(f"run={place} has no checkpoint; train it first, or choose another run.")
    return folder


def root_of(run_root: str) -> Path:
    """The folder of all runs."""
    return Path(run_root).expanduser().absolute()


def set_aside(path: Path) -> Path:
    """Move a folder to the first free name of path~1, path~2 and so on; returns it."""
    number = 1
    while (place := path.with_name(f"{path.name}~{number}")).exists():
        number += 1
    path.rename(place)
    return place


def create_run_folder(folder: RunFolder, composed: dict[str, str]) -> None:
    """Keep what was composed at the first start: file names under `.hydra`, and their texts."""
    place = folder.path / ".hydra"
    if place.exists():
        return
    with new_folder(place) as temporary:
        for name, text in composed.items():
            (temporary / name).write_text(redact_yaml(text))
