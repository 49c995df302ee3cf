"""A run's folder: its name, which follows from what it computes, and what lies in it."""

import json
import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lmft.config import CORPUS, ModelConfig, RunConfig, as_values, build
from lmft.dataset import Split, open_splits
from lmft.errors import UserError
from lmft.files import new_folder, write_json
from lmft.hub import content_digest
from lmft.identity import NUMERICS, digest
from lmft.plain import plain
from lmft.secrets import Discreet, redact, redact_all, redact_yaml
from lmft.tracker import folder_of, store_uri

STOPS = ("on_nonfinite", "stop")  # no number comes of it
LONGEST_NAME = 120  # characters of a folder; file systems take 255 bytes
SPEED = ("checkpoint_every", "checkpoint_minutes")  # knobs of the trainer that change no number


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


def find_finished(typed: DictConfig) -> RunFolder | None:
    """The folder of the run that a typed config describes, if it has finished.

    Only content is hashed: nothing heavy is imported, so that it answers at once.
    """
    splits = open_splits(build(typed.dataset))
    key = digest(recipe(build(typed.model), as_values(typed), splits))
    path = _there(root_of(typed.run_root), key)
    return RunFolder(path, key) if path is not None and (path / "result.json").exists() else None


def name_folder(config: RunConfig, values: dict[str, Any], splits: dict[str, Split]) -> RunFolder:
    """The folder of the run that `config` describes, under `run_root`; nothing is made yet."""
    key = digest(recipe(config.model, values, splits))
    root = root_of(config.run_root)
    readable = "-".join([model_label(config.model), config.dataset.name, config.objective.name])
    return RunFolder(_there(root, key) or root / f"{safe_name(redact(readable))}-{key[:10]}", key)


def safe_name(name: str) -> str:
    """A part of a path that leads nowhere else, whatever `name` is; with room for a suffix."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".")[:LONGEST_NAME]


def root_of(run_root: str) -> Path:
    """The folder of all runs."""
    return Path(run_root).expanduser().absolute()


def model_label(config: ModelConfig) -> str:
    """The model's name, for a person."""
    return config.label or Path(str(config.name)).name


def recipe(model: ModelConfig, values: dict[str, Any], splits: dict[str, Split]) -> dict[str, Any]:
    """All that decides a run's numbers, and nothing else: its key is the hash of this.

    Content stands for paths, a commit for a hub model. Where and how fast a run computes stays out;
    the precision counts as it is written.
    """
    weights = None if model.name is None else content_digest(model.name, model.revision)
    tokenizer: Any = model.tokenizer
    if model.tokenizer == CORPUS:
        tokenizer = [CORPUS, model.vocab_size]
    elif model.tokenizer is not None:
        tokenizer = content_digest(model.tokenizer, model.revision, "model.tokenizer")
    return {
        "dataset": {name: split.digest() for name, split in splits.items()},
        "separator": values["dataset"]["separator"],
        "block_size": values["dataset"]["block_size"],
        "model": [weights, tokenizer, model.architecture, model.from_scratch, model.dropout],
        "model.config": model.config,
        "objective": values["objective"],
        "optimizer": values["optimizer"],
        "trainer": {
            knob: value
            for knob, value in values["trainer"].items()
            if knob not in SPEED and (knob, value) != STOPS
        },
        "evaluation": {
            knob: values["evaluation"][knob]
            for knob in ("context", "stride", "max_blocks", "pseudo")
        },
        "seed": values["seed"],
        "precision": values["hardware"]["precision"],
        "numerics": NUMERICS,
    }


def _there(root: Path, key: str) -> Path | None:
    """The folder of that key, whatever it is called."""
    return next(root.glob(f"*-{key[:10]}"), None)


def set_aside(path: Path) -> Path:
    """Move a folder to the first free name of path~1, path~2 and so on; returns it."""
    number = 1
    while (place := path.with_name(f"{path.name}~{number}")).exists():
        number += 1
    path.rename(place)
    return place


def start_folder(folder: RunFolder, composed: dict[str, str]) -> None:
    """Keep what was composed at the first start: file names under `.hydra`, and their texts."""
    place = folder.path / ".hydra"
    if place.exists():
        return
    with new_folder(place) as temporary:
        for name, text in composed.items():
            (temporary / name).write_text(redact_yaml(text))


class LogFile(logging.FileHandler):
    """A log that goes without what its disk has no room for: the run's metrics tell of that."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Of one that could not be written."""


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Everything that is logged inside also goes to the file `path`."""
    handler = LogFile(path)
    handler.setFormatter(Discreet("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("lmft").setLevel(logging.INFO)
    try:
        yield
    except Exception:
        with suppress(OSError):
            print(plain(redact(traceback.format_exc())), file=handler.stream)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):
            handler.close()
