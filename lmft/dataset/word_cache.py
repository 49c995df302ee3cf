"""Tokenize each distinct word once, for tokenizers that split text into words first.

WikiText-2 has 2,000,000 words, but only 34,000 distinct ones. A word is a run of whitespace and the
characters up to the next one. Byte-level tokenizers (GPT-2, RoBERTa, SmolLM2, those of
`train_tokenizer`) start a new token at every such run, independent of the text before it, so the
tokens of a text are the concatenated tokens of its words.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

import numpy as np

# Unicode whitespace; Python's \s has four separators more, which Unicode does not count.
SPACE, OTHER = r"[^\S\x1c-\x1f]", r"[\S\x1c-\x1f]"
WORD = re.compile(rf"{SPACE}*+{OTHER}++|{SPACE}++")
MEMORY = 1 << 25  # bytes, about, at which the cache is emptied
SEQUENCE = 1000  # words per sequence passed to the tokenizer
OVERHEAD = 100  # bytes per cached word beside its characters
Tokens = tuple[np.ndarray, np.ndarray]  # ids of all texts (n,) int64; token count of each text


def words_are_independent(backend: Any) -> bool:
    """Check that the tokens of a text are always the concatenated tokens of its words."""
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


def concatenate(ids_of_texts: Iterable[list[int]]) -> Tokens:
    """Concatenate the ids of texts and count those of each text."""
    lists = list(ids_of_texts)
    counts = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    total = int(counts.sum())
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=total), counts


class WordCache:
    """The tokens of the words seen so far."""

    numbers: defaultdict[
        str, int
    ]  # word -> index into starts and counts; a new word gets the next index
    starts: np.ndarray  # (words,) int64, index of the first token in ids
    counts: np.ndarray  # (words,) int64, number of tokens
    ids: np.ndarray  # (n,) int64, tokens of all words
    memory: int  # bytes, about

    def __init__(self, backend: Any):
        self.backend = backend
        self._clear()

    def encode(self, texts: list[str]) -> Tokens:
        """Return the tokens of `texts`, tokenizing only words that are new."""
        if self.memory > MEMORY:
            self._clear()
        words = [WORD.findall(text) for text in texts]
        known = len(self.numbers)
        total = sum(map(len, words))
        all_words = chain.from_iterable(words)
        numbers = np.fromiter(map(self.numbers.__getitem__, all_words), dtype=np.int64, count=total)
        self._add(list(islice(self.numbers, known, None)))

        counts = self.counts[numbers]  # tokens of each word
        ends = np.concatenate([[0], np.cumsum(counts)])
        indices = np.arange(ends[-1]) + np.repeat(self.starts[numbers] - ends[:-1], counts)
        last = np.concatenate([[0], np.cumsum(list(map(len, words)), dtype=np.int64)])
        return self.ids[indices], np.diff(ends[last])

    def _add(self, words: list[str]) -> None:
        if not words:
            return
        # As sequences of words, since creating an Encoding per word would dominate the time.
        sequences = [words[start : start + SEQUENCE] for start in range(0, len(words), SEQUENCE)]
        encodings = self.backend.encode_batch(
            sequences, is_pretokenized=True, add_special_tokens=False
        )
        ids = np.concatenate([np.array(encoding.ids, dtype=np.int64) for encoding in encodings])
        owners = [n * SEQUENCE + np.array(e.word_ids) for n, e in enumerate(encodings)]
        counts = np.bincount(np.concatenate(owners), minlength=len(words))
        self.starts = np.concatenate([self.starts, len(self.ids) + np.cumsum(counts) - counts])
        self.counts = np.concatenate([self.counts, counts])
        self.ids = np.concatenate([self.ids, ids])
        self.memory += sum(map(len, words)) + OVERHEAD * len(words)

    def _clear(self) -> None:
        self.numbers = defaultdict()
        self.numbers.default_factory = self.numbers.__len__
        self.starts, self.counts, self.ids = (np.array([], dtype=np.int64) for _ in range(3))
        self.memory = 0
