"""The train, validation and test split of a corpus.

Validation documents are held out of the training split if the dataset has no validation split.
"""

import logging
from dataclasses import fields, replace

from lmft.config.dataset_knobs import DatasetConfig
from lmft.dataset.files import Paths
from lmft.dataset.overlap import TrainingFiles, keep_apart
from lmft.dataset.record_knobs import RecordKnobs
from lmft.dataset.sources import TextFiles
from lmft.dataset.split import Split
from lmft.errors import UserError

logger = logging.getLogger(__name__)


SPLITS = ("train", "validation", "test")
MOST_NAMES = 3  # of files, in a warning


def open_splits(config: DatasetConfig) -> dict[str, Split]:
    """Return the splits that `config` has, in the order train, validation, test.

    Without dataset.validation, validation documents are held out of dataset.train. Files that
    dataset.validation or dataset.test reads are left out of dataset.train.
    """
    locations = {name: getattr(config, name) for name in SPLITS}
    source = config.source
    if isinstance(source, TextFiles):
        source = replace(source, delimiter=config.delimiter)
    elif lists := [name for name, where in locations.items() if isinstance(where, list)]:
        raise UserError(
            f"dataset.{lists[0]} is a list of paths, but dataset={config.name} reads no files; add "
            "dataset=text_files."
        )
    training = keep_apart(source, config.validation, config.test)
    sources = dict.fromkeys(SPLITS, source) | {"train": training}
    held_out: dict[str, bool | None] = dict.fromkeys(SPLITS)
    if locations["train"] is not None and locations["validation"] is None:
        locations["validation"] = locations["train"]
        sources["validation"] = training
        held_out |= {"train": False, "validation": True}
    knobs = RecordKnobs(**{knob.name: getattr(config, knob.name) for knob in fields(RecordKnobs)})
    splits: dict[str, Split] = {}
    for name, where in locations.items():
        if where is not None:
            splits[name] = Split(
                name,
                config.name,
                sources[name],
                where,
                config.document,
                held_out[name],
                config.validation_fraction,
                config.max_documents,
                knobs,
                config.drop_duplicates,
                training=splits.get("train"),
            )
    return splits


def warn_of_overlap(splits: dict[str, Split]) -> None:
    """Warn of files left out of training, and of validation or test text that is trained on."""
    if "train" not in splits:
        return
    train = splits["train"]
    same = [
        name
        for name in ("validation", "test")
        if name in splits and splits[name].digest() == train.digest()
    ]
    for name in same:
        logger.warning(
            "dataset.%s has the same content as dataset.train, so its loss measures "
            "memorization, not generalization.",
            name,
        )
    if not same and isinstance(train.source, TrainingFiles):
        _warn_of_shared_files(train.source, train.where)


def _warn_of_shared_files(source: TrainingFiles, where: Paths) -> None:
    shared = source.shared(where)
    if not shared:
        return
    names = ", ".join(map(str, shared[:MOST_NAMES])) + (", ..." * (len(shared) > MOST_NAMES))
    if set(shared).isdisjoint(source.paths(where)):
        logger.warning(
            "Left out of training, since dataset.validation or dataset.test reads them: %s.", names
        )
    else:
        logger.warning(
            "dataset.validation or dataset.test reads all files of dataset.train (%s), so its loss "
            "measures memorization, not generalization.",
            names,
        )
