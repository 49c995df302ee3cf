"""Describe the splits of a corpus: sizes, lengths of documents, and a few blocks as they are."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lmft.dataset.batches import Batches
from lmft.dataset.overview.excerpts import Excerpt, read_excerpts
from lmft.dataset.text_counts import TextCounts
from lmft.dataset.token_stream import TokenStream

MOST_LENGTHS = 1_000_000  # documents whose lengths are read; of more, an even sample
MOST_BINS = 10
INSIDE = (0.02, 0.98)  # quantiles that the bins reach; beyond them, the first and last are open


@dataclass(frozen=True)
class SplitFacts:
    """The sizes of a split."""

    name: str
    read: str  # what was counted while reading it
    documents: int
    tokens: int
    median: int  # tokens of a document
    longest: int
    blocks: int
    fill: float  # share of the places in blocks that hold a token
    learnt: float  # share of the tokens that may be targets


@dataclass(frozen=True)
class Bin:
    """The documents whose lengths are in a range."""

    label: str
    share: float  # of all documents
    is_longer: bool  # than a block, all of them


@dataclass(frozen=True)
class Histogram:
    """The lengths of a split's documents."""

    bins: list[Bin]
    longer: float  # share of documents that are longer than a block
    is_sample: bool


@dataclass(frozen=True)
class Overview:
    """What a model will read."""

    title: str
    unit: str  # what the loss counts
    splits: list[SplitFacts]
    shown: str  # the split that lengths and excerpts are of
    block_size: int
    lengths: Histogram
    excerpts: list[Excerpt]
    learnt_label: str  # of the share of tokens that may be targets

    @property
    def subtitle(self) -> str:
        """How the text is cut, and what the loss counts."""
        return f"blocks of {self.block_size:,} tokens · loss {self.unit}"

    @property
    def lengths_title(self) -> str:
        """What the histogram shows."""
        return f"Length of the documents of {self.shown}, in tokens"

    @property
    def explanation(self) -> str:
        """What the excerpts are, in a sentence."""
        marks = "All of it is learnt."
        if any(span.target for excerpt in self.excerpts for span in excerpt.spans):
            marks = "Marked: what is learnt; after an arrow where the model sees something else."
        elif any(excerpt.is_marked for excerpt in self.excerpts):
            marks = "Marked: what is learnt."
        return f"The first blocks of {self.shown}, as the model sees them. {marks}"

    @property
    def longer(self) -> str:
        """How many documents do not fit into a block, in a sentence."""
        share = f"{self.lengths.longer:.1%} are" if self.lengths.longer else "None is"
        sample = " (of an even sample)" if self.lengths.is_sample else ""
        return f"{share} longer than a block of {self.block_size:,} tokens{sample}."


def describe(
    title: str, unit: str, batches: dict[str, Batches], seed: int, shuffle: bool, most: int
) -> Overview:
    """Describe splits; lengths and excerpts are of the first.

    Args:
        title: what is trained on what.
        unit: what the loss counts.
        batches: of each split.
        seed: of the order and the masks.
        shuffle: whether blocks are drawn in a new order in each epoch.
        most: tokens of a block to show, at most.
    """
    shown, first = next(iter(batches.items()))
    size = first.blocks.size
    counts = count_texts({name: each.blocks.stream for name, each in batches.items()})
    return Overview(
        title,
        unit,
        [describe_split(name, each, counts[name]) for name, each in batches.items()],
        shown,
        size,
        count_lengths(read_lengths(first.blocks.stream), size, len(first.blocks.stream.ends)),
        read_excerpts(first, seed, shuffle, most),
        "learnt" if first.objective.is_causal else "may be hidden",
    )


def count_texts(streams: Mapping[str, TokenStream]) -> dict[str, TextCounts]:
    """Return how much text each split has, and how much of it is in training too."""
    training = streams.get("train")
    return {
        name: stream.counts if name == "train" else stream.counts_beside(training)
        for name, stream in streams.items()
    }


def describe_split(name: str, batches: Batches, counts: TextCounts) -> SplitFacts:
    """Return the sizes of a split, of which `counts` says how much text it has."""
    blocks = batches.blocks
    lengths = read_lengths(blocks.stream)
    return SplitFacts(
        name,
        counts.describe(),
        len(blocks.stream.ends),
        len(blocks.stream.ids),
        int(np.median(lengths)),
        int(lengths.max()),
        len(blocks),
        blocks.fill,
        1.0 if counts.learnt is None else counts.learnt,
    )


def read_lengths(stream: TokenStream) -> np.ndarray:
    """Return the tokens of each document with its separator, (D,); of very many, a sample."""
    documents = len(stream.ends)
    numbers = np.linspace(0, documents - 1, min(documents, MOST_LENGTHS)).astype(np.int64)
    starts = np.where(numbers > 0, stream.ends[numbers - 1], 0)
    return np.asarray(stream.ends[numbers] - starts)


def count_lengths(lengths: np.ndarray, block_size: int, documents: int) -> Histogram:
    """Return how many documents are how long.

    Args:
        lengths: of documents, in tokens.
        block_size: tokens a block.
        documents: how many there are, also those that are not among `lengths`.
    """
    edges = choose_edges(lengths)
    counts = np.histogram(np.clip(lengths, edges[0], edges[-1] - 1), edges)[0]
    bins = []
    for number, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        label = f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}"
        is_longer = low > block_size
        if number == len(counts) - 1 and lengths.max() >= high:
            label = f"from {low:,}"
        elif number == 0 and lengths.min() < low:
            label, is_longer = f"under {high:,}", bool(lengths.min() > block_size)
        bins.append(Bin(label, float(counts[number] / len(lengths)), is_longer))
    longer = float((lengths > block_size).mean())
    return Histogram(bins, longer, len(lengths) < documents)


def choose_edges(lengths: np.ndarray) -> list[int]:
    """Return round edges of bins: in equal steps if lengths are alike, else in equal factors."""
    low = int(np.quantile(lengths, INSIDE[0], method="lower"))
    high = int(np.quantile(lengths, INSIDE[1], method="higher"))
    if high <= 8 * max(1, low):
        steps = (factor * 10**power for power in range(18) for factor in (1, 2, 5))
        step = next(step for step in steps if high // step - low // step < MOST_BINS)
        return list(range(low // step * step, high + step + 1, step))[: MOST_BINS + 1]
    low, high = (max(0, bound.bit_length() - 1) for bound in (low, high))  # as powers of two
    factor = next(n for n in range(1, 64) if high // n - low // n < MOST_BINS)
    return [2 ** (factor * power) for power in range(low // factor, high // factor + 2)]
