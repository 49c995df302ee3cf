"""Share the bytes of a text between its tokens, also where several make one character.

Byte-level vocabularies split characters, and SentencePiece's fall back to single bytes for those
that they lack. Such tokens all have the offsets of the whole character.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lmft.dataset.chunked_tokenize import EncodedChunk

BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # an entry for one byte
SPACE = "▁"  # of SentencePiece, in front of a word


@dataclass(frozen=True)
class Vocabulary:
    """The bytes of text that each entry of a vocabulary stands for."""

    lengths: np.ndarray  # (V,) int32; a space in front of a word counts
    begins_with_space: np.ndarray  # (V,) bool, as ▁
    is_exact: bool  # byte-level, of text that is not normalized: the entries spell the text


def read_vocabulary(backend: Any) -> Vocabulary:
    """Return the bytes of all entries of a Rust tokenizer's vocabulary."""
    entries = backend.get_vocab(with_added_tokens=True)
    byte_level = "ByteLevel" in str(backend.pre_tokenizer)
    size = max(entries.values()) + 1
    lengths, begins_with_space = np.zeros(size, dtype=np.int32), np.zeros(size, dtype=bool)
    for name, number in entries.items():
        if byte_level:  # a character for each byte
            lengths[number] = len(name)
        else:
            lengths[number] = 1 if BYTE.fullmatch(name) else len(name.replace(SPACE, " ").encode())
        begins_with_space[number] = name.startswith(SPACE)
    for number, token in backend.get_added_tokens_decoder().items():
        lengths[number] = len(token.content.encode())
        if BYTE.fullmatch(token.content):
            lengths[number] = 1
    is_exact = byte_level and backend.normalizer is None
    return Vocabulary(lengths, begins_with_space, is_exact)


def whole_characters(parts: Iterator[EncodedChunk]) -> Iterator[EncodedChunk]:
    """Yield the same tokens, cut so that tokens of one character stay together."""
    waiting: EncodedChunk | None = None
    for part in parts:
        if waiting is not None:
            part = replace(
                part,
                ids=np.concatenate([waiting.ids, part.ids]),
                starts=np.concatenate([waiting.starts, part.starts]),
                ends=np.concatenate([waiting.ends, part.ends]),
            )
        cut = int(np.flatnonzero(_begins_group(part.starts, part.ends))[-1]) if len(part.ids) else 0
        yield part.cut(0, cut)
        waiting = part.cut(cut, len(part.ids))
    if waiting is not None:
        yield waiting


def _begins_group(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return of each token whether it has no character in common with those before it."""
    begins = np.ones(len(starts), dtype=bool)
    begins[1:] = starts[1:] >= np.maximum.accumulate(ends)[:-1]
    return begins


def share_bytes(
    ids: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    offsets: np.ndarray,
    vocabulary: Vocabulary,
) -> np.ndarray:
    """Return the bytes that each token covers: (n,) int64.

    A token covers the text from the end of the previous token to its own end. Where tokens share a
    character, each has the bytes of its vocabulary entry instead, if these add up; a space that
    the tokenizer puts in front of the text is not counted.

    Args:
        ids: (n,) the tokens.
        starts: (n,) offset of each token's first character.
        ends: (n,) offset after its last.
        offsets: the offset in bytes of each character, and of the end.
        vocabulary: the bytes of each entry.
    """
    if len(ids) == 0:
        return np.zeros(0, dtype=np.int64)
    starts, ends = np.maximum(starts, 0), np.maximum.accumulate(np.maximum(ends, 0))
    covered = np.diff(offsets[ends], prepend=0)
    entries = vocabulary.lengths[ids].astype(np.int64)
    begins = _begins_group(starts, ends)
    firsts, group = np.flatnonzero(begins), np.cumsum(begins) - 1
    # What the text has more than the entries: a gap before the group, or less: an added space.
    missing = np.add.reduceat(covered, firsts) - np.add.reduceat(entries, firsts)
    gap = offsets[starts[firsts]] - np.concatenate([[0], offsets[ends[firsts[1:] - 1]]])
    added = (missing == -1) & vocabulary.begins_with_space[ids[firsts]]
    shared = np.bincount(group) > 1
    adds_up = shared & ((missing == 0) | (missing == gap) | added)
    sizes: np.ndarray = np.where(adds_up[group], entries, covered)
    sizes[firsts] += np.where(adds_up, missing, 0)
    return sizes
