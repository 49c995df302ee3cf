"""Compose configs with Hydra; each is checked before Hydra makes anything of it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra._internal.hydra as hydra_entry
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from omegaconf import DictConfig, OmegaConf

from lmft.config import CONF
from lmft.config.allowlist import check_config
from lmft.config.plugins import plugin_conf_folders
from lmft.config.ranges import RANGES, check_ranges
from lmft.errors import UserError
from lmft.output.sanitize import remove_hidden_userinfo

SCHEMA = SearchPathQuery(provider="schema")  # Hydra wants it last in the search path
_debug = False  # of the config that was composed last


class GuardedLoader(ConfigLoaderImpl):
    """Hydra's config loader, which checks every config and also searches extending packages.

    A launcher's processes have it too: they receive it by its name.
    """

    def __init__(self, config_search_path: ConfigSearchPath):
        for name, folder in plugin_conf_folders().items():
            config_search_path.prepend(f"lmft-{name}", f"file://{folder}", SCHEMA)
        super().__init__(config_search_path)

    def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
        """Return the composed config, before any callback, launcher or logger is made from it.

        Raises:
            UserError: it contains what no config may.
        """
        global _debug
        composed = super().load_configuration(*args, **kwargs)
        check_config(composed)
        check_hydra_numbers(composed.hydra)
        _debug = composed.get("debug") is True
        return composed

    def _process_config_searchpath(
        self, config_name: str | None, parsed_overrides: list[Any], repo: Any
    ) -> None:
        """Refuse to search packages named by a config: that would import them."""
        loaded = repo.load_config(config_path=config_name) if config_name is not None else None
        written = OmegaConf.create({} if loaded is None else loaded.config)
        if isinstance(written, DictConfig):
            hydra = OmegaConf.to_container(written, resolve=False).get("hydra") or {}  # type: ignore[union-attr]
            check_search_path(hydra.get("searchpath"))
        for override in parsed_overrides:
            if override.get_key_element().lstrip("+~") == "hydra.searchpath":
                check_search_path(override.value())
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


@contextmanager
def guarded_hydra() -> Iterator[None]:
    """Within, Hydra composes with GuardedLoader; it has no public way to choose a loader."""
    entry: Any = hydra_entry
    original = entry.ConfigLoaderImpl
    entry.ConfigLoaderImpl = GuardedLoader
    try:
        yield
    finally:
        entry.ConfigLoaderImpl = original


def debug_is_on() -> bool:
    """Return whether the config composed last asks for tracebacks, in a file or on the command."""
    return _debug


def check_hydra_numbers(hydra: DictConfig) -> None:
    """Check the numbers of a sweep before anything of it starts.

    Raises:
        UserError: one is out of range.
    """
    for group in ("sweeper", "launcher"):
        for name, value in (hydra.get(group) or {}).items():
            if f"hydra.{group}.{name}" in RANGES:
                check_ranges({f"hydra.{group}.{name}": value})


def check_flags(words: list[str]) -> None:
    """Refuse flags that Hydra does not have, for which it would print its usage.

    Raises:
        UserError: there is one.
    """

    def refuse(reason: str) -> NoReturn:
        raise UserError(f"{reason[:1].upper()}{reason[1:]}; see lmft --help for what there is.")

    parser = get_args_parser()
    vars(parser)["error"] = refuse
    parser.parse_args(words)


def check_search_path(entries: Any) -> None:
    """Refuse entries of hydra.searchpath that are not folders.

    Raises:
        UserError: there is one.
    """
    is_list = isinstance(entries, Iterable) and not isinstance(entries, str)
    for entry in map(str, entries if is_list else ()):
        if "${" in entry or ("://" in entry and not entry.startswith("file://")):
            raise UserError(f"hydra.searchpath has {entry!r}; only folders may be searched.")


def register_resolvers() -> None:
    """Register what the config files may compute: ${either:CONDITION,YES,NO}."""
    OmegaConf.register_new_resolver("either", lambda it, yes, no: yes if it else no, replace=True)


def compose(words: list[str]) -> DictConfig:
    """Return the config that `lmft WORDS...` would train on.

    Raises:
        UserError: it contains what no config may.
    """
    register_resolvers()
    with guarded_hydra(), initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", words)


def load_composed(path: Path) -> DictConfig:
    """Return the config that a run folder keeps; anyone may have made the folder.

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
    before = OmegaConf.load(run / ".hydra" / "overrides.yaml")
    by_key = {_key(word): word for word in [*before, *words]}
    changed = compose(list(by_key.values()))
    for key in map(_key, words):
        value: Any = OmegaConf.select(changed, key)
        OmegaConf.update(base, key, value, merge=False)
    return base


def _key(word: str) -> str:
    key, equals, _ = word.partition("=")
    if not equals:
        raise UserError(f"{word!r} is not KNOB=VALUE; see lmft --help.")
    return key.lstrip("+~")
