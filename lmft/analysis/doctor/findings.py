"""What a look at the machine finds: facts, and what would be slow or missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How much a finding matters."""

    missing = "missing"  # a run with this config needs it
    slow = "slow"
    note = "note"


@dataclass(frozen=True)
class Fact:
    """A line about what is there."""

    name: str
    text: str


@dataclass(frozen=True)
class Finding:
    """What would be slow or missing: a sentence with the way out."""

    kind: Kind
    sentence: str


Found = Iterator[Fact | Finding]
