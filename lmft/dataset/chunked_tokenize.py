"""Tokenize long text in overlapping chunks, with the same result as in one call.

A token depends only on the text near it, so two overlapping chunks agree in the middle of their
overlap. They are stitched there: at a token that both have at the same offset, with the same
neighbors on both sides.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

STRIDE = 1 << 18  # characters from the start of one chunk to the next
OVERLAP = 1 << 12  # characters that a chunk shares with the next
NEIGHBORS = 8  # tokens on each side of a seam that have to agree
CHUNKS_AT_ONCE = 4  # tokenized in parallel


@dataclass(frozen=True)
class EncodedChunk:
    """Tokens of a chunk of a text. Offsets are in characters of the whole text."""

    text: str
    start: int  # offset of `text`
    ids: np.ndarray  # (n,) int64
    starts: np.ndarray  # (n,) int64, offset of each token's first character
    ends: np.ndarray  # (n,) int64, offset after its last

    def cut(self, first: int, last: int) -> "EncodedChunk":
        """Return the chunk with only the tokens from `first` up to, not including, `last`."""
        kept = slice(first, last)
        return replace(self, ids=self.ids[kept], starts=self.starts[kept], ends=self.ends[kept])


def encode_long(texts: Iterator[str], backend: Any) -> Iterator[EncodedChunk]:
    """Yield the tokens of the concatenated texts, chunk by chunk, in constant memory."""
    left: EncodedChunk | None = None
    done = 0  # tokens of `left` that were yielded with the chunk before it
    for right in _encode_chunks(texts, backend):
        if left is not None:
            seam = _find_seam(left, right, done)
            if seam is None:  # tokenize both chunks as one
                union = left.text + right.text[left.start + len(left.text) - right.start :]
                left = _encode(backend, [union], [left.start])[0]
                continue
            yield left.cut(done, seam[0])
            done = seam[1]
        left = right
    if left is not None:
        yield left.cut(done, len(left.ids))


def _encode_chunks(texts: Iterator[str], backend: Any) -> Iterator[EncodedChunk]:
    chunks = _overlapping_chunks(texts)
    while group := list(itertools.islice(chunks, CHUNKS_AT_ONCE)):
        starts, chunk_texts = zip(*group, strict=True)
        yield from _encode(backend, list(chunk_texts), list(starts))


def _overlapping_chunks(texts: Iterator[str]) -> Iterator[tuple[int, str]]:
    buffer, start = "", 0
    for text in texts:
        buffer += text
        while len(buffer) > STRIDE + OVERLAP:
            yield start, buffer[: STRIDE + OVERLAP]
            buffer, start = buffer[STRIDE:], start + STRIDE
    if buffer:
        yield start, buffer


def _encode(backend: Any, texts: list[str], starts: list[int]) -> list[EncodedChunk]:
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    chunks = []
    for text, start, encoding in zip(texts, starts, encodings, strict=True):
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) + start
        ids = np.array(encoding.ids, dtype=np.int64)
        chunks.append(EncodedChunk(text, start, ids, offsets[:, 0], offsets[:, 1]))
    return chunks


def _find_seam(left: EncodedChunk, right: EncodedChunk, done: int) -> tuple[int, int] | None:
    """Return the index of the same token in `left` and in `right`, near the overlap's middle."""
    first = max(done, int(np.searchsorted(left.starts, right.start)))
    overlap_end = left.start + len(left.text)
    last = int(np.searchsorted(right.starts, overlap_end))
    indices = {int(start): first + i for i, start in enumerate(left.starts[first:])}
    middle = (right.start + overlap_end) / 2
    for j in sorted(range(last), key=lambda j: abs(int(right.starts[j]) - middle)):
        i = indices.get(int(right.starts[j]))
        if i is not None and _agree(left, i, right, j):
            return i, j
    return None


def _agree(left: EncodedChunk, i: int, right: EncodedChunk, j: int) -> bool:
    """Check that both have the same tokens, at the same offsets, around i and j."""
    if i < NEIGHBORS or j < NEIGHBORS:
        return False
    near_i, near_j = slice(i - NEIGHBORS, i + NEIGHBORS), slice(j - NEIGHBORS, j + NEIGHBORS)
    left_ids, right_ids = left.ids[near_i], right.ids[near_j]
    return (
        len(left_ids) == len(right_ids) == 2 * NEIGHBORS
        and bool((left_ids == right_ids).all())
        and bool((left.starts[near_i] == right.starts[near_j]).all())
    )
