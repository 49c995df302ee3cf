"""A split of a corpus, as a stream of documents: a source yields rows, a rule joins them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lmft.config.dataset_knobs import DocumentRule, Learn
from lmft.dataset.chat_template import read_template
from lmft.dataset.conversations import Example
from lmft.dataset.documents import Piece, article_starts, split_documents
from lmft.dataset.files import as_list
from lmft.dataset.layouts import Layout
from lmft.dataset.record_knobs import RecordKnobs
from lmft.dataset.sources import Source, TextFiles
from lmft.dataset.text_counts import are_among, first_of_each, hash_documents
from lmft.errors import UserError
from lmft.storage.hashing import digest

Item = tuple[str | Example, bool]  # a piece of text or an example, and whether a document ends
HELD_OUT_SEED = 0  # constant, so that all runs hold out the same documents


@dataclass(frozen=True)
class Split:
    """The documents of one split."""

    name: str
    corpus: str  # the dataset's name
    source: Source
    where: Any  # what to read from the source: a path or a list of paths, or a split's name
    rule: DocumentRule
    held_out: bool | None  # True: only held-out documents of `where`; False: the others; None: all
    fraction: float  # of documents, held out
    max_documents: int | None
    knobs: RecordKnobs = RecordKnobs()
    drop_duplicates: bool = False
    training: "Split | None" = None  # whose documents are duplicates here; None: the split's own

    def pieces(self) -> Iterator[Piece]:
        """Yield the documents in pieces, in order; of completions and chats, what is said."""
        for item, ends in self.items():
            yield item if isinstance(item, str) else item.text, ends

    def items(self) -> Iterator[Item]:
        """Yield the documents in order: text in pieces, completions and chats whole."""
        items = self._candidates()
        if self.drop_duplicates:
            items = _only(items, self._kept)
        return items if self.max_documents is None else _first(items, self.max_documents)

    @cached_property
    def layouts(self) -> list[Layout | None]:
        """How the records of each part are read; None for text."""
        return [self.knobs.layout(part) for part in self.source.parts(self.where)]

    @property
    def has_examples(self) -> bool:
        """Whether there are completions or chats among the documents."""
        return any(layout is not None for layout in self.layouts)

    @property
    def has_chats(self) -> bool:
        """Whether there are chats among the documents."""
        return any(layout is not None and layout.has_messages for layout in self.layouts)

    @property
    def chat_template(self) -> str | None:
        """The template that dataset.chat_template names, if there are chats."""
        template = read_template("dataset.chat_template", self.knobs.chat_template)
        return template if template is not None and self.has_chats else None

    @property
    def taken(self) -> str:
        """Which columns the documents are from, in words; empty for text."""
        found = dict.fromkeys("text" if one is None else one.describe() for one in self.layouts)
        return ", ".join(found) if self.has_examples else ""

    @property
    def learn(self) -> Learn:
        """What is learnt of the documents; auto if it is what auto means.

        Raises:
            UserError: dataset.learn is for completions and chats, and some documents are text.
        """
        if self.knobs.learn is Learn.auto:
            return Learn.auto
        return self.knobs.learnt(self.layouts, self.where)

    def digest(self) -> str:
        """Return a hash of the text and of the knobs that split it into documents."""
        return self._digest

    @cached_property
    def _digest(self) -> str:  # cached, since it reads the whole corpus
        content = self.source.digest(self.where)
        held_out = None if self.held_out is None else [self.held_out, self.fraction]
        knobs: list[Any] = [content, self.rule.value, held_out, self.max_documents]
        if self.drop_duplicates:
            training = None if self.training is None else self.training.digest()
            knobs.append(["without duplicates", training])
        return digest([*knobs, *self._record_key()])

    def _record_key(self) -> list[str]:
        if self.knobs == RecordKnobs(text_column=self.knobs.text_column, learn=self.knobs.learn):
            return []  # no file is opened to see that nothing is new
        return self.knobs.as_key(self.source.parts(self.where), self.layouts)

    @cached_property
    def hashes(self) -> np.ndarray:
        """The hashes of the documents, (D,) uint64; this reads them."""
        return hash_documents(self._compared(self.items()))

    def left_out(self) -> int:
        """Return the number of duplicates that `items` leaves out of what it reads."""
        if not self.drop_duplicates:
            return 0
        kept = np.flatnonzero(self._kept)
        if self.max_documents is not None and self.max_documents <= len(kept):
            return int(kept[self.max_documents - 1]) + 1 - self.max_documents
        return len(self._kept) - len(kept)

    def location(self) -> str:
        """Return where the text comes from: a path, or the name of a dataset and its split."""
        if isinstance(self.source, TextFiles):
            paths = [Path(path).expanduser().absolute() for path in as_list(self.where)]
            return ", ".join(map(str, paths))
        return f"{getattr(self.source, 'name', self.corpus)}/{self.where}"

    def short_name(self) -> str:
        """Return the names, without folders, of what is read."""
        return ", ".join(Path(path).name or path for path in as_list(self.where))

    def files(self) -> int | None:
        """Return the number of files that are read; None if the source is not files."""
        return len(self.source.paths(self.where)) if isinstance(self.source, TextFiles) else None

    def units(self) -> np.ndarray:
        """Return the number of the independent text that each document belongs to, (D,) from 0.

        This is the document itself; but for WikiText split into rows, lines or paragraphs it is
        the article, since its parts are not independent samples.
        """
        rules = {part.rule for part in self.source.parts(self.where)}
        is_finer = self.rule in (DocumentRule.row, DocumentRule.line, DocumentRule.blank_line)
        if rules != {"article"} or not is_finer:
            return np.arange(sum(ends for _, ends in self.pieces()))
        starts = article_starts(text for text, ends in self.pieces() if ends)
        return np.cumsum(list(starts), dtype=np.int64)

    @cached_property
    def _kept(self) -> np.ndarray:
        """Which documents are no duplicates, (D,) bool."""
        hashes = hash_documents(self._compared(self._candidates()))
        if self.training is None:
            return first_of_each(hashes)
        kept: np.ndarray = ~are_among(hashes, self.training.hashes)
        if len(kept) and not kept.any():
            raise UserError(
                f"All documents of dataset.{self.name} ({self.where!r}) are in training too; "
                "choose others, or set dataset.drop_duplicates=false."
            )
        return kept

    def _compared(self, items: Iterator[Item]) -> Iterator[Piece]:
        """Yield the texts by which equal documents are found."""
        for item, ends in items:
            yield item if isinstance(item, str) else self.knobs.compared(item), ends

    def _candidates(self) -> Iterator[Item]:
        items = self._all_items()
        return items if self.held_out is None else self._select(items)

    def _all_items(self) -> Iterator[Item]:
        for part, layout in zip(self.source.parts(self.where), self.layouts, strict=True):
            if layout is None or part.table is None:
                rule = part.rule if self.rule is DocumentRule.auto else self.rule.value
                yield from split_documents(part.read(), rule)
            elif self.rule in (DocumentRule.auto, DocumentRule.row):
                yield from ((layout.read(record), True) for record in part.table.records())
            else:
                raise UserError(
                    f"dataset.document is {self.rule.value}, but {part.table.where} has a "
                    f"{layout.kind.value} in each record; leave dataset.document out."
                )

    def _select(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the held-out documents, or all others."""
        count = sum(ends for _, ends in self._all_items())
        if count < 2:
            raise UserError(
                f"dataset.train has {count} document, so none can be held out for validation; "
                "set dataset.validation=PATH, or dataset.document=line or blank_line to have more."
            )
        size = min(count - 1, max(1, round(self.fraction * count)))
        selected = np.full(count, not self.held_out)
        selected[np.random.default_rng(HELD_OUT_SEED).permutation(count)[:size]] = self.held_out
        yield from _only(items, selected)


def _only(items: Iterator[Item], chosen: np.ndarray) -> Iterator[Item]:
    """Yield the documents of which `chosen`, (D,) bool, is true."""
    number = 0
    for item, ends in items:
        if chosen[number]:
            yield item, ends
        number += ends


def _first(items: Iterator[Item], count: int) -> Iterator[Item]:
    for item, ends in items:
        yield item, ends
        count -= ends
        if count == 0:
            return
