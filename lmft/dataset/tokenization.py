"""From documents to one stream of token ids."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lmft.dataset.chunked_tokenize import encode_long
from lmft.dataset.documents import Piece
from lmft.dataset.tokenizer import Separator, text_backend
from lmft.dataset.word_cache import Tokens, WordCache, join, words_stand_alone
from lmft.errors import UserError

logger = logging.getLogger(__name__)


BATCH_SIZE = 1 << 22  # characters tokenized at once

Encode = Callable[[list[str]], Tokens]


@dataclass(frozen=True)
class Part:
    """A part of the token stream."""

    ids: np.ndarray  # (n,) int64
    ends: list[int]  # for each document whose text ends here, the tokens of this part until then


def tokenize(
    pieces: Iterator[Piece], tokenizer: PreTrainedTokenizerBase, separator: Separator
) -> Iterator[Part]:
    """The documents' tokens with their separators between them, part by part.

    Raises:
        UserError: the separator is a text, and the tokenizer can't tell where documents end.
    """
    backend = text_backend(tokenizer)
    if backend is not None and separator.text:
        return _joined(pieces, separator.text, backend)
    if backend is not None:
        return _one_by_one(pieces, separator, _fast(backend), backend)
    if separator.text:
        raise UserError(
            f"dataset.separator is a text, but {type(tokenizer).__name__} gives no offsets; "
            "set dataset.separator to eos, none or model."
        )
    logger.warning(
        "%s gives no offsets, so each document is tokenized whole.", type(tokenizer).__name__
    )
    return _one_by_one(_whole(pieces), separator, _slow(tokenizer), backend=None)


def _fast(backend: Any) -> Encode:
    if words_stand_alone(backend):
        return WordCache(backend).encode
    encode = backend.encode_batch_fast  # no offsets
    return lambda texts: join(found.ids for found in encode(texts, add_special_tokens=False))


def _slow(tokenizer: PreTrainedTokenizerBase) -> Encode:
    return lambda texts: join(tokenizer(texts, add_special_tokens=False)["input_ids"])


def _one_by_one(
    pieces: Iterator[Piece], separator: Separator, encode: Encode, backend: Any
) -> Iterator[Part]:
    """Short documents many at a time, long ones in overlapping pieces."""
    short: list[str] = []
    size = 0
    between: tuple[int, ...] = ()  # nothing stands before the first document
    for text, ends in pieces:
        if ends:
            short.append(text)
            size += len(text)
        if short and (size >= BATCH_SIZE or not ends):
            yield _wrapped(encode(short), separator, between)
            short, size, between = [], 0, separator.between
        if not ends:
            yield Part(np.array(between + separator.before, dtype=np.int64), [])
            yield from (Part(part.ids, []) for part in encode_long(_rest(text, pieces), backend))
            yield Part(np.array(separator.after, dtype=np.int64), [len(separator.after)])
            between = separator.between
    if short:
        yield _wrapped(encode(short), separator, between)


def _wrapped(tokens: Tokens, separator: Separator, between: tuple[int, ...]) -> Part:
    """Documents with what stands around each; `between` stands before the first."""
    ids, counts = tokens
    ends = np.cumsum(counts)
    first = np.array(between + separator.before, dtype=np.int64)
    gap = np.array(separator.after + separator.between + separator.before, dtype=np.int64)
    last = np.array(separator.after, dtype=np.int64)
    places = np.repeat(ends[:-1], len(gap))
    ids = np.insert(ids, places, np.tile(gap, len(ends) - 1))
    ends += len(first) + len(gap) * np.arange(len(ends)) + len(last)
    return Part(np.concatenate([first, ids, last]), ends.tolist())


def _joined(pieces: Iterator[Piece], separator: str, backend: Any) -> Iterator[Part]:
    """All documents as one long text; a document ends before the first token that starts after."""
    ends: list[int] = []  # of documents, in characters of the whole text

    def texts() -> Iterator[str]:
        position, gap = 0, ""
        for text, last in pieces:
            yield gap + text
            position += len(gap) + len(text)
            gap = separator if last else ""
            if last:
                ends.append(position)

    reached = 0
    for part in encode_long(texts(), backend):
        complete = [end for end in ends[reached:] if len(part.starts) and end <= part.starts[-1]]
        reached += len(complete)
        yield Part(part.ids, np.searchsorted(part.starts, complete).tolist())
    yield Part(np.array([], dtype=np.int64), [0] * (len(ends) - reached))


def _rest(text: str, pieces: Iterator[Piece]) -> Iterator[str]:
    """The texts of one document, from `text` to its last piece."""
    yield text
    for more, ends in pieces:
        yield more
        if ends:
            return


def _whole(pieces: Iterator[Piece]) -> Iterator[Piece]:
    texts: list[str] = []
    for text, ends in pieces:
        texts.append(text)
        if ends:
            yield "".join(texts), True
            texts = []
