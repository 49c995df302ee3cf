"""Hydra's config loader, which checks each config before Hydra makes anything of it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra._internal.hydra as hydra_entry
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lmft.config.allowlist import check_config
from lmft.config.checked_files import CheckedFiles
from lmft.config.error_messages import group_error
from lmft.config.plugins import plugin_conf_folders
from lmft.config.ranges import RANGES, check_ranges
from lmft.errors import UserError

SCHEMA = SearchPathQuery(provider="schema")  # Hydra wants it last in the search path
_debug = False  # of the config that was composed last, if it could be


class GuardedLoader(ConfigLoaderImpl):
    """Hydra's config loader, which checks every config and also searches extending packages.

    A launcher's processes have it too: they receive it by its name.

    Args:
        config_search_path: of Hydra.
        config_dirs: folders of --config-dir, unless Hydra has read that flag itself.
    """

    def __init__(self, config_search_path: ConfigSearchPath, config_dirs: Sequence[Path] = ()):
        for folder in config_dirs:
            config_search_path.prepend("command-line", f"file://{folder}", SCHEMA)
        for name, folder in plugin_conf_folders().items():
            config_search_path.prepend(f"lmft-{name}", f"file://{folder}", SCHEMA)
        super().__init__(config_search_path)
        # hydra-optuna-sweeper registers a config of the same name, which Hydra would merge.
        ConfigStore.instance().repo.get("hydra", {}).get("sweeper", {}).pop("optuna.yaml", None)
        self.repository = CheckedFiles(config_search_path)
        # What was composed last, by the config's name and the overrides.
        self._last: tuple[tuple[str | None, tuple[str, ...]], DictConfig] | None = None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Return the composed config, before any callback, launcher or logger is made from it.

        Hydra first composes only to learn `hydra.mode`, then again with the mode added to the
        overrides. The second time returns what the first time composed.

        Raises:
            UserError: it contains what no config may.
        """
        global _debug
        mode = f"hydra.mode={run_mode.name}"
        if self._last is not None and overrides and overrides[-1] == mode:
            key, composed = self._last
            if key == (config_name, tuple(overrides[:-1])):
                self._last = None
                parsed = OverridesParser.create().parse_overrides(overrides)
                self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
                composed.hydra.mode = run_mode
                composed.hydra.overrides.hydra.append(mode)
                return composed
        _debug = False
        try:
            composed = super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        except ValueError as error:
            if str(error).startswith("Config group override must be"):  # Hydra does not say which
                raise group_error(overrides) from error
            raise
        check_config(composed)
        check_hydra_numbers(composed.hydra)
        if str(composed.get("run_root")).startswith("~"):  # Hydra makes folders in it as it is
            composed.run_root = os.path.expanduser(composed.run_root)
        _debug = composed.get("debug") is True
        self._last = (config_name, tuple(overrides)), composed
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
def guarded_hydra(config_dirs: Sequence[Path] = ()) -> Iterator[None]:
    """Within, Hydra composes with GuardedLoader; it has no public way to choose a loader.

    Args:
        config_dirs: folders to search beside those that Hydra knows of.
    """
    entry: Any = hydra_entry
    original = entry.ConfigLoaderImpl
    # By its name where that will do: a launcher sends it to other processes.
    entry.ConfigLoaderImpl = (
        partial(GuardedLoader, config_dirs=config_dirs) if config_dirs else GuardedLoader
    )
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


def check_search_path(entries: Any) -> None:
    """Refuse entries of hydra.searchpath that are not folders.

    Raises:
        UserError: there is one.
    """
    is_list = isinstance(entries, Iterable) and not isinstance(entries, str)
    for entry in map(str, entries if is_list else ()):
        if "${" in entry or ("://" in entry and not entry.startswith("file://")):
            raise UserError(f"hydra.searchpath has {entry!r}; only folders may be searched.")
