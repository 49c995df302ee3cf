"""One record of a file, and what its reader is asked for."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lmft.config.dataset_knobs import TextErrors


@dataclass(frozen=True)
class Record:
    """A record and where it is."""

    where: str  # the file, or the name of a dataset
    number: int  # from 1: the line in which it starts, or how many records there are up to it
    values: dict[str, Any] = field(repr=False)  # by column
    unit: str = "record"  # what `number` counts: line or record

    @property
    def place(self) -> str:
        """Where it is in its file: `line 3`, `record 3`."""
        return f"{self.unit} {self.number}"

    @property
    def full_place(self) -> str:
        """Where it is, with its file: `chats.jsonl, line 3`."""
        return f"{self.where}, {self.place}"


@dataclass(frozen=True)
class Reading:
    """How records are read."""

    errors: TextErrors = TextErrors.strict
    delimiter: str | None = None  # of .csv and .tsv; None: a comma and a tab
    column: str | None = None  # the only one that is needed, by its path; None: all


class RepeatedNames(dict[str, Any]):
    """Values of which some share a name; the last of them counts."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]):
        pairs = list(pairs)
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def as_values(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the values by name; names that occur twice are kept in mind."""
    values = dict(pairs)
    return values if len(values) == len(pairs) else RepeatedNames(pairs)


def names_of(values: dict[str, Any]) -> list[str]:
    """Return the names of values, a name that occurs twice as often."""
    return values.names if isinstance(values, RepeatedNames) else list(values)
