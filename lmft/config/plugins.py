"""Packages that extend lmft: entry points of the group `lmft`, each the name of a package.

    [project.entry-points.lmft]
    NAME = "package"

The package's folder `conf/` joins Hydra's search path. Its dictionary `LMFT_TARGETS` maps a part of
the config (objective, optimizer, dataset.source, tracker) to the class paths that may be
named there as `_target_`. The package is imported only when a config names a class that lmft itself
does not know: configs stay data, and only installed packages can declare code.
"""

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from lmft.config import CONF
from lmft.errors import UserError

GROUP = "lmft"


def plugin_conf_folders() -> dict[str, Path]:
    """Return the `conf/` folder of each extending package that has one, by entry point name.

    Nothing of the package is imported for that.
    """
    folders = {}
    for plugin in _plugins():
        package, *inner = plugin.module.split(".")
        spec = find_spec(package)
        for location in (spec.submodule_search_locations if spec else None) or ():
            if (folder := Path(location, *inner, "conf")).is_dir():
                folders[plugin.name] = folder
    return folders


def conf_folders() -> list[Path]:
    """Return all folders of config groups: lmft's own, then those of extending packages."""
    return [CONF, *plugin_conf_folders().values()]


def plugin_targets(node: str) -> frozenset[str]:
    """Return the class paths that extending packages declare for a config node.

    Raises:
        UserError: a package can't be imported, or its LMFT_TARGETS is not such a dictionary.
    """
    return frozenset(target for plugin in _plugins() for target in _declared(plugin, node))


def _declared(plugin: EntryPoint, node: str) -> list[str]:
    try:
        targets = getattr(plugin.load(), "LMFT_TARGETS", {})
        paths = targets.get(node, [])
        return [paths] if isinstance(paths, str) else [str(path) for path in paths]
    except Exception as error:  # the package's code may raise anything
        raise UserError(
            f"The package {plugin.value}, which the entry point {plugin.name!r} declares for lmft, "
            f"can't be used ({type(error).__name__}: {error}); fix it, or uninstall it."
        ) from error


def _plugins() -> list[EntryPoint]:
    return _plugins_in(tuple((path, _changed(path)) for path in sys.path))


def _changed(path: str) -> int | None:
    """Return when something was last installed in a folder, or removed, if it is one."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return None


@lru_cache(maxsize=1)  # composing a config asks ten times, and reading all packages takes 5 ms
def _plugins_in(_folders: tuple[tuple[str, int | None], ...]) -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda plugin: plugin.name)
