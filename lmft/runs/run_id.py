"""The run key: a hash of all that decides a run's numbers, and the folder named after it."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lmft.config.build import as_values, build
from lmft.config.schema import CORPUS, ModelConfig, RunConfig
from lmft.dataset.splits import Split, open_splits
from lmft.output.sanitize import redact
from lmft.runs.run_dir import RunFolder, root_of
from lmft.storage.hashing import digest
from lmft.storage.hub import content_digest

# Raised by every commit that changes losses, so that older runs are not taken for the same ones.
NUMERICS = 6

STOPS = ("on_nonfinite", "stop")  # no number comes of it

LONGEST_NAME = 120  # characters of a folder; file systems take 255 bytes

SPEED = ("checkpoint_every", "checkpoint_minutes")  # knobs of the trainer that change no number


def find_finished(typed: DictConfig) -> RunFolder | None:
    """The folder of the run that a typed config describes, if it has finished.

    Only content is hashed: nothing heavy is imported, so that it answers at once.
    """
    splits = open_splits(build(typed.dataset))
    key = digest(key_inputs(build(typed.model), as_values(typed), splits))
    path = _there(root_of(typed.run_root), key)
    return RunFolder(path, key) if path is not None and (path / "result.json").exists() else None


def name_folder(config: RunConfig, values: dict[str, Any], splits: dict[str, Split]) -> RunFolder:
    """The folder of the run that `config` describes, under `run_root`; nothing is made yet."""
    key = digest(key_inputs(config.model, values, splits))
    root = root_of(config.run_root)
    readable = "-".join([model_label(config.model), config.dataset.name, config.objective.name])
    return RunFolder(_there(root, key) or root / f"{safe_name(redact(readable))}-{key[:10]}", key)


def safe_name(name: str) -> str:
    """A part of a path that leads nowhere else, whatever `name` is; with room for a suffix."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".")[:LONGEST_NAME]


def model_label(config: ModelConfig) -> str:
    """The model's name, for a person."""
    return config.label or Path(str(config.name)).name


def key_inputs(
    model: ModelConfig, values: dict[str, Any], splits: dict[str, Split]
) -> dict[str, Any]:
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
