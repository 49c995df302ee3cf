"""Find a run's folder by its path, its name or its MLflow id."""

from pathlib import Path

from lmft.errors import UserError
from lmft.storage.atomic import read_json
from lmft.tracker.mlflow_store import find_folder_of_run, store_uri

BEST, JOBS = "best.json", "jobs"  # in the folder of a sweep: its best run, its jobs


def find_folder(
    name: str, tracker_uri: str | None, knob: str = "run", root: Path | None = None
) -> Path:
    """Return the folder of the run `name`: its path or MLflow id; of a sweep, the best run's.

    Args:
        name: the path or id.
        tracker_uri: the MLflow store of the id.
        knob: that names the run, for messages.
        root: a folder of runs, where `name` may also be one.

    Raises:
        UserError: there is no such run, or no finished one in the sweep.
    """
    path = Path(name).expanduser().absolute()
    if root is not None and not path.is_dir():
        path = root / name
    if not path.is_dir():
        tracked = find_folder_of_run(name, tracker_uri)
        if tracked is None:
            where = "a run's folder" if root is None else f"a folder, nor a run of {root},"
            raise UserError(
                f"{knob}={name} is neither {where} nor an MLflow run of {store_uri(tracker_uri)}; "
                "choose one that lmft runs lists."
            )
        path = Path(tracked)
    if best := read_json(path / BEST):  # of a sweep
        return path.parent / str(best["run"])
    if (path / JOBS).is_dir():
        raise UserError(
            f"{knob}={name} is a sweep without a best run so far; launch it again to finish it."
        )
    return path


def check_checkpoint(folder: Path, knob: str = "run") -> None:
    """Check that a run has its best weights.

    Raises:
        UserError: it has not finished.
    """
    if not (folder / "checkpoint").is_dir():
        raise UserError(
            f"{knob}={folder} has no checkpoint; train it first, or choose another run."
        )


def root_of(run_root: str) -> Path:
    """Return the folder of all runs as an absolute path."""
    return Path(run_root).expanduser().absolute()
