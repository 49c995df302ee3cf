"""Composing a config without Hydra's command line: for verbs, and for tests."""

from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from lmft.errors import UserError


def register_resolvers() -> None:
    """What the config files may compute: ${either:CONDITION,YES,NO}."""
    OmegaConf.register_new_resolver("either", lambda it, yes, no: yes if it else no, replace=True)


def compose(conf: Path, words: list[str]) -> DictConfig:
    """The config that `lmft WORDS...` would train on."""
    register_resolvers()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return hydra_compose("config", words)


def recompose(conf: Path, run: Path, words: list[str]) -> DictConfig:
    """The config that the run in the folder `run` was made from, with `words` on top.

    Raises:
        UserError: the folder holds no run.
    """
    saved = run / ".hydra" / "config.yaml"
    if not saved.exists():
        raise UserError(f"run={run} holds no run; lmft runs lists those there are.")
    base = OmegaConf.load(saved)
    assert isinstance(base, DictConfig)
    before = OmegaConf.load(run / ".hydra" / "overrides.yaml")
    by_key = {_key(word): word for word in [*before, *words]}
    changed = compose(conf, list(by_key.values()))
    for key in map(_key, words):
        value: Any = OmegaConf.select(changed, key)
        OmegaConf.update(base, key, value, merge=False)
    return base


def _key(word: str) -> str:
    key, equals, _ = word.partition("=")
    if not equals:
        raise UserError(f"{word!r} is not KNOB=VALUE; see lmft --help.")
    return key.lstrip("+~")
