"""What libraries say of a wrong command, in one sentence with the way out."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lmft.config.ranges import RANGES, refusal
from lmft.errors import UserError, did_you_mean


def as_mistake(error: BaseException, conf: Path, composing: bool = False) -> UserError | None:
    """`error` as a mistake of the user; None if it is none.

    Whatever goes wrong while Hydra is still `composing` is one.
    """
    chain = [error, *_causes(error)]
    known = next((link for link in chain if isinstance(link, UserError)), None)
    if known is not None:
        return known
    yaml_error = next((link for link in chain if isinstance(link, yaml.MarkedYAMLError)), None)
    if yaml_error is not None:
        return UserError(_tell_yaml(yaml_error))
    omegaconf = next((link for link in chain if isinstance(link, OmegaConfBaseException)), None)
    told = (
        _tell_override(error, conf)
        or (omegaconf and _tell_value(omegaconf, conf))
        or (_is_object(error) and _tell_object(error, chain[-1]))
    )
    if told:
        return UserError(told)
    if composing or isinstance(error, HydraException | OmegaConfBaseException):
        return UserError(f"{_first_line(error)}; see lmft --help.")
    return None


def _is_object(error: BaseException) -> bool:
    """Whether Hydra could not make an object; it says so of `_partial_` and its like otherwise."""
    return isinstance(error, InstantiationException) or (
        isinstance(error, TypeError) and str(error).startswith("Instantiation: ")
    )


def _tell_override(error: BaseException, conf: Path) -> str | None:
    """Of a word that Hydra can't read, or that names nothing."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return _tell_word(error)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return _choose(group, choice, list(error.options))
    if "Config group override must be a string" in text:
        return _tell_group(conf)
    several = re.search(r"Ambiguous value for argument '(.+)'", text)
    if several:
        return f"{several[1]} has several values; add -m for a run of each, or quote a text."
    double = re.search(r"Could not append to config. An item is already at '([^']+)'", text)
    if double:
        return f"{double[1]} is there already; set it without the +."
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _no_knob(unknown[1].split("@")[0], conf)
    deleted = re.search(r"Could not delete (?:from config\. )?'?([\w./]+)", text)
    if deleted:
        return _no_knob(deleted[1], conf)
    return None


def _tell_yaml(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = "A config file" if mark is None else f"{mark.name}, line {mark.line + 1}"
    return f"{where} is not YAML ({error.problem}); mend it."


def _tell_word(error: OverrideParseException) -> str:
    word = str(error.override)
    if re.match(r"[+~]*[\w./@-]+=", word) is None:
        return f"{word!r} is not KNOB=VALUE, without spaces around the =; see lmft --help."
    reason = _first_line(error)
    why = "" if word in reason else f" ({reason.removeprefix('LexerNoViableAltException: ')})"
    return f"{word!r} has a value that can't be read{why}; put quotes around a text."


def _tell_group(conf: Path) -> str:
    groups = {path.name: path for path in conf.iterdir() if path.is_dir()}
    words = dict(word.partition("=")[::2] for word in sys.argv[1:])
    wrong = [name for name in words if name in groups and not words[name][:1].isalpha()]
    wrong += [name for name in words if name in groups and words[name] in ("null", "true", "false")]
    if not wrong:
        return "A group takes the name of one of its choices; see lmft --help."
    choices = [path.stem for path in sorted(groups[wrong[0]].glob("*.yaml"))]
    return _choose(wrong[0], words[wrong[0]], choices)


def _tell_value(error: OmegaConfBaseException, conf: Path) -> str | None:
    """Of a value of the wrong kind, or none at all."""
    knob = error.full_key
    if not knob:
        return None
    if isinstance(error, MissingMandatoryValue):
        return f"{knob} has no value; set {knob}=..."
    reason = str(error.msg or error).splitlines()[0].rstrip(".")
    if re.match(r"Key '.*' not in '\w+'", reason):
        return _no_knob(knob, conf)
    if "nterpolation" in reason:
        return f"{knob}: {reason}; write the value itself."
    if knob in RANGES:
        return refusal(knob, error.value)
    choices = re.fullmatch(r"Invalid value '(.*)', expected one of \[(.*)\]", reason)
    if choices:
        return _choose(knob, choices[1], choices[2].split(", "))
    shown = "null" if error.value is None else repr(error.value)
    if "valid bool" in reason:
        return f"{knob} must be true or false, not {shown}."
    if error.value is None or "to string" in reason:
        return f"{knob} must have a value of its kind, not {shown}; see conf/ for what it takes."
    return f"{knob}: {reason}; see conf/ for what it takes."


def _tell_object(error: BaseException, cause: BaseException) -> str:
    """Of a `_target_` that does not take what it is given."""
    place = re.search(r"full_key: (\S+)", str(error))
    group = place[1] if place else "the config"
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
    if unknown:
        return f"There is no knob '{group}.{unknown[1]}'; leave it out."
    return f"{group} can't be used: {_first_line(cause)}; see conf/ for what it takes."


def _choose(name: str, wrong: str, choices: list[str]) -> str:
    offered = ", ".join(choices)
    return f"{name} has no choice {wrong!r}; choose {offered}." + did_you_mean(wrong, choices)


def _no_knob(knob: str, conf: Path) -> str:
    known = knobs(conf)
    if knob in known:
        return f"{knob} can't be set, since its group has none here; leave one of the two out."
    return f"There is no knob {knob!r}; see lmft --help." + did_you_mean(knob, known)


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
