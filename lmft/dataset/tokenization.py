"""Tokenize documents into one stream of token ids with separators."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lmft.dataset.chunked_tokenize import encode_long
from lmft.dataset.documents import Piece, whole_documents
from lmft.dataset.tokenizer import Separator, text_backend
from lmft.dataset.word_cache import Tokens, WordCache, concatenate, words_are_independent
from lmft.errors import UserError

logger = logging.getLogger(__name__)


BATCH_SIZE = 1 << 22  # characters tokenized at once
Encode = Callable[[list[str]], Tokens]


@dataclass(frozen=True)
class StreamPart:
    """Consecutive tokens of the token stream."""

    ids: np.ndarray  # (n,) int64
    ends: list[int]  # for each document that ends in this part, the number of tokens until then
    learnt: np.ndarray | None = None  # (n,) bool, which tokens are targets; None: all
    unlearnt: int = 0  # documents without a token that is learnt


def tokenize(
    pieces: Iterator[Piece], tokenizer: PreTrainedTokenizerBase, separator: Separator
) -> Iterator[StreamPart]:
    """Yield the tokens of the documents and their separators, part by part.

    Raises:
        UserError: the separator is text, but the tokenizer gives no offsets to find document ends.
    """
    backend = text_backend(tokenizer)
    if backend is not None and separator.text:
        return _tokenize_joined(pieces, separator.text, backend)
    if backend is not None:
        return _tokenize_separately(pieces, separator, _fast_encoder(backend), backend)
    if separator.text:
        raise UserError(
            f"dataset.separator is text, but {type(tokenizer).__name__} gives no offsets; "
            "set dataset.separator to eos, none or model."
        )
    logger.warning(
        "%s gives no offsets, so each document is tokenized whole.", type(tokenizer).__name__
    )
    documents = whole_documents(pieces)
    return _tokenize_separately(documents, separator, _slow_encoder(tokenizer), backend=None)


def _fast_encoder(backend: Any) -> Encode:
    if words_are_independent(backend):
        return WordCache(backend).encode
    encode = backend.encode_batch_fast  # without offsets
    return lambda texts: concatenate(
        encoding.ids for encoding in encode(texts, add_special_tokens=False)
    )


def _slow_encoder(tokenizer: PreTrainedTokenizerBase) -> Encode:
    return lambda texts: concatenate(tokenizer(texts, add_special_tokens=False)["input_ids"])


def _tokenize_separately(
    pieces: Iterator[Piece], separator: Separator, encode: Encode, backend: Any
) -> Iterator[StreamPart]:
    """Tokenize each document alone: short ones in batches, long ones in overlapping chunks."""
    short: list[str] = []
    size = 0
    between: tuple[int, ...] = ()  # no separator before the first document
    for text, ends in pieces:
        if ends:
            short.append(text)
            size += len(text)
        if short and (size >= BATCH_SIZE or not ends):
            yield _add_separators(encode(short), separator, between)
            short, size, between = [], 0, separator.between
        if not ends:
            yield StreamPart(np.array(between + separator.before, dtype=np.int64), [])
            for chunk in encode_long(_document_texts(text, pieces), backend):
                yield StreamPart(chunk.ids, [])
            yield StreamPart(np.array(separator.after, dtype=np.int64), [len(separator.after)])
            between = separator.between
    if short:
        yield _add_separators(encode(short), separator, between)


def _add_separators(tokens: Tokens, separator: Separator, between: tuple[int, ...]) -> StreamPart:
    """Insert the separators between and around documents; `between` comes before the first."""
    ids, counts = tokens
    ends = np.cumsum(counts)
    first = np.array(between + separator.before, dtype=np.int64)
    gap = np.array(separator.after + separator.between + separator.before, dtype=np.int64)
    last = np.array(separator.after, dtype=np.int64)
    positions = np.repeat(ends[:-1], len(gap))
    ids = np.insert(ids, positions, np.tile(gap, len(ends) - 1))
    ends += len(first) + len(gap) * np.arange(len(ends)) + len(last)
    return StreamPart(np.concatenate([first, ids, last]), ends.tolist())


def _tokenize_joined(pieces: Iterator[Piece], separator: str, backend: Any) -> Iterator[StreamPart]:
    """Tokenize all documents as one text.

    A document ends before the first token that starts at its end or later.
    """
    ends: list[int] = []  # of documents, as offsets in the whole text

    def texts() -> Iterator[str]:
        offset, gap = 0, ""
        for text, last in pieces:
            yield gap + text
            offset += len(gap) + len(text)
            gap = separator if last else ""
            if last:
                ends.append(offset)

    done = 0  # documents whose end was yielded
    for chunk in encode_long(texts(), backend):
        complete = [end for end in ends[done:] if len(chunk.starts) and end <= chunk.starts[-1]]
        done += len(complete)
        yield StreamPart(chunk.ids, np.searchsorted(chunk.starts, complete).tolist())
    yield StreamPart(np.array([], dtype=np.int64), [0] * (len(ends) - done))


def _document_texts(first: str, pieces: Iterator[Piece]) -> Iterator[str]:
    """Yield the texts of one document: `first` and its other pieces."""
    yield first
    for text, ends in pieces:
        yield text
        if ends:
            return
