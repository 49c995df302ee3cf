"""Measure the source text behind each token: its bytes, and the words that start in it."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lmft.dataset.chunked_tokenize import encode_long
from lmft.dataset.documents import whole_documents
from lmft.dataset.examples import find_end_tokens, render_documents
from lmft.dataset.split import Split
from lmft.dataset.token_stream import TokenStream
from lmft.dataset.tokenizer import Separator, find_separator, text_backend
from lmft.evaluation.byte_shares import Vocabulary, read_vocabulary, share_bytes, whole_characters

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
    tokenizer covers the text from the end of the previous token to its own end; tokens that are
    bytes of one character have one each.
    """
    backend = text_backend(tokenizer)
    if backend is None:
        return None
    spans = Spans(*(np.zeros(len(stream.ids), dtype=np.int32) for _ in range(2)))
    added, vocabulary = find_separator(separator, tokenizer), read_vocabulary(backend)
    if added.text and not split.has_examples:
        _measure_joined(list(_documents(split)), added.text, vocabulary, backend, spans)
        return spans
    first = 0
    texts = _texts_with_ids(split, tokenizer, added, len(stream.ends))
    for (text, before, after), end in zip(texts, stream.ends, strict=True):
        part = slice(first + before, int(end) - after)
        _measure_bytes(spans.bytes[part], text, stream.ids[part], vocabulary, backend)
        _count_words(spans, part, text)
        first = int(end)
    return spans


def _texts_with_ids(
    split: Split, tokenizer: PreTrainedTokenizerBase, added: Separator, documents: int
) -> Iterator[tuple[str, int, int]]:
    """Yield each document's text, and how many ids that are none of it stand before and after."""
    if split.has_examples:
        end_tokens = find_end_tokens(added, tokenizer)
        for one in render_documents(split, tokenizer):
            before, after = end_tokens.around(one.text)
            yield one.text, len(before), len(after)
        return
    for number, text in enumerate(_documents(split), start=1):
        between = len(added.between) if number < documents else 0
        yield text, len(added.before), len(added.after) + between


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
    return (text for text, _ in whole_documents(split.pieces()))


def _measure_bytes(
    sizes: np.ndarray, text: str, ids: np.ndarray, vocabulary: Vocabulary, backend: Any
) -> None:
    """Fill `sizes` (n,) with the bytes of `text` that each of its tokens covers."""
    if vocabulary.is_exact:
        # All ids are in range; mode="raise" would copy.
        np.take(vocabulary.lengths, ids, out=sizes, mode="clip")
        if int(sizes.sum(dtype=np.int64)) == len(text.encode()):
            return
    tokens = characters = 0  # measured so far
    for part in whole_characters(encode_long(iter([text]), backend)):
        last = max(characters, int(part.ends.max(initial=0)))
        offsets = _byte_offsets(text[characters:last])
        sizes[tokens : tokens + len(part.ids)] = share_bytes(
            part.ids, part.starts - characters, part.ends - characters, offsets, vocabulary
        )
        tokens, characters = tokens + len(part.ids), last
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


def _measure_joined(
    texts: list[str], separator: str, vocabulary: Vocabulary, backend: Any, spans: Spans
) -> None:
    """Measure documents that were joined by `separator` before they were tokenized."""
    joined = separator.join(texts)
    parts = list(encode_long(iter([joined]), backend))
    ids, starts, ends = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("ids", "starts", "ends")
    )
    counted = np.ones(len(joined), dtype=np.int64)  # 0 for characters of separators
    position = 0
    for text in texts[:-1]:
        position += len(text)
        counted[position : position + len(separator)] = 0
        position += len(separator)
    sizes = np.diff(_byte_offsets(joined)) * counted
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    words = (match.start() for match in WORD_START.finditer(joined))
    word_starts = [start for start in words if counted[start]]
    token_ends = np.maximum.accumulate(ends)
    token_ends[-1:] = len(joined)
    tokens = np.searchsorted(token_ends, word_starts, side="right")
    spans.bytes[:] = share_bytes(ids, starts, ends, offsets, vocabulary)
    spans.bytes[-1:] += offsets[-1] - offsets[ends.max(initial=0)]  # dropped at the end
    spans.words[:] = np.bincount(tokens, minlength=len(ends))[: len(ends)]
