"""Begin a run from the weights of another, the source: `from_run=RUN`.

A run whose optimizer state was kept (`trainer.keep_state`) is continued from its last weights with
that state, any other one from its best weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from lmft.config.build import build
from lmft.config.compose import load_composed
from lmft.config.model_knobs import has_adapter
from lmft.errors import UserError
from lmft.runs.find_run import check_checkpoint, find_folder, root_of
from lmft.storage.hashing import digest, digest_files
from lmft.storage.hub import find_base, is_model_folder
from lmft.tracker.run_log import FROM_TAG, ID_TAG, read_facts

KNOB, STATE = "from_run", "state"  # STATE: the folder of a run's last weights and optimizer state
# Knobs of `model` that say how it is trained, not which one: a new run may set them.
ABOUT_TRAINING = ("label", "trust_remote_code", "freeze", "dropout")
# Of optimizers, what decides which state there is for each weight.
ABOUT_STATE = ("optimizer._target_", "optimizer.amsgrad", "optimizer.centered", "model.freeze")


@dataclass(frozen=True)
class Source:
    """The run that another one continues."""

    run: str  # the name of its folder
    key: str
    weights: str  # "best", or "last" with the optimizer state
    id: str  # as `lmft.id` of its record

    def as_tags(self) -> dict[str, str]:
        """Return the tags of the new run that link it to this one."""
        return {TAGS[name]: value for name, value in vars(self).items()}

    def as_dict(self) -> dict[str, str]:
        """Return the content of result.json about it."""
        return {"run": self.run, "key": self.key, "weights": self.weights}

    def describe(self) -> str:
        """Return in words what is taken of it."""
        return f"{self.weights} weights" + " and optimizer state" * (self.weights == "last")


TAGS = {
    "run": "lmft.from_run",
    "key": "lmft.from_key",
    "weights": "lmft.from_weights",
    "id": FROM_TAG,
}


def read_source(folder: Path) -> Source | None:
    """Return the source of the run in the folder `folder`; None if it has none."""
    tags = read_facts(folder).get("tags", {})
    if TAGS["run"] not in tags:
        return None
    return Source(**{name: tags[tag] for name, tag in TAGS.items()})


def find_source(from_run: str) -> Source:
    """Return the source that a resolved config names by its folder."""
    folder = Path(from_run)
    facts = read_facts(folder)
    weights = "best" if find_state(from_run) is None else "last"
    run_id = facts.get("tags", {}).get(ID_TAG, "")
    return Source(folder.name, facts.get("key", ""), weights, run_id)


def find_state(from_run: str | None) -> Path | None:
    """Return the folder of the state that a run with this knob starts from; None without one."""
    folder = None if from_run is None else Path(from_run) / STATE
    return folder if folder is not None and folder.is_dir() else None


def state_digest(state: Path) -> str:
    """Return a hash of the weights and the optimizer state in `state`, without any timing."""
    files = sorted(state.glob("*.safetensors"))
    numbers = json.loads((state / "state.json").read_text())["optimizer"]
    return digest([[file.name for file in files], digest_files(files), numbers])


def best_weights(folder: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `model` group that loads a run's best weights, given that of the run.

    What its checkpoint has itself is unset; the base of an adapter is changed as before.
    """
    checkpoint = str(folder / "checkpoint")
    unset = ["tokenizer", "architecture"]
    unset += [] if find_base(checkpoint) else ["config", "dropout"]
    return {**model, "name": checkpoint, "from_scratch": False, **dict.fromkeys(unset)}


def begin_from_run(
    composed: DictConfig, files: Mapping[str, str]
) -> tuple[DictConfig, Mapping[str, str]]:
    """Return a config with from_run, and the texts about it, with model and objective of that run.

    All other knobs stay as they are. `from_run` becomes the folder of the run.

    Raises:
        UserError: there is no such run, it has not finished, or words contradict it.
    """
    words = yaml.safe_load(files.get("overrides.yaml", "[]"))
    name = str(composed.from_run)
    uri = OmegaConf.select(composed, "tracker.uri")
    folder = find_folder(name, uri, KNOB, root_of(str(composed.run_root)))
    if is_model_folder(folder):
        raise UserError(
            f"{KNOB}={name} is a model and no run; use model=pretrained model.name={name}."
        )
    check_checkpoint(folder, KNOB)
    source = load_composed(folder / ".hydra" / "config.yaml")
    begun = composed.copy()
    with open_dict(begun):
        begun.objective = choose_objective(name, source, composed, words)
        begun.model = choose_model(name, folder, source, composed, words)
        begun.from_run = str(folder)
    check_fit(name, folder, source, begun)
    return begun, {**files, "config.yaml": OmegaConf.to_yaml(begun)}


def choose_model(
    name: str, folder: Path, source: DictConfig, composed: DictConfig, words: list[str]
) -> dict[str, Any]:
    """Return the `model` group of a new run: the source's, with what the words say of training.

    Raises:
        UserError: a word names another model.
    """
    model = plain(source.model)
    chosen = best_weights(folder, model)
    chosen["label"] = model["label"] or Path(str(model["name"])).name
    for word in words:
        group, _, part = word.partition("=")[0].lstrip("+~").partition(".")
        if names_model(word):
            raise UserError(f"{KNOB}={name} and {word} name two models; leave one of them out.")
        if group == "model":
            chosen[part] = composed.model[part]
    return chosen


def names_model(word: str) -> bool:
    """Return whether an override says which model is trained."""
    group, _, part = word.partition("=")[0].lstrip("+~").partition(".")
    return group == "model" and part not in ABOUT_TRAINING


def choose_objective(
    name: str, source: DictConfig, composed: DictConfig, words: list[str]
) -> dict[str, Any]:
    """Return the objective of the source; where words set the same one, with their knobs.

    Raises:
        UserError: they set another one.
    """
    theirs, own = plain(source.objective), plain(composed.objective)
    about = [word for word in words if word.lstrip("+~").startswith(("objective=", "objective."))]
    if not about:
        return theirs
    if own["_target_"] != theirs["_target_"]:
        raise UserError(
            f"{KNOB}={name} was trained with objective={build(theirs).name}, not with {about[0]}; "
            "leave it out."
        )
    return own


def check_fit(name: str, folder: Path, source: DictConfig, begun: DictConfig) -> None:
    """Check that adapter and optimizer of a new run fit what the source kept.

    Raises:
        UserError: they do not.
    """
    own = plain(begun.adapter)
    adapter = f"adapter={own['kind']}"
    if has_adapter(own) and find_base(str(folder / "checkpoint")):
        raise UserError(
            f"{KNOB}={name} trained an adapter; leave {adapter} out to train that one on, or "
            "merge it into its base first with lmft merge."
        )
    if find_state(str(folder)) is None:
        return
    values = {knob: [OmegaConf.select(c, knob) for c in (source, begun)] for knob in ABOUT_STATE}
    differing = [f"{knob}={new}" for knob, (old, new) in values.items() if old != new]
    differing += [adapter] if has_adapter(own) else []
    if differing:
        raise UserError(
            f"{KNOB}={name} kept its optimizer state, which {differing[0]} can't use; set that as "
            "it was there, or start from the best weights alone with model=pretrained "
            f"model.name={folder / 'checkpoint'}."
        )


def plain(group: Any) -> dict[str, Any]:
    """Return a group of a composed config as plain values."""
    values: Any = OmegaConf.to_container(group, resolve=True)
    return dict(values)
