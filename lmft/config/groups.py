"""The groups, choices and knobs that the config files have, for messages, help and completion."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from lmft.config.plugins import conf_folders

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

GLOBAL = "# @package _global_"  # the first line of a file that names its knobs in full


def known_groups(more: Iterable[Path] = ()) -> dict[str, list[Path]]:
    """Return the config groups with the files of their choices, such as `hydra/sweeper`.

    Args:
        more: folders of groups beside those of lmft and of extending packages.
    """
    groups: dict[str, list[Path]] = {}
    for conf in (*conf_folders(), *more):
        for path in conf.rglob("[!_]*.yaml"):
            if path.parent != conf:
                groups.setdefault(path.parent.relative_to(conf).as_posix(), []).append(path)
    return groups


def choices_of(group: str) -> list[str]:
    """Return the choices of a config group, such as `model` or `hydra/sweeper`."""
    return sorted({path.stem for path in known_groups().get(group, ())})


def known_names() -> set[str]:
    """Return the name of every group and knob in the config files."""
    names = {group.partition("/")[0] for group in known_groups()}
    for conf in conf_folders():
        for path in conf.rglob("*.yaml"):
            text, group = path.read_text(), ".".join(path.parent.relative_to(conf).parts)
            package = "" if group in ("", "experiment") or text.startswith(GLOBAL) else f"{group}."
            names |= set(_names(Loader(text).get_single_data() or {}, package))
    return names


def _names(tree: Any, prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        if key != "defaults":  # Hydra's list
            yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")
