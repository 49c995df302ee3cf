"""Compose configs with Hydra; each is checked before Hydra makes anything of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict

from lmft.config import CONF
from lmft.config.allowlist import check_config
from lmft.config.guarded_loader import guarded_hydra
from lmft.config.quoting import quote_texts
from lmft.config.schema import FORMERLY
from lmft.errors import UserError
from lmft.output.sanitize import remove_hidden_userinfo

CONFIG_DIR = "--config-dir="  # among words, as arguments.parse_line spells it; a folder follows
# What Hydra calls a folder that a command added to its search path.
ADDED_BY_COMMAND = ("command-line", "hydra.searchpath in command-line")


def register_resolvers() -> None:
    """Register what the config files may compute: ${either:CONDITION,YES,NO}."""
    OmegaConf.register_new_resolver("either", lambda it, yes, no: yes if it else no, replace=True)


def compose(words: list[str]) -> DictConfig:
    """Return the config that `lmft WORDS...` would train on.

    Args:
        words: overrides, and folders to search as `--config-dir=FOLDER`.

    Raises:
        UserError: it contains what no config may.
    """
    return _compose(words)[0]


def compose_run(words: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return the config of `compose`, and the texts of Hydra's files about it by name.

    Raises:
        UserError: the config contains what no config may.
    """
    composed, settings = _compose(words)
    return composed, describe_composed(composed, settings)


def _compose(words: list[str]) -> tuple[DictConfig, DictConfig]:
    """Return a config, and Hydra's settings."""
    register_resolvers()
    config_dirs, overrides = split_config_dirs(words)
    with guarded_hydra(config_dirs), initialize_config_dir(str(CONF), version_base="1.3"):
        texts = quote_texts(overrides)
        composed = hydra_compose("config", texts, return_hydra_config=True)
    with open_dict(composed):
        return composed, composed.pop("hydra")


def split_config_dirs(words: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Return the folders of --config-dir among the words, and the overrides."""
    words = list(words)
    folders = [Path(word.removeprefix(CONFIG_DIR)) for word in words if word.startswith(CONFIG_DIR)]
    return folders, [word for word in words if not word.startswith(CONFIG_DIR)]


def describe_composed(composed: DictConfig, settings: Any) -> dict[str, str]:
    """Return the texts of Hydra's files about a config: itself, its overrides, Hydra's settings."""
    return {
        "config.yaml": OmegaConf.to_yaml(composed),
        "overrides.yaml": OmegaConf.to_yaml(settings.overrides.task),
        "hydra.yaml": OmegaConf.to_yaml(OmegaConf.structured(settings)),
    }


def load_composed(path: Path) -> DictConfig:
    """Return the config that a run folder keeps; anyone may have made the folder.

    Knobs that are younger than the run get the value for what it did.

    Raises:
        UserError: it contains what no config may.
    """
    register_resolvers()
    saved = OmegaConf.load(path)
    if not isinstance(saved, DictConfig):
        raise UserError(f"{path} holds no config; choose another run.")
    check_config(saved)
    uri = saved.tracker.get("uri") if isinstance(saved.get("tracker"), DictConfig) else None
    if isinstance(uri, str):  # credentials come from the environment, or the command line
        saved.tracker.uri = remove_hidden_userinfo(uri)
    for name, value in FORMERLY.items():
        group, _, knob = name.rpartition(".")
        parent = saved.get(group) if group else saved
        if isinstance(parent, DictConfig) and knob not in parent:
            parent[knob] = value
    return saved


def recompose(run: Path, words: list[str]) -> DictConfig:
    """Return the config that the run in the folder `run` was made from, with `words` on top.

    Raises:
        UserError: the folder holds no run.
    """
    saved = run / ".hydra" / "config.yaml"
    if not saved.exists():
        raise UserError(f"run={run} holds no run; lmft runs lists those there are.")
    base = load_composed(saved)
    config_dirs, words = split_config_dirs(words)
    kept, gone = config_dirs_of(run)
    before = OmegaConf.load(run / ".hydra" / "overrides.yaml")
    by_key = {_key(word): word for word in [*before, *words]}
    folders = [f"{CONFIG_DIR}{folder}" for folder in [*config_dirs, *kept]]
    try:
        changed = compose([*folders, *by_key.values()])
    except MissingConfigException as error:
        if not gone:
            raise
        raise UserError(
            f"run={run} was made with --config-dir={gone[0]}, which is gone; add --config-dir=DIR."
        ) from error
    for key in map(_key, words):
        value: Any = OmegaConf.select(changed, key)
        OmegaConf.update(base, key, value, merge=False)
    return base


def config_dirs_of(run: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders of --config-dir that a run was composed from: those kept, those gone."""
    saved = run / ".hydra" / "hydra.yaml"
    settings = (yaml.safe_load(saved.read_text()) if saved.exists() else None) or {}
    folders = [
        Path(source["path"])
        for source in settings.get("runtime", {}).get("config_sources", [])
        if source["provider"] in ADDED_BY_COMMAND and source["schema"] == "file"
    ]
    kept = [folder for folder in folders if folder.is_absolute() and folder.is_dir()]
    return kept, [folder for folder in folders if folder not in kept]


def _key(word: str) -> str:
    key, equals, _ = word.partition("=")
    if not equals:
        raise UserError(f"{word!r} is not KNOB=VALUE; see lmft --help.")
    return key.lstrip("+~")
