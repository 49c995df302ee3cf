"""The comment at the top of a config file, and those beside the members of an Enum."""

import inspect
import re
from enum import Enum
from pathlib import Path

MEMBER = re.compile(r"^ +\w+ = \"(\w+)\"(?:  # (.*))?$", re.MULTILINE)


def top_comment(path: Path) -> str:
    """Return the comment at the top of a config file, without Hydra's package line."""
    lines = path.read_text().splitlines()
    end = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line[2:] for line in lines[:end] if not line.startswith("# @"))


def member_comments(kind: type[Enum]) -> dict[str, str]:
    """Return the comment beside each member of an Enum, by its value."""
    return dict(MEMBER.findall(inspect.getsource(kind)))
