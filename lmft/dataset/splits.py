"""From a corpus to documents, split by split.

A source knows where rows come from (Python's documentation, the hub, files); a rule says which
rows make a document. All is read as a stream, so that memory stays flat as the corpus grows.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lmft.config.schema import DatasetConfig, DocumentRule
from lmft.dataset.documents import Piece, article_starts, split_documents
from lmft.dataset.sources import Source
from lmft.errors import UserError
from lmft.storage.hashing import digest

logger = logging.getLogger(__name__)


SPLITS = ("train", "validation", "test")

HELD_OUT_SEED = 0  # which documents are held out never depends on a run's seed


@dataclass(frozen=True)
class Split:
    """The documents of one split."""

    name: str
    corpus: str  # the dataset's name
    source: Source
    where: str
    rule: DocumentRule
    held_out: bool | None  # True: those held out of `where`; False: the others; None: all
    fraction: float  # held out
    max_documents: int | None

    def pieces(self) -> Iterator[Piece]:
        """The documents as a stream: parts of their text, each with whether it is the last."""
        pieces = self._all()
        if self.held_out is not None:
            pieces = self._chosen(pieces)
        return pieces if self.max_documents is None else _first(pieces, self.max_documents)

    def digest(self) -> str:
        """A hash of the content (never of file times) and of what makes documents of it."""
        return self._digest

    @cached_property
    def _digest(self) -> str:  # is asked for half a dozen times, and reads the whole corpus
        content = self.source.digest(self.where)
        held_out = None if self.held_out is None else [self.held_out, self.fraction]
        return digest([content, self.rule.value, held_out, self.max_documents])

    def units(self) -> np.ndarray:
        """For each document (D,), which independent text it is part of, from 0.

        That is the document itself, but for WikiText cut into rows, lines or paragraphs: there it
        is the article.
        """
        rules = {part.rule for part in self.source.parts(self.where)}
        finer = self.rule in (DocumentRule.row, DocumentRule.line, DocumentRule.blank_line)
        if rules != {"article"} or not finer:
            return np.arange(sum(ends for _, ends in self.pieces()))
        starts = article_starts(text for text, ends in self.pieces() if ends)
        return np.cumsum(list(starts), dtype=np.int64)

    def _all(self) -> Iterator[Piece]:
        for part in self.source.parts(self.where):
            rule = part.rule if self.rule is DocumentRule.auto else self.rule.value
            yield from split_documents(part.read(), rule)

    def _chosen(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        count = sum(ends for _, ends in self._all())
        if count < 2:
            raise UserError(
                f"dataset.train has {count} document, so none can be held out for validation; "
                "set dataset.validation=PATH, or dataset.document=line or blank_line to have more."
            )
        size = min(count - 1, max(1, round(self.fraction * count)))
        chosen = np.full(count, not self.held_out)
        chosen[np.random.default_rng(HELD_OUT_SEED).permutation(count)[:size]] = self.held_out
        number = 0
        for text, ends in pieces:
            if chosen[number]:
                yield text, ends
            number += ends


def open_splits(config: DatasetConfig, only: tuple[str, ...] = SPLITS) -> dict[str, Split]:
    """The splits of `only` that `config` names, in the order train, validation, test.

    Raises:
        UserError: a split is not where it should be.
    """
    places = {name: getattr(config, name) for name in SPLITS}
    held_out: dict[str, bool | None] = dict.fromkeys(SPLITS)
    if places["train"] is not None and places["validation"] is None:
        places["validation"] = places["train"]
        held_out |= {"train": False, "validation": True}
    splits = {
        name: Split(
            name,
            config.name,
            config.source,
            where,
            config.document,
            held_out[name],
            config.validation_fraction,
            config.max_documents,
        )
        for name, where in places.items()
        if where is not None and name in only
    }
    return splits


def warn_of_overlap(splits: dict[str, Split]) -> None:
    """Say so where a split that is scored is the one that is trained on."""
    digests = {name: split.digest() for name, split in splits.items()}
    for name in ("validation", "test"):
        if "train" in splits and digests.get(name) == digests["train"]:
            logger.warning(
                "dataset.%s has the same content as dataset.train: its loss tells how well the "
                "model remembers, not how well it generalizes.",
                name,
            )


def _first(pieces: Iterator[Piece], count: int) -> Iterator[Piece]:
    for text, ends in pieces:
        yield text, ends
        count -= ends
        if count == 0:
            return
