"""The comments beside the keys of a config file, and those beside the members of an Enum."""

import inspect
import re
from enum import Enum
from pathlib import Path

import yaml

BESIDE = re.compile(r"\s# (.*)$")
CONTINUED = re.compile(r" {20,}# (.*)$")  # on a line of its own, below the comment that goes on
MEMBER = re.compile(r"^ +\w+ = \"(\w+)\"(?:  # (.*))?$", re.MULTILINE)


def key_comments(path: Path) -> dict[str, str]:
    """Return the comment beside each key of a YAML file, by the key's full name."""
    text = path.read_text()
    found: dict[str, str] = {}
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        _collect(root, "", text.splitlines(), found)
    return found


def _collect(node: yaml.MappingNode, prefix: str, lines: list[str], found: dict[str, str]) -> None:
    for key, value in node.value:
        if key.value == "defaults" and not prefix:
            continue  # Hydra's list
        name, number = f"{prefix}{key.value}", key.start_mark.line
        beside = BESIDE.search(lines[number])
        parts = [beside[1]] if beside else []
        for line in lines[number + 1 :] if beside else []:
            if not (more := CONTINUED.match(line)):
                break
            parts.append(more[1])
        found[name] = " ".join(parts)
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            _collect(value, f"{name}.", lines, found)


def top_comment(path: Path) -> str:
    """Return the comment at the top of a config file, without Hydra's package line."""
    lines = path.read_text().splitlines()
    end = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line[2:] for line in lines[:end] if not line.startswith("# @"))


def member_comments(kind: type[Enum]) -> dict[str, str]:
    """Return the comment beside each member of an Enum, by its value."""
    return dict(MEMBER.findall(inspect.getsource(kind)))
