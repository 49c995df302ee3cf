"""How much source text each token stands for: its bytes, and the words that begin in it."""

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

LOOKED_AT = 1 << 18  # characters


@dataclass(frozen=True)
class Spans:
    """For each token of a stream, what it covers of the source text; separators cover nothing."""

    bytes: np.ndarray  # (N,) int32, UTF-8
    words: np.ndarray  # (N,) int32, whose first byte it covers


def measure_spans(
    split: Split, tokenizer: PreTrainedTokenizerBase, separator: str, stream: TokenStream
) -> Spans | None:
    """The spans of all tokens; None where the tokenizer does not tell where its tokens stand.

    A byte-level token has as many bytes as its name has characters. Of other tokenizers, a token
    reaches from where the one before ended to where it ends.
    """
    backend = text_backend(tokenizer)
    if backend is None:
        return None
    spans = Spans(*(np.zeros(len(stream.ids), dtype=np.int32) for _ in range(2)))
    found = find_separator(separator, tokenizer)
    texts = _documents(split)
    if found.text:
        _measure_joined(list(texts), found.text, backend, spans)
        return spans
    lengths = _byte_lengths(backend)
    first = 0
    for number, (text, end) in enumerate(zip(texts, stream.ends, strict=True)):
        last = int(end) - len(found.after)
        last -= len(found.between) if number < len(stream.ends) - 1 else 0
        part = slice(first + len(found.before), last)
        _measure_bytes(spans.bytes[part], text, stream.ids[part], lengths, backend)
        _count_words(spans, part, text)
        first = int(end)
    return spans


def lost_characters(split: Split, tokenizer: PreTrainedTokenizerBase) -> float:
    """The share of the text's characters that its tokens no longer tell, white space aside.

    Lower-casing, stripped accents and unknown tokens count, in the first `LOOKED_AT` characters.
    """
    backend = text_backend(tokenizer)
    whole = lost = 0
    for text, _ in split.pieces():
        if backend is not None:
            ids = backend.encode(text, add_special_tokens=False).ids
        else:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        before = Counter("".join(text.split()))
        after = Counter("".join(str(tokenizer.decode(ids)).split()))
        whole += before.total()
        lost += (before - after).total()
        if whole > LOOKED_AT:
            break
    return lost / max(1, whole)


def _documents(split: Split) -> Iterator[str]:
    parts: list[str] = []
    for text, ends in split.pieces():
        parts.append(text)
        if ends:
            parts = ["".join(parts)]
            yield parts.pop()


def _byte_lengths(backend: Any) -> np.ndarray | None:
    """The bytes of each entry of a byte-level vocabulary; None for other tokenizers."""
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
        np.take(lengths, ids, out=sizes, mode="clip")  # else through a copy; all are in range
        if int(sizes.sum(dtype=np.int64)) == len(text.encode()):
            return
    done = reached = 0  # tokens, characters
    for part in encode_long(iter([text]), backend):
        ends = np.maximum.accumulate(np.concatenate([[reached], part.ends]))
        until = _bytes_until(text[reached : ends[-1]])
        sizes[done : done + len(part.ids)] = np.diff(until[ends - reached])
        done, reached = done + len(part.ids), int(ends[-1])
    sizes[-1:] += len(text[reached:].encode())  # what a tokenizer drops at the end


def _bytes_until(text: str) -> np.ndarray:
    """UTF-8 bytes before each character, and of all of them; (len(text) + 1,)."""
    if text.isascii():
        return np.arange(len(text) + 1)
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    sizes = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    return np.concatenate([[0], np.cumsum(sizes)])


def _word_starts(text: str) -> Iterator[np.ndarray]:
    """Where the words of `text` start, in bytes; part by part, (w,) each."""
    before = 0  # bytes
    for first in range(0, len(text), LOOKED_AT):
        last = first + LOOKED_AT
        found = (match.start() - first for match in WORD_START.finditer(text, first, last))
        until = _bytes_until(text[first:last])
        yield before + until[np.fromiter(found, dtype=np.int64)]
        before += int(until[-1])


def _count_words(spans: Spans, part: slice, text: str) -> None:
    """Give each word of `text` to the token of `part` that covers its first byte."""
    first, before = part.start, 0  # the token from which owners are looked for, the bytes before it
    for words in _word_starts(text):
        while len(words) and first < part.stop:
            some = slice(first, min(first + LOOKED_AT, part.stop))
            ends = before + np.cumsum(spans.bytes[some], dtype=np.int64)
            here, words = np.split(words, np.searchsorted(words, ends[-1:]))
            owners = np.searchsorted(ends, here, side="right")
            spans.words[some] += np.bincount(owners, minlength=len(ends)).astype(np.int32)
            if len(words):
                first, before = some.stop, int(ends[-1])


def _measure_joined(texts: list[str], separator: str, backend: Any, spans: Spans) -> None:
    """Where documents are joined by text before they are tokenized, as one long document."""
    whole = separator.join(texts)
    parts = list(encode_long(iter([whole]), backend))
    ends = np.concatenate([part.ends for part in parts])
    counted = np.ones(len(whole), dtype=np.int64)  # 0 for characters of separators
    position = 0
    for text in texts[:-1]:
        position += len(text)
        counted[position : position + len(separator)] = 0
        position += len(separator)
    sizes = np.diff(_bytes_until(whole)) * counted
    until = np.concatenate([[0], np.cumsum(sizes)])
    covered = np.maximum.accumulate(until[ends])
    covered[-1:] = until[-1]
    found = (match.start() for match in WORD_START.finditer(whole))
    starts = [start for start in found if counted[start]]
    reach = np.maximum.accumulate(ends)
    reach[-1:] = len(whole)
    spans.bytes[:] = np.diff(covered, prepend=0)
    spans.words[:] = np.bincount(np.searchsorted(reach, starts, side="right"), minlength=len(ends))[
        : len(ends)
    ]
