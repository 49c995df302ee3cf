"""Composing a config: every one is looked at by lmft.guard before Hydra makes anything of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import hydra._internal.hydra as hydra_entry
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from lmft.config.allowlist import check_config
from lmft.config.ranges import RANGES, check_ranges
from lmft.errors import UserError
from lmft.output.sanitize import without_hidden


class GuardedLoader(ConfigLoaderImpl):
    """Hydra's loader, which gives out no config that says what none may.

    A launcher's processes have it too: it goes there by its name.
    """

    def load_configuration(self, *args: Any, **more: Any) -> DictConfig:
        """The composed config, before any callback, launcher or logger is made from it.

        Raises:
            UserError: it says what no config may.
        """
        composed = super().load_configuration(*args, **more)
        check_config(composed)
        check_hydra_numbers(composed.hydra)
        return composed

    def _process_config_searchpath(
        self, config_name: str | None, parsed_overrides: list[Any], repo: Any
    ) -> None:
        """Refuse to search packages, which would be imported by that."""
        loaded = repo.load_config(config_path=config_name) if config_name is not None else None
        written = OmegaConf.create({} if loaded is None else loaded.config)
        if isinstance(written, DictConfig):
            hydra = OmegaConf.to_container(written, resolve=False).get("hydra") or {}  # type: ignore[union-attr]
            check_search_path(hydra.get("searchpath"))
        for override in parsed_overrides:
            if override.get_key_element().lstrip("+~") == "hydra.searchpath":
                check_search_path(override.value())
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


def check_hydra_numbers(hydra: DictConfig) -> None:
    """The numbers of a sweep, before anything of it begins.

    Raises:
        UserError: one is out of range.
    """
    for group in ("sweeper", "launcher"):
        for name, value in (hydra.get(group) or {}).items():
            if f"hydra.{group}.{name}" in RANGES:
                check_ranges({f"hydra.{group}.{name}": value})


vars(hydra_entry)["ConfigLoaderImpl"] = GuardedLoader  # wherever Hydra composes


def check_flags(words: list[str]) -> None:
    """Refuse flags that are none of Hydra's, which would print its usage.

    Raises:
        UserError: there is one.
    """

    def refuse(reason: str) -> NoReturn:
        raise UserError(f"{reason[:1].upper()}{reason[1:]}; see lmft --help for what there is.")

    parser = get_args_parser()
    vars(parser)["error"] = refuse
    parser.parse_args(words)


def check_search_path(places: Any) -> None:
    """Only folders may be searched for config files.

    Raises:
        UserError: there is something else.
    """
    for place in places if isinstance(places, Iterable) and not isinstance(places, str) else ():
        text = str(place)
        if "${" in text or ("://" in text and not text.startswith("file://")):
            raise UserError(f"hydra.searchpath has {text!r}; only folders may be searched.")


def register_resolvers() -> None:
    """What the config files may compute: ${either:CONDITION,YES,NO}."""
    OmegaConf.register_new_resolver("either", lambda it, yes, no: yes if it else no, replace=True)


def compose(conf: Path, words: list[str]) -> DictConfig:
    """The config that `lmft WORDS...` would train on.

    Raises:
        UserError: it says what no config may.
    """
    register_resolvers()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return hydra_compose("config", words)


def load_composed(path: Path) -> DictConfig:
    """The config that a run kept; whoever made the folder.

    Raises:
        UserError: it says what no config may.
    """
    register_resolvers()
    saved = OmegaConf.load(path)
    if not isinstance(saved, DictConfig):
        raise UserError(f"{path} holds no config; choose another run.")
    check_config(saved)
    uri = saved.tracker.get("uri") if isinstance(saved.get("tracker"), DictConfig) else None
    if isinstance(uri, str):  # what was hidden comes from the environment, or the command line
        saved.tracker.uri = without_hidden(uri)
    return saved


def recompose(conf: Path, run: Path, words: list[str]) -> DictConfig:
    """The config that the run in the folder `run` was made from, with `words` on top.

    Raises:
        UserError: the folder holds no run.
    """
    saved = run / ".hydra" / "config.yaml"
    if not saved.exists():
        raise UserError(f"run={run} holds no run; lmft runs lists those there are.")
    base = load_composed(saved)
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
