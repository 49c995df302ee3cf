"""What the code says of each knob: default, type, range, meaning, and what it decides."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf

from docs.generator.comments import member_comments
from lmft.config import CONF
from lmft.config.comments import read_comments
from lmft.config.compose import compose
from lmft.config.knob_metadata import MANY, Range
from lmft.config.ranges import RANGES
from lmft.config.schema import RunConfig, decides, knobs

GROUPS = tuple(part.name for part in fields(RunConfig) if (CONF / part.name).is_dir())
IN_CODE = ("dataset.source", "objective", "optimizer", "tracker")  # where choices differ in code
DECLARED = dict(knobs())
CLASSES = {  # what `_target_` may name
    "dataset.source": "a source of `lmft/dataset/sources.py`",
    "objective": "an objective of `lmft/objective.py`",
    "optimizer": "an optimizer of `torch.optim`",
    "tracker": "a tracker of `lmft/tracker/`",
}

WORDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
    list: "a list", dict: "a mapping",
}  # fmt: skip
SHOWN = "what is shown"
SAME = {  # what a knob means in every group
    "_target_": "class that the group's knobs are the arguments of",
    "_partial_": "always true: the optimizer is built when the model is there",
}


@dataclass(frozen=True)
class Fact:
    """What a page says of a knob."""

    name: str
    default: Any
    allowed: str
    meaning: str
    decides: str
    members: dict[str, str]  # of an Enum: what each value means
    choices: tuple[str, ...]  # that alone have the knob; empty: all have it


def as_yaml(value: Any) -> str:
    """Return a value as a config file writes it, in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def choices_of(group: str) -> list[Path]:
    """Return the files of the choices of a group, the default first."""
    defaults = (CONF / "config.yaml").read_text()
    paths = (CONF / group).glob("[!_]*.yaml")
    return sorted(paths, key=lambda path: (f"- {group}: {path.stem}\n" not in defaults, path.stem))


@cache
def composed(*words: str) -> dict[str, Any]:
    """Return the knobs of a composed config by full name; a value may be a dictionary."""
    return dict(_leaves(OmegaConf.to_container(compose(list(words)), resolve=True), ""))


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and (name in GROUPS or name in IN_CODE):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


@cache
def facts() -> dict[str, Fact]:
    """Return the facts of every knob by its full name, in the order of conf/."""
    found: dict[str, Fact] = {}
    for name, value in composed().items():
        found[name] = _fact(name, value)
    for group in {name.partition(".")[0] for name in IN_CODE}:
        paths = choices_of(group)
        having = {path.stem: composed(f"{group}={path.stem}") for path in paths}
        for choice, values in having.items():
            for name in [name for name in values if name.startswith(f"{group}.")]:
                only = tuple(other for other, knobs in having.items() if name in knobs)
                only = () if len(only) == len(paths) else only
                known = found.get(name) or _fact(name, values[name], choice)
                found[name] = replace(known, choices=only)
    return found


def _fact(name: str, default: Any, choice: str = "") -> Fact:
    kind = _type(name)
    enums = [each for each in _kinds(kind) if issubclass(each, Enum)]
    members = {value: text for enum in enums for value, text in member_comments(enum).items()}
    what = SHOWN if name in ("dataset.name", "model.label") else decides(name).value
    allowed = _allowed(name, default, kind)
    return Fact(name, default, allowed, _meaning(name, choice), what, members, ())


def _kinds(hint: Any) -> list[type]:
    """Return the classes of a type's parts, such as list and NoneType of `list[str] | None`."""
    parts = get_args(hint) if isinstance(hint, UnionType) else [hint]
    return [
        get_origin(part) or part for part in parts if isinstance(get_origin(part) or part, type)
    ]


def _type(name: str) -> Any:
    """Return the type that the schema declares; None if it does not list the knob."""
    hint: Any = RunConfig
    for part in name.split("."):
        hint = get_type_hints(hint).get(part) if isinstance(hint, type) else None
    return hint


def _allowed(name: str, default: Any, kind: Any) -> str:
    """Return in words what the values of a knob may be."""
    group, _, last = name.rpartition(".")
    if last == "_target_":
        return f"{CLASSES[group]}, or a class that an installed package declares"
    if name in RANGES:
        listed = "a list, each " if isinstance(default, list) else ""
        return f"{listed}{range_text(RANGES[name])}"
    if DECLARED.get(name, {}).get("is_path_list"):
        return "a path, a list of paths, or null"
    kinds = [each for each in _kinds(kind) if each is not Any] or [type(default)]
    words = [WORDS[each] for each in kinds if each in WORDS]
    words += ["one of those below"] if any(issubclass(each, Enum) for each in kinds) else []
    words += ["null"] if NoneType in kinds else []
    return ", or ".join(words if words != ["null"] else ["text", "null"])


def range_text(allowed: Range) -> str:
    """Return a range in words; limits that only refuse the absurd are left out."""
    if allowed.high < MANY:
        return str(allowed)
    low = f"{'above' if allowed.above else 'of at least'} {allowed.low:,}"
    others = ["null" if other is None else str(other) for other in allowed.others]
    return ", or ".join([f"a {'whole ' * allowed.whole}number {low}", *others])


@cache
def _comments(path: Path) -> dict[str, str]:
    return read_comments(path)


def _meaning(name: str, choice: str = "") -> str:
    """Return the comment beside a knob: of its group's first file that has one."""
    group, _, rest = name.partition(".")
    if (last := name.rpartition(".")[2]) in SAME:
        return SAME[last]
    if not rest:
        return _comments(CONF / "config.yaml").get(name, "")
    first = [CONF / group / "_base.yaml", CONF / group / f"{choice}.yaml", *choices_of(group)]
    found = (_comments(path).get(key) for path in first if path.exists() for key in (rest, name))
    return next((text for text in found if text), "")


@cache
def set_by_choices() -> dict[str, dict[str, list[str]]]:
    """Return which choices set a knob: by its full name, then by the value."""
    found: dict[str, dict[str, list[str]]] = {}
    paths = [(name, path) for name in GROUPS for path in choices_of(name)]
    for group, path in paths:
        values = yaml.safe_load(path.read_text())
        is_global = "@package _global_" in path.read_text()
        for name, value in (values if is_global else {group: values}).items():
            for key, item in _leaves(value if name in GROUPS else {}, f"{name}."):
                by_value = found.setdefault(key, {})
                by_value.setdefault(as_yaml(item), []).append(f"`{group}={path.stem}`")
    return found
