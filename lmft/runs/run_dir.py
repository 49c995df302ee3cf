"""The folder of a run, and its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmft.errors import UserError
from lmft.output.sanitize import redact_all, redact_yaml
from lmft.storage.atomic import new_folder, read_json, write_json
from lmft.tracker.mlflow_store import find_folder_of_run, store_uri


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run."""

    path: Path
    key: str  # the run key: a hash of everything that decides the run's numbers

    @property
    def checkpoint(self) -> Path:
        """The best weights, as a Hugging Face folder."""
        return self.path / "checkpoint"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints to resume from, while the run has not finished."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """The log of the run."""
        return self.path / "run.log"

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of the file `name`; empty if there is no such file."""
        return read_json(self.path / name)

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` to the file `name` atomically, without secrets."""
        write_json(self.path / name, redact_all(value))


def find_run(name: str, tracker_uri: str | None) -> RunFolder:
    """Return the finished run `name`: the path of its folder, or the id of its MLflow run.

    Raises:
        UserError: there is no such run, or it has not finished.
    """
    path = Path(name).expanduser().absolute()
    if not path.is_dir():
        tracked = find_folder_of_run(name, tracker_uri)
        if tracked is None:
            raise UserError(
                f"run={name} is neither a run's folder nor an MLflow run of "
                f"{store_uri(tracker_uri)}; choose one that lmft runs lists."
            )
        path = Path(tracked)
    folder = RunFolder(path, path.name.rpartition("-")[2])
    if not folder.checkpoint.is_dir():
        raise UserError(f"run={name} has no checkpoint; train it first, or choose another run.")
    return folder


def root_of(run_root: str) -> Path:
    """Return the folder of all runs as an absolute path."""
    return Path(run_root).expanduser().absolute()


def set_aside(path: Path) -> Path:
    """Rename a folder to the first free name of path~1, path~2 and so on; return that path."""
    number = 1
    while (new_path := path.with_name(f"{path.name}~{number}")).exists():
        number += 1
    path.rename(new_path)
    return new_path


def create_run_folder(folder: RunFolder, composed: dict[str, str]) -> None:
    """Create the folder, with the texts `composed` by file name in `.hydra`, unless it exists."""
    hydra = folder.path / ".hydra"
    if hydra.exists():
        return
    with new_folder(hydra) as temporary:
        for name, text in composed.items():
            (temporary / name).write_text(redact_yaml(text))
