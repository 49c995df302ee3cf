"""Tokenizing each different word once, where a tokenizer looks at one word at a time.

A text repeats its words: WikiText-2 has 2,000,000 of them, and 34,000 different ones. Here a word
is a run of whitespace and what follows up to the next one. Byte-level tokenizers (GPT-2, RoBERTa,
SmolLM2, those trained here) begin a new token at every such run and look at nothing before it, so
that a text's tokens are those of its words in turn.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

import numpy as np

# Unicode's whitespace: what Python takes for it, less four separators that Unicode does not.
SPACE, OTHER = r"[^\S\x1c-\x1f]", r"[\S\x1c-\x1f]"

WORD = re.compile(rf"{SPACE}*+{OTHER}++|{SPACE}++")

MEMORY = 1 << 25  # bytes of words remembered, about; then they are learned anew

SEQUENCE = 1000  # words tokenized at once

OVERHEAD = 100  # bytes that remembering a word takes beside its characters

Tokens = tuple[np.ndarray, np.ndarray]  # ids of texts joined (n,) int64; how many each text has


def words_stand_alone(backend: Any) -> bool:
    """Whether a text's tokens are sure to be those of its words in turn."""
    if backend.normalizer is not None or backend.pre_tokenizer is None:
        return False
    rules = json.loads(backend.pre_tokenizer.__getstate__())
    steps = rules["pretokenizers"] if rules["type"] == "Sequence" else [rules]
    return (
        all(step["type"] == "Digits" for step in steps[:-1])
        and steps[-1]["type"] == "ByteLevel"
        and steps[-1]["use_regex"]
        and not steps[-1]["add_prefix_space"]
        and not getattr(backend.model, "dropout", None)
        and not any(
            token.rstrip or re.search(SPACE, token.content)
            for token in backend.get_added_tokens_decoder().values()
        )
    )


def join(lists: Iterable[list[int]]) -> Tokens:
    """The ids of texts, one after another, and how many each text has."""
    texts = list(lists)
    counts = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    total = int(counts.sum())
    return np.fromiter(chain.from_iterable(texts), dtype=np.int64, count=total), counts


class WordCache:
    """The words met so far and their tokens."""

    numbers: defaultdict[str, int]  # word -> its place in what follows; a new word gets the next
    starts: np.ndarray  # (words,) int64, in ids
    counts: np.ndarray  # (words,) int64, tokens
    ids: np.ndarray  # (n,) int64
    memory: int  # bytes, about

    def __init__(self, backend: Any):
        self.backend = backend
        self._forget()

    def encode(self, texts: list[str]) -> Tokens:
        """The tokens of `texts`, for which only words that are new are tokenized."""
        if self.memory > MEMORY:
            self._forget()
        words = [WORD.findall(text) for text in texts]
        known = len(self.numbers)
        total = sum(map(len, words))
        every = chain.from_iterable(words)
        numbers = np.fromiter(map(self.numbers.__getitem__, every), dtype=np.int64, count=total)
        self._learn(list(islice(self.numbers, known, None)))

        counts = self.counts[numbers]  # tokens of each word
        ends = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(ends[-1]) + np.repeat(self.starts[numbers] - ends[:-1], counts)
        last = np.concatenate([[0], np.cumsum([len(some) for some in words], dtype=np.int64)])
        return self.ids[places], np.diff(ends[last])

    def _learn(self, words: list[str]) -> None:
        if not words:
            return
        # As sequences of words: an object for each would take longer than its tokens.
        some = [words[start : start + SEQUENCE] for start in range(0, len(words), SEQUENCE)]
        found = self.backend.encode_batch(some, is_pretokenized=True, add_special_tokens=False)
        ids = np.concatenate([np.array(encoding.ids, dtype=np.int64) for encoding in found])
        places = [start * SEQUENCE + np.array(one.word_ids) for start, one in enumerate(found)]
        counts = np.bincount(np.concatenate(places), minlength=len(words))
        self.starts = np.concatenate([self.starts, len(self.ids) + np.cumsum(counts) - counts])
        self.counts = np.concatenate([self.counts, counts])
        self.ids = np.concatenate([self.ids, ids])
        self.memory += sum(map(len, words)) + OVERHEAD * len(words)

    def _forget(self) -> None:
        self.numbers = defaultdict()
        self.numbers.default_factory = self.numbers.__len__
        self.starts, self.counts, self.ids = (np.array([], dtype=np.int64) for _ in range(3))
        self.memory = 0
