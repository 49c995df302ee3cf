"""Read config files for Hydra; what is wrong in one is said by its path, and a BOM is ignored."""

import copy
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource

from lmft.config import CONF
from lmft.config.groups import Loader, known_groups
from lmft.errors import UserError

BOM = "\ufeff"  # some editors write it in front of UTF-8
EXPERIMENT = "experiment"
PACKAGE = "# @package _global_"  # the first line of an experiment
_loaded: dict[tuple[Path | str | int, ...], ConfigResult | None] = {}  # what _load_once has read


class CheckedFiles(ConfigRepository):
    """Hydra's config files; one that is not lmft's own is checked when it is read."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Return the config at `config_path`, such as `experiment/mine`.

        Raises:
            UserError: the file is not UTF-8, holds no knobs, or is no experiment but should be.
        """
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is not None and source.scheme() == "pkg":  # Hydra's own
            return self._load_once(config_path, source.path)
        if source is None or source.scheme() != "file":
            return super().load_config(config_path)
        path = Path(source.path.removeprefix("file://"), source._normalize_file_name(config_path))
        if path.is_relative_to(CONF):
            status = path.stat()
            return self._load_once(config_path, path, status.st_mtime_ns, status.st_size)
        text = read_utf8(path)
        header = ConfigSource._get_header_dict(text.removeprefix(BOM)[:512])
        try:
            content = Loader(text).get_single_data()
        except yaml.YAMLError:
            return super().load_config(config_path)  # raises it with the path
        if not isinstance(content, dict | None):
            raise UserError(f"{path} holds no lines of KNOB: VALUE; fix it.")
        if config_path.startswith(f"{EXPERIMENT}/"):
            check_experiment(path, content, header.get("package"))
        loaded = super().load_config(config_path)
        assert loaded is not None
        loaded.header = header
        return loaded

    def _load_once(self, config_path: str, *file: Path | str | int) -> ConfigResult | None:
        """Return a copy of a config, which this process reads once while its file is the same.

        Args:
            config_path: as in `load_config`.
            file: what tells the file from others, and from itself before a change.
        """
        key = (config_path, *file)
        if key not in _loaded:
            _loaded[key] = super().load_config(config_path)
        return copy.deepcopy(_loaded[key])


def read_utf8(path: Path) -> str:
    """Return the text of a config file.

    Raises:
        UserError: it is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = f"byte {error.start} is {error.object[error.start]:#04x}"
        raise UserError(f"{path} is not UTF-8: {byte}, line {line}; save it as UTF-8.") from error


def check_experiment(path: Path, content: dict[Any, Any] | None, package: str | None) -> None:
    """Check what Hydra would misread, or explain by its own terms.

    Raises:
        UserError: a line is missing, or is not as Hydra needs it.
    """
    if not content:
        raise UserError(f"{path} is empty; write the knobs that it sets, below {PACKAGE!r}.")
    if package is None:
        raise UserError(f"{path} must begin with the line {PACKAGE!r}; add it.")
    groups = known_groups()
    for key, value in content.items():
        if key in groups and isinstance(value, str):
            raise UserError(
                f"{path} sets {key} to a text; write 'override /{key}: {value}' in its defaults "
                "list to choose."
            )
        if "." in str(key):
            raise UserError(f"{path} has the key {key!r}; write {_as_lines(str(key), value)}.")
    defaults = content.get("defaults")
    for item in defaults if isinstance(defaults, list) else ():
        for key, choice in item.items() if isinstance(item, dict) else ():
            words = str(key).split()
            group = words[-1].lstrip("/")
            if group in groups and group != EXPERIMENT and words != ["override", f"/{group}"]:
                raise UserError(
                    f"{path} has '{key}: {choice}' in its defaults list; write "
                    f"'override /{group}: {choice}'."
                )


def _as_lines(key: str, value: Any) -> str:
    """Return how YAML has a knob of a group, on one line."""
    *groups, knob = key.split(".")
    return "".join(f"{group}: {{" for group in groups) + f"{knob}: {value}" + "}" * len(groups)
