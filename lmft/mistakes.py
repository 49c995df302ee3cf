"""What libraries say of a wrong command, in one sentence with the way out."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lmft.errors import UserError, did_you_mean


def as_mistake(error: BaseException, conf: Path, composing: bool = False) -> UserError | None:
    """`error` as a mistake of the user; None if it is none.

    Whatever goes wrong while Hydra is still `composing` is one.
    """
    if isinstance(error, UserError):
        return error
    causes = list(_causes(error))
    known = next((cause for cause in causes if isinstance(cause, UserError)), None)
    if known is not None:
        return known
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options)
        return UserError(
            f"{group} has no choice {choice!r}; choose {', '.join(options)}."
            + did_you_mean(choice, options)
        )
    omegaconf = next((e for e in [error, *causes] if isinstance(e, OmegaConfBaseException)), None)
    if isinstance(omegaconf, MissingMandatoryValue):
        return UserError(f"{omegaconf.full_key} has no value; set {omegaconf.full_key}=...")
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    if unknown:
        knob = unknown[1].split("@")[0]
        return UserError(
            f"There is no knob {knob!r}; see lmft --help." + did_you_mean(knob, knobs(conf))
        )
    if omegaconf is not None and omegaconf.full_key:
        reason = str(omegaconf.msg or omegaconf).splitlines()[0].rstrip(".")
        return UserError(f"{omegaconf.full_key}: {reason}; see conf/ for what it takes.")
    if isinstance(error, InstantiationException) and causes:
        return UserError(f"The config can't be used: {_first_line(causes[0])}.")
    if composing or isinstance(error, HydraException | OmegaConfBaseException):
        return UserError(f"{_first_line(error)}; see lmft --help.")
    return None


def knobs(conf: Path) -> set[str]:
    """The name of every group and knob in the config files."""
    names = {path.name for path in conf.iterdir() if path.is_dir()}
    for path in conf.rglob("*.yaml"):
        group = ".".join(path.parent.relative_to(conf).parts)
        package = "" if group in ("", "experiment") else f"{group}."
        names |= set(_names(yaml.safe_load(path.read_text()), package))
    return names


def _names(tree: Any, prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        if key != "defaults":  # Hydra's list
            yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}  # an error that was raised again may stand in its own way
    while (cause := error.__cause__ or error.__context__) is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        error = cause


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
