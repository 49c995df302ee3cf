"""Small texts to train on: in files, and from sources that keep them in memory."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lmft.config.dataset_knobs import DocumentRule
from lmft.dataset.sources import Rows
from lmft.dataset.split import Split
from lmft.dataset.tokenizer import train_tokenizer
from lmft.errors import UserError
from lmft.storage.hashing import digest

PROSE = "The café’s cat, once 3 years old, sat on <unk> the mat; it's 12,345 @-@ times!\n"


def write_corpus(folder: Path) -> list[str]:
    """Overrides for a small corpus in files: three splits of 40, 8 and 6 documents."""
    lines = ["the cat sat on a mat\n", "and saw one red dog run by\n", "so the dog sat\n"]
    overrides = ["dataset=text_files", "dataset.document=line", "model.vocab_size=300"]
    for split, count in {"train": 40, "validation": 8, "test": 6}.items():
        path = folder / f"{split}.txt"
        path.write_text("".join(lines[i % 3] for i in range(count)))
        overrides.append(f"dataset.{split}={path}")
    return overrides


@dataclass
class ListSource:
    """A source of the documents that it is given; counts how often they are read."""

    documents: list[str]
    readings: list[None] = field(default_factory=list)

    def parts(self, where: str) -> list[Rows]:
        return [Rows(self.read, rule="row")]

    def digest(self, where: str) -> str:
        return digest([where, self.documents])

    def read(self) -> Iterator[str]:
        self.readings.append(None)
        yield from self.documents


class BrokenSource(ListSource):
    """A source that fails after all but the last document."""

    def read(self) -> Iterator[str]:
        yield from self.documents[:-1]
        raise UserError("the last document is broken.")


class BlockingSource(ListSource):
    """A source that writes down each reading in `where`, then waits for the file `where`.go."""

    def parts(self, where: str) -> list[Rows]:
        def read() -> Iterator[str]:
            with open(where, "a") as log:
                log.write("read\n")
            while not os.path.exists(f"{where}.go"):
                time.sleep(0.01)
            yield from self.documents

        return [Rows(read, rule="row")]


def as_split(documents, where="train", source=ListSource):
    """A split whose documents are a list, or those of a source."""
    source = source(documents) if isinstance(documents, list) else documents
    return Split("train", "told", source, where, DocumentRule.auto, None, 0.05, None)


def train_small_tokenizer():
    """A byte-level tokenizer of 320 entries."""
    texts = [PROSE] * 20 + ["<s> wraps </s> \N{CAT FACE} 日本語 " * 9]
    return train_tokenizer(iter(texts), vocab_size=320)
