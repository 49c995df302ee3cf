"""Measure the source text behind each token: its bytes, and the words that start in it."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lmft.dataset.chunked_tokenize import encode_long
from lmft.dataset.splits import Split
from lmft.dataset.token_stream import TokenStream
from lmft.dataset.tokenizer import find_separator, text_backend

WORD_START = re.compile(r"(?<!\S)\S")
PART = 1 << 18  # characters or tokens processed at once


@dataclass(frozen=True)
class Spans:
    """The source text that each token of a stream covers; separators cover nothing."""

    bytes: np.ndarray  # (N,) int32, UTF-8
    words: np.ndarray  # (N,) int32, the words whose first byte the token covers


def measure_spans(
    split: Split, tokenizer: PreTrainedTokenizerBase, separator: str, stream: TokenStream
) -> Spans | None:
    """Return the spans of all tokens; None if the tokenizer does not report token offsets.

    A byte-level token has as many bytes as its vocabulary entry has characters. A token of another
    tokenizer covers the text from the end of the previous token to its own end.
    """
    backend = text_backend(tokenizer)
    if backend is None:
        return None
    spans = Spans(*(np.zeros(len(stream.ids), dtype=np.int32) for _ in range(2)))
    added = find_separator(separator, tokenizer)
    texts = _documents(split)
    if added.text:
        _measure_joined(list(texts), added.text, backend, spans)
        return spans
    lengths = _byte_lengths(backend)
    first = 0
    for number, (text, end) in enumerate(zip(texts, stream.ends, strict=True)):
        last = int(end) - len(added.after)
        last -= len(added.between) if number < len(stream.ends) - 1 else 0
        part = slice(first + len(added.before), last)
        _measure_bytes(spans.bytes[part], text, stream.ids[part], lengths, backend)
        _count_words(spans, part, text)
        first = int(end)
    return spans


def lost_characters(split: Split, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the share of the text's characters that decoding its tokens does not give back.

    Lower-casing, stripped accents and unknown tokens count, white space does not. About the first
    `PART` characters are measured.
    """
    backend = text_backend(tokenizer)
    total = lost = 0
    for text, _ in split.pieces():
        if backend is not None:
            ids = backend.encode(text, add_special_tokens=False).ids
        else:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        before = Counter("".join(text.split()))
        after = Counter("".join(str(tokenizer.decode(ids)).split()))
        total += before.total()
        lost += (before - after).total()
        if total > PART:
            break
    return lost / max(1, total)


def _documents(split: Split) -> Iterator[str]:
    parts: list[str] = []
    for text, ends in split.pieces():
        parts.append(text)
        if ends:
            parts = ["".join(parts)]
            yield parts.pop()


def _byte_lengths(backend: Any) -> np.ndarray | None:
    """Return the bytes of each entry of a byte-level vocabulary; None for other tokenizers."""
    if "ByteLevel" not in str(backend.pre_tokenizer) or backend.normalizer is not None:
        return None
    vocabulary = backend.get_vocab(with_added_tokens=True)
    lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int32)
    for name, number in vocabulary.items():
        lengths[number] = len(name)
    for number, token in backend.get_added_tokens_decoder().items():
        lengths[number] = len(token.content.encode())
    return lengths


def _measure_bytes(
    sizes: np.ndarray, text: str, ids: np.ndarray, lengths: np.ndarray | None, backend: Any
) -> None:
    """Fill `sizes` (n,) with the bytes of `text` that each of its tokens covers."""
    if lengths is not None:
        np.take(lengths, ids, out=sizes, mode="clip")  # all are in range; mode="raise" would copy
        if int(sizes.sum(dtype=np.int64)) == len(text.encode()):
            return
    tokens = characters = 0  # measured so far
    for part in encode_long(iter([text]), backend):
        ends = np.maximum.accumulate(np.concatenate([[characters], part.ends]))
        offsets = _byte_offsets(text[characters : ends[-1]])
        sizes[tokens : tokens + len(part.ids)] = np.diff(offsets[ends - characters])
        tokens, characters = tokens + len(part.ids), int(ends[-1])
    sizes[-1:] += len(text[characters:].encode())  # dropped by the tokenizer at the end


def _byte_offsets(text: str) -> np.ndarray:
    """Return the UTF-8 offset of each character, and of the end; (len(text) + 1,)."""
    if text.isascii():
        return np.arange(len(text) + 1)
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    sizes = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    return np.concatenate([[0], np.cumsum(sizes)])


def _word_starts(text: str) -> Iterator[np.ndarray]:
    """Yield the UTF-8 offsets (w,) at which the words of `text` start, part by part."""
    before = 0  # bytes
    for first in range(0, len(text), PART):
        last = first + PART
        starts = (match.start() - first for match in WORD_START.finditer(text, first, last))
        offsets = _byte_offsets(text[first:last])
        yield before + offsets[np.fromiter(starts, dtype=np.int64)]
        before += int(offsets[-1])


def _count_words(spans: Spans, part: slice, text: str) -> None:
    """Count each word of `text` for the token of `part` that covers its first byte."""
    first, before = part.start, 0  # the next token to search, and the bytes before it
    for words in _word_starts(text):
        while len(words) and first < part.stop:
            window = slice(first, min(first + PART, part.stop))
            ends = before + np.cumsum(spans.bytes[window], dtype=np.int64)
            inside, words = np.split(words, np.searchsorted(words, ends[-1:]))
            tokens = np.searchsorted(ends, inside, side="right")
            spans.words[window] += np.bincount(tokens, minlength=len(ends)).astype(np.int32)
            if len(words):
                first, before = window.stop, int(ends[-1])


def _measure_joined(texts: list[str], separator: str, backend: Any, spans: Spans) -> None:
    """Measure documents that were joined by `separator` before they were tokenized."""
    joined = separator.join(texts)
    ends = np.concatenate([part.ends for part in encode_long(iter([joined]), backend)])
    counted = np.ones(len(joined), dtype=np.int64)  # 0 for characters of separators
    position = 0
    for text in texts[:-1]:
        position += len(text)
        counted[position : position + len(separator)] = 0
        position += len(separator)
    sizes = np.diff(_byte_offsets(joined)) * counted
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    covered = np.maximum.accumulate(offsets[ends])
    covered[-1:] = offsets[-1]
    words = (match.start() for match in WORD_START.finditer(joined))
    starts = [start for start in words if counted[start]]
    token_ends = np.maximum.accumulate(ends)
    token_ends[-1:] = len(joined)
    tokens = np.searchsorted(token_ends, starts, side="right")
    spans.bytes[:] = np.diff(covered, prepend=0)
    spans.words[:] = np.bincount(tokens, minlength=len(ends))[: len(ends)]
