"""The knobs of the `dataset` group: type, unit, range, and what a knob decides.

Defaults are in `conf/`, once. Nothing heavy is imported here.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from lmft.config.knob_metadata import Decides, Range, count, knob
from lmft.config.text_words import SEPARATORS, as_paths, check_delimiter, check_word


class DocumentRule(Enum):
    """What makes one document of the rows that a source gives."""

    auto = "auto"  # row for records, file for text, article for WikiText
    row = "row"
    file = "file"
    line = "line"
    blank_line = "blank_line"  # paragraphs, parted by blank lines
    article = "article"  # from one ` = Title = ` to the next


class TextErrors(Enum):
    """What becomes of bytes in files that are no text: NUL, and what is not UTF-8."""

    strict = "strict"  # they are refused
    replace = "replace"  # each is read as U+FFFD


class DataKind(Enum):
    """What the records of a file hold."""

    auto = "auto"  # text where dataset.text_column is there, else what other columns hold
    text = "text"
    completion = "completion"  # prompt + completion, or instruction + input + output
    chat = "chat"  # messages, or conversations


class Learn(Enum):
    """Which tokens of a document are targets."""

    auto = "auto"  # completion for completion and chat, all for text
    completion = "completion"  # the completion, or what the assistant says
    all = "all"
    last = "last"  # only the assistant's last message


class Packing(Enum):
    """How the documents of a split become blocks."""

    auto = "auto"  # stream for text, documents for completion and chat
    stream = "stream"  # one after the other, cut wherever a block is full
    documents = "documents"  # whole, by best fit; the rest of a block is padded


class Attention(Enum):
    """What a token of a block sees."""

    auto = "auto"  # block for text, document for completion and chat
    block = "block"  # the whole block
    document = "document"  # its own document, whose positions start again at 0


class LongDocuments(Enum):
    """What becomes of a document that is longer than a block, where documents are packed whole."""

    split = "split"  # it is cut into pieces of a block; each is a document of its own
    truncate = "truncate"  # its first block is kept
    drop = "drop"


@dataclass
class DatasetConfig:
    """The `dataset` group."""

    name: str  # as labels show it
    # a lmft.dataset.sources.Source, by _target_
    source: Any = field(metadata=knob(decides=Decides.location))
    # where the source keeps each split: a path or a list of paths, or the hub's name for it
    train: Any = field(metadata=knob(is_path_list=True))
    validation: Any = field(metadata=knob(is_path_list=True))
    test: Any = field(metadata=knob(is_path_list=True))
    # of the training documents, held out if there is no validation
    validation_fraction: float = field(metadata=knob(Range(0, 1, above=True, below=True)))
    text_column: str  # of records; of a column inside another, its path: article.body
    # of .csv and .tsv; null: a comma and a tab
    delimiter: str | None = field(metadata=knob(formerly=None))
    errors: TextErrors  # in files
    document: DocumentRule
    # between documents: eos, none, model, or a text
    separator: str = field(metadata=knob(may_be_empty=True))
    block_size: int = field(metadata=knob(count(2)))  # tokens
    max_documents: int | None = field(metadata=knob(count(1, None)))  # of each split; null: all
    # leave out documents: of train those in it already, of other splits those in train
    drop_duplicates: bool = field(metadata=knob(formerly=False))
    kind: DataKind = field(metadata=knob(formerly="auto"))
    learn: Learn = field(metadata=knob(formerly="auto"))
    # of chats: tokenizer (its own), chatml, or a file
    chat_template: str = field(metadata=knob(formerly="tokenizer"))
    # of completions, for the prompt: none, alpaca, or a file
    prompt_template: str = field(metadata=knob(formerly="none"))
    packing: Packing = field(metadata=knob(formerly="auto"))
    attention: Attention = field(metadata=knob(formerly="auto"))
    long: LongDocuments = field(metadata=knob(formerly="split"))

    def __post_init__(self) -> None:
        check_word("dataset.separator", self.separator, SEPARATORS)
        check_delimiter("dataset.delimiter", self.delimiter)
        for split in ("train", "validation", "test"):
            setattr(self, split, as_paths(f"dataset.{split}", getattr(self, split)))
