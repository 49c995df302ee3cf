"""Tokenizing long text in overlapping pieces, with the same result as in one go.

A tokenizer looks only a little way around each token, so two pieces that overlap agree in the
middle of their overlap. The pieces are joined there: at a token that both have, with the same
neighbours on either side and at the same offsets.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

STRIDE = 1 << 18  # characters from one piece to the next

OVERLAP = 1 << 12  # characters that a piece shares with the next

AGREEING = 8  # tokens on either side of a joint

AT_ONCE = 4  # pieces tokenized in parallel


@dataclass(frozen=True)
class Encoded:
    """Tokens of a part of a text."""

    text: str
    start: int  # of `text` in the whole, in characters
    ids: np.ndarray  # (n,) int64
    starts: np.ndarray  # (n,) int64, where each token starts in the whole, in characters
    ends: np.ndarray  # (n,) int64

    def cut(self, first: int, last: int) -> "Encoded":
        """Only the tokens from `first` up to `last`."""
        part = slice(first, last)
        return Encoded(self.text, self.start, self.ids[part], self.starts[part], self.ends[part])


def encode_long(texts: Iterator[str], backend: Any) -> Iterator[Encoded]:
    """The tokens of the texts joined, part by part; memory does not grow with their length."""
    left: Encoded | None = None
    done = 0  # tokens of `left` that have been given out
    for right in _encode_pieces(texts, backend):
        if left is not None:
            joint = _find_joint(left, right, done)
            if joint is None:  # nothing to go by: tokenize both as one piece
                union = left.text + right.text[left.start + len(left.text) - right.start :]
                right = _encode(backend, [union], [left.start])[0]
                left = right
                continue
            yield left.cut(done, joint[0])
            done = joint[1]
        left = right
    if left is not None:
        yield left.cut(done, len(left.ids))


def _encode_pieces(texts: Iterator[str], backend: Any) -> Iterator[Encoded]:
    pieces = _overlapping(texts)
    while group := list(itertools.islice(pieces, AT_ONCE)):
        starts, parts = zip(*group, strict=True)
        yield from _encode(backend, list(parts), list(starts))


def _overlapping(texts: Iterator[str]) -> Iterator[tuple[int, str]]:
    buffer, start = "", 0
    for text in texts:
        buffer += text
        while len(buffer) > STRIDE + OVERLAP:
            yield start, buffer[: STRIDE + OVERLAP]
            buffer, start = buffer[STRIDE:], start + STRIDE
    if buffer:
        yield start, buffer


def _encode(backend: Any, texts: list[str], starts: list[int]) -> list[Encoded]:
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    pieces = []
    for text, start, encoding in zip(texts, starts, encodings, strict=True):
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) + start
        ids = np.array(encoding.ids, dtype=np.int64)
        pieces.append(Encoded(text, start, ids, offsets[:, 0], offsets[:, 1]))
    return pieces


def _find_joint(left: Encoded, right: Encoded, done: int) -> tuple[int, int] | None:
    """Tokens (of `left`, of `right`) at which the one can go on as the other."""
    first = max(done, int(np.searchsorted(left.starts, right.start)))
    overlap_end = left.start + len(left.text)
    last = int(np.searchsorted(right.starts, overlap_end))
    places = {int(start): first + i for i, start in enumerate(left.starts[first:])}
    middle = (right.start + overlap_end) / 2
    for j in sorted(range(last), key=lambda j: abs(int(right.starts[j]) - middle)):
        i = places.get(int(right.starts[j]))
        if i is not None and _agree(left, i, right, j):
            return i, j
    return None


def _agree(left: Encoded, i: int, right: Encoded, j: int) -> bool:
    """Whether both have the same tokens, at the same places, around i and j."""
    if i < AGREEING or j < AGREEING:
        return False
    near = slice(i - AGREEING, i + AGREEING), slice(j - AGREEING, j + AGREEING)
    here, there = left.ids[near[0]], right.ids[near[1]]
    return (
        len(here) == len(there) == 2 * AGREEING
        and bool((here == there).all())
        and bool((left.starts[near[0]] == right.starts[near[1]]).all())
    )
