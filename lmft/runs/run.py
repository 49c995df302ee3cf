"""A run: its config, and the key, the corpus and the folder that follow from it."""

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from lmft.config.build import build, check_types
from lmft.config.compose import load_composed, recompose
from lmft.config.dataset_knobs import DatasetConfig
from lmft.config.knob_metadata import Decides
from lmft.config.model_knobs import NO_ADAPTER, ModelConfig
from lmft.config.schema import RunConfig, decides
from lmft.dataset.split import Split
from lmft.dataset.splits import open_splits
from lmft.errors import UserError
from lmft.output.sanitize import redact, redact_all, redact_yaml
from lmft.runs.find_run import check_checkpoint, find_folder, root_of
from lmft.runs.provenance import Origin, find_origin
from lmft.runs.run_id import key_inputs, model_label, safe_name
from lmft.runs.source_run import STATE, begin_from_run, best_weights
from lmft.storage.atomic import new_folder, read_json, write_json
from lmft.storage.hashing import digest
from lmft.tracker.run_log import Corpus

CONFIG, RESULT = "config.yaml", "result.json"
IN_FOLDER_NAME = ("model", "dataset", "objective")  # groups that the name of a folder shows
LONGEST_NAME = 250  # characters of a run's name in MLflow


class Run:
    """One run: what is trained or evaluated, under which key, in which folder.

    Each part is made when it is first used, and once. Until `config` is, nothing heavy is imported,
    so that a finished run answers at once.
    """

    def __init__(
        self,
        composed: DictConfig | None = None,
        files: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ):
        """Name a run by its config or by its folder.

        Args:
            composed: the config, as Hydra composes it; None: that of the folder.
            files: the texts of Hydra's files about it by name, for the run's folder.
            folder: of a run that exists; None: the config decides it.

        Raises:
            UserError: the config has from_run, which can't be used.
        """
        assert composed is not None or folder is not None
        if composed is not None and folder is None and composed.get("from_run"):
            composed, files = begin_from_run(composed, files or {})
        self._composed, self._files, self._folder = composed, files, folder

    @cached_property
    def composed(self) -> DictConfig:
        """The config, as Hydra composed it."""
        if self._composed is not None:
            return self._composed
        assert self._folder is not None
        return load_composed(self._folder / ".hydra" / CONFIG)

    @property
    def files(self) -> Mapping[str, str]:
        """The texts of Hydra's files about the config by name."""
        return self._files or {CONFIG: OmegaConf.to_yaml(self.composed)}

    @cached_property
    def _checked(self) -> tuple[DictConfig, dict[str, Any]]:
        return check_types(self.composed)

    @property
    def typed(self) -> DictConfig:
        """The config with the types of its schema; nothing that it names is imported.

        Raises:
            UserError: a value is missing or out of range, or a `_target_` is not allowed.
        """
        return self._checked[0]

    @property
    def values(self) -> dict[str, Any]:
        """The config as plain values, to be logged and hashed."""
        return self._checked[1]

    @cached_property
    def config(self) -> RunConfig:
        """The config as real objects; this imports torch.

        Raises:
            UserError: a value is refused.
        """
        config: RunConfig = build(self.typed)
        return config

    @cached_property
    def tracker(self) -> Any:
        """The `lmft.tracker.Tracker`."""
        return build(self.typed.tracker)

    @cached_property
    def splits(self) -> dict[str, Split]:
        """The splits of the corpus by name; each is hashed at most once."""
        dataset: DatasetConfig = build(self.typed.dataset)
        return open_splits(dataset)

    def check_training_text(self) -> None:
        """Check that there is text to train on.

        Raises:
            UserError: there is none.
        """
        if "train" not in self.splits:
            raise UserError("dataset.train has no value; set it to a file, a folder or a glob.")

    @property
    def corpora(self) -> list[Corpus]:
        """The splits, as a tracker shows them."""
        return [describe_corpus(split) for split in self.splits.values()]

    @cached_property
    def origin(self) -> Origin:
        """What is needed to reproduce the run; read it first when the run starts."""
        return find_origin(self.files)

    @cached_property
    def key(self) -> str:
        """The run key: a hash of everything that decides the run's numbers."""
        return digest(self.key_inputs)

    @cached_property
    def key_inputs(self) -> dict[str, Any]:
        """Everything that decides the run's numbers."""
        model: ModelConfig = build(self.typed.model)
        return key_inputs(model, self.values, self.splits)

    @cached_property
    def folder(self) -> Path:
        """The run's folder, which may not exist yet; found by its key, whatever its name is."""
        if self._folder is not None:
            return self._folder
        if (existing := self._find_by_key()) is not None:
            return existing
        config = self.config
        name = "-".join([model_label(config.model), config.dataset.name, config.objective.name])
        return root_of(self.typed.run_root) / f"{safe_name(redact(name))}-{self.key[:10]}"

    @property
    def words(self) -> list[str]:
        """The overrides that the config was composed from."""
        words: list[str] = yaml.safe_load(self.files.get("overrides.yaml", "[]"))
        return words

    @property
    def display_name(self) -> str:
        """The knobs that were set, then the folder: a page cuts the end off."""
        set_knobs = [word.partition("=")[::2] for word in self.words]
        shown = [
            f"{knob.rpartition('.')[2]}={value}"
            for knob, value in set_knobs
            if decides(knob) is Decides.numbers and knob.partition(".")[0] not in IN_FOLDER_NAME
        ]
        return redact(" ".join([*shown, self.folder.name]))[:LONGEST_NAME]

    @property
    def checkpoint(self) -> Path:
        """The best weights, as a Hugging Face folder."""
        return self.folder / "checkpoint"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints to resume from, while the run has not finished."""
        return self.folder / "checkpoints"

    @property
    def state(self) -> Path:
        """The last weights and optimizer state, if trainer.keep_state kept them."""
        return self.folder / STATE

    def clear_checkpoints(self) -> None:
        """Delete the checkpoints, after the run has finished; keep the last one as its state."""
        last = self.checkpoints / f"step-{self.read_json(RESULT)['steps']}"
        if self.typed.trainer.keep_state and last.exists() and not self.state.exists():
            last.rename(self.state)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    @property
    def is_finished(self) -> bool:
        """Whether there is a result that may be shown instead of training again."""
        if self.typed.fresh:
            return False
        existing = self._find_by_key()
        return existing is not None and (existing / RESULT).exists()

    def _find_by_key(self) -> Path | None:
        return next(root_of(self.typed.run_root).glob(f"*-{self.key[:10]}"), None)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of the file `name`; empty if there is no such file."""
        return read_json(self.folder / name)

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` to the file `name` atomically, without secrets."""
        write_json(self.folder / name, redact_all(value))

    def create_folder(self) -> None:
        """Create the folder, with Hydra's files in `.hydra`, unless it exists."""
        hydra = self.folder / ".hydra"
        if hydra.exists():
            return
        with new_folder(hydra) as temporary:
            for name, text in self.files.items():
                (temporary / name).write_text(redact_yaml(text))


def describe_corpus(split: Split) -> Corpus:
    """Return what a tracker shows of a split."""
    return Corpus(split.corpus, split.name, split.digest(), split.location())


def run_with_weights(name: str, words: list[str]) -> Run:
    """Return the run `name` with its best weights as the model, and `words` on top of its config.

    Args:
        name: the run's folder or MLflow id.
        words: overrides, as on the command line.

    Raises:
        UserError: there is no such run.
    """
    names = ("model", "model.name", "from_run")
    models = [word for word in words if word.partition("=")[0] in names]
    if models:
        raise UserError(f"run={name} and {models[0]} name two models; leave one of them out.")
    uris = [word.partition("=")[2] for word in words if word.startswith("tracker.uri=")]
    folder = find_folder(name, uris[0] if uris else None)
    check_checkpoint(folder)
    composed = recompose(folder, words)
    composed.model = {**best_weights(folder, composed.model), "label": folder.name, "freeze": []}
    composed.adapter = NO_ADAPTER  # the checkpoint is one, if the run trained one
    return Run(composed, folder=folder)


def set_aside(path: Path) -> Path:
    """Rename a folder to the first free name of path~1, path~2 and so on; return that path."""
    number = 1
    while (new_path := path.with_name(f"{path.name}~{number}")).exists():
        number += 1
    path.rename(new_path)
    return new_path
