"""How the documents of a split become blocks, as the knobs say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmft.config.dataset_knobs import Attention, LongDocuments, Packing
from lmft.config.schema import FORMERLY
from lmft.dataset.split import Split

KNOBS = ("packing", "attention", "long")  # of the group `dataset`


@dataclass(frozen=True)
class BlockRule:
    """How the documents of a split become blocks; nothing is auto."""

    packing: Packing
    attention: Attention
    long: LongDocuments  # split, where the stream is cut wherever a block is full

    @property
    def of_documents(self) -> bool:
        """Whether blocks know of documents; each of these is evaluated alone, then."""
        return self.packing is Packing.documents or self.attention is Attention.document

    def as_words(self) -> list[str]:
        """Return the values of the three knobs."""
        return [self.packing.value, self.attention.value, self.long.value]


def find_rule(knobs: Mapping[str, Any], split: Split) -> BlockRule:
    """Return what the knobs of `dataset` mean for a split: auto depends on what its records hold.

    Args:
        knobs: the values of the group; those of runs of before they existed lack some.
        split: of the dataset.
    """
    packing, attention, long = (knobs.get(name, FORMERLY[f"dataset.{name}"]) for name in KNOBS)
    packing, attention, long = Packing(packing), Attention(attention), LongDocuments(long)
    if packing is Packing.auto:
        packing = Packing.documents if split.has_examples else Packing.stream
    if attention is Attention.auto:
        attention = Attention.document if split.has_examples else Attention.block
    return BlockRule(
        packing, attention, long if packing is Packing.documents else LongDocuments.split
    )


def describe_rules(knobs: Mapping[str, Any], splits: Mapping[str, Split]) -> dict[str, list[str]]:
    """Return the rule of each split in words; nothing if all are what auto means."""
    if all(knobs.get(name, usual) == usual for name, usual in usual_knobs().items()):
        return {}  # no file is opened to see that nothing is new
    rules = {name: find_rule(knobs, split) for name, split in splits.items()}
    usual = {name: find_rule(usual_knobs(), split) for name, split in splits.items()}
    return {} if rules == usual else {name: rule.as_words() for name, rule in rules.items()}


def usual_knobs() -> dict[str, str]:
    """Return the values that no run of before these knobs differs from."""
    return {name: FORMERLY[f"dataset.{name}"] for name in KNOBS}
