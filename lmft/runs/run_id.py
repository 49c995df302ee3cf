"""The run key: a hash of everything that decides a run's numbers; folders are named after it."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lmft.config.build import as_values, build
from lmft.config.knob_metadata import Decides
from lmft.config.schema import CORPUS, ModelConfig, RunConfig, decides
from lmft.dataset.splits import Split, open_splits
from lmft.output.sanitize import redact
from lmft.runs.run_dir import RunFolder, root_of
from lmft.storage.hashing import digest
from lmft.storage.hub import content_digest

# Increased by each commit that changes losses, so that older runs get other keys.
NUMERICS = 6

# Not in the key: a run that this value stops has no result, and any other run is unaffected.
IGNORED_VALUE = ("on_nonfinite", "stop")
LONGEST_NAME = 120  # characters of a folder's name; file systems allow 255 bytes


def find_finished(typed: DictConfig) -> RunFolder | None:
    """Return the folder of the run that a typed config describes, if the run has finished.

    This only hashes content and imports nothing heavy.
    """
    splits = open_splits(build(typed.dataset))
    key = digest(key_inputs(build(typed.model), as_values(typed), splits))
    path = _find_folder(root_of(typed.run_root), key)
    return RunFolder(path, key) if path is not None and (path / "result.json").exists() else None


def name_folder(config: RunConfig, values: dict[str, Any], splits: dict[str, Split]) -> RunFolder:
    """Return the folder, under `run_root`, of the run that `config` describes; it may not exist."""
    key = digest(key_inputs(config.model, values, splits))
    root = root_of(config.run_root)
    readable = "-".join([model_label(config.model), config.dataset.name, config.objective.name])
    new = root / f"{safe_name(redact(readable))}-{key[:10]}"
    return RunFolder(_find_folder(root, key) or new, key)


def safe_name(name: str) -> str:
    """Turn any `name` into a single component of a path, short enough to add a suffix."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".")[:LONGEST_NAME]


def model_label(config: ModelConfig) -> str:
    """Return the model's name, for display."""
    return config.label or Path(str(config.name)).name


def key_inputs(
    model: ModelConfig, values: dict[str, Any], splits: dict[str, Split]
) -> dict[str, Any]:
    """Return everything that decides a run's numbers, and nothing else: the run key hashes this.

    Paths are replaced by digests of their content, hub models by commits. Knobs of location and
    speed are left out. The precision is as configured, so `auto` is a value of its own.
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
            if decides(f"trainer.{knob}") is Decides.numbers and (knob, value) != IGNORED_VALUE
        },
        "evaluation": {
            knob: value
            for knob, value in values["evaluation"].items()
            if decides(f"evaluation.{knob}") is Decides.numbers
        },
        "seed": values["seed"],
        "precision": values["hardware"]["precision"],
        "numerics": NUMERICS,
    }


def _find_folder(root: Path, key: str) -> Path | None:
    """Return the existing folder of the run key, whatever its name starts with."""
    return next(root.glob(f"*-{key[:10]}"), None)
