"""The comments beside the members of an Enum."""

import inspect
import re
from enum import Enum

MEMBER = re.compile(r"^ +\w+ = \"(\w+)\"(?:  # (.*))?$", re.MULTILINE)


def member_comments(kind: type[Enum]) -> dict[str, str]:
    """Return the comment beside each member of an Enum, by its value."""
    return dict(MEMBER.findall(inspect.getsource(kind)))
