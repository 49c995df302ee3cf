"""A run's folder: its name, which follows from what it computes, and what lies in it."""

import json
import logging
import re
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmft.config import RunConfig
from lmft.dataset import Split
from lmft.errors import UserError
from lmft.identity import NUMERICS, digest
from lmft.model import CORPUS, ModelConfig, content_digest
from lmft.tracker import folder_of, store_uri


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it makes."""

    path: Path
    key: str  # a hash of all that decides its numbers

    @property
    def checkpoint(self) -> Path:
        """The best weights, as a Hugging Face folder."""
        return self.path / "checkpoint"

    def read_json(self, name: str) -> dict[str, Any]:
        """What the file `name` holds; nothing where there is none."""
        path = self.path / name
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def log(self) -> Path:
        """What was said while it ran."""
        return self.path / "run.log"

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` to the file `name`, whole or not at all."""
        temporary = self.path / f".{name}-new"
        temporary.write_text(json.dumps(value, indent=2) + "\n")
        temporary.rename(self.path / name)


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


def name_folder(config: RunConfig, values: dict[str, Any], splits: dict[str, Split]) -> RunFolder:
    """The folder of the run that `config` describes, under `run_root`; nothing is made yet."""
    key = digest(recipe(config, values, splits))
    readable = "-".join([model_label(config.model), config.dataset.name, config.objective.name])
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", readable).strip(".")
    return RunFolder(Path(config.run_root).expanduser().absolute() / f"{safe}-{key[:10]}", key)


def model_label(config: ModelConfig) -> str:
    """The model's name, for a person."""
    return config.label or Path(str(config.name)).name


def recipe(config: RunConfig, values: dict[str, Any], splits: dict[str, Split]) -> dict[str, Any]:
    """All that decides a run's numbers, and nothing else: its key is the hash of this.

    Content stands for paths, a commit for a hub model. Where and how fast a run computes stays out;
    the precision counts as it is written.
    """
    model = config.model
    weights = None if model.name is None else content_digest(model.name, model.revision)
    tokenizer: Any = model.tokenizer
    if model.tokenizer == CORPUS:
        tokenizer = [CORPUS, model.vocab_size]
    elif model.tokenizer is not None:
        tokenizer = content_digest(model.tokenizer, model.revision, "model.tokenizer")
    return {
        "dataset": {name: split.digest() for name, split in splits.items()},
        "separator": config.dataset.separator,
        "block_size": config.dataset.block_size,
        "model": [weights, tokenizer, model.architecture, model.from_scratch, model.dropout],
        "model.config": model.config,
        "objective": values["objective"],
        "optimizer": values["optimizer"],
        "trainer": values["trainer"],
        "evaluation": {
            knob: values["evaluation"][knob]
            for knob in ("context", "stride", "max_blocks", "pseudo")
        },
        "seed": config.seed,
        "precision": values["hardware"]["precision"],
        "numerics": NUMERICS,
    }


def start_folder(folder: RunFolder, composed: dict[str, str]) -> None:
    """An empty folder but for what was composed: file names under `.hydra`, and their texts."""
    shutil.rmtree(folder.path, ignore_errors=True)
    (folder.path / ".hydra").mkdir(parents=True)
    for name, text in composed.items():
        (folder.path / ".hydra" / name).write_text(text)


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Everything that is logged inside also goes to the file `path`."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("lmft").setLevel(logging.INFO)
    try:
        yield
    except Exception:
        traceback.print_exc(file=handler.stream)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
