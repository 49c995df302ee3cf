"""Blocks of documents: packed whole, or cut from the stream where a block is full."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmft.config.dataset_knobs import Attention, DatasetConfig, LongDocuments, Packing
from lmft.dataset.block_rule import BlockRule, find_rule
from lmft.dataset.packing import pack
from lmft.dataset.split import Split
from lmft.dataset.token_stream import Blocks, TokenStream
from lmft.output.terminal import counted

AT_ONCE = 1 << 22  # tokens whose learnt bits are read at once
IN_WORDS = {
    LongDocuments.split: "split",
    LongDocuments.truncate: "truncated",
    LongDocuments.drop: "dropped",
}


@dataclass(frozen=True)
class DocumentBlocks:
    """Blocks of `size` tokens that know of documents; what is left of a block is padded.

    A piece is a document, or what a block has of it.
    """

    stream: TokenStream
    size: int  # tokens a block
    rule: BlockRule
    padding: int  # a token id
    starts: np.ndarray  # (P,) int64 of the pieces in the stream, block by block
    ends: np.ndarray  # (P,) int64
    firsts: np.ndarray  # (B + 1,) int64, the first piece of each block, and P
    long: int = 0  # documents that are longer than a block
    unlearnt: int = 0  # of them, those left without a learnt token

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def length(self, number: int) -> int:
        """Return the number of tokens of block `number`, with its padding."""
        return self.size

    @property
    def fill(self) -> float:
        """The share of blocks that is no padding."""
        return float((self.ends - self.starts).sum() / (len(self) * self.size))

    def describe(self) -> str:
        """Return the number of blocks, and what became of long documents."""
        text = f"{counted(len(self), 'block')}, {self.fill:.1%} full"
        if self.long and self.rule.packing is Packing.documents:
            text += f", {counted(self.long, 'longer document')} {IN_WORDS[self.rule.long]}"
        return text + (f", {self.unlearnt:,} without a learnt token" if self.unlearnt else "")

    def read(self, numbers: np.ndarray) -> Tensor:
        """Return blocks as token ids (len(numbers), T)."""
        rows = np.full((len(numbers), self.size), self.padding, dtype=np.int64)
        for row, number in zip(rows, numbers, strict=True):
            for start, end, place in self._pieces(number):
                row[place : place + end - start] = self.stream.ids[start:end]
        return torch.from_numpy(rows)

    def read_learnt(self, numbers: np.ndarray) -> Tensor:
        """Return which tokens of blocks may be targets, (len(numbers), T) bool."""
        rows = np.zeros((len(numbers), self.size), dtype=bool)
        for row, number in zip(rows, numbers, strict=True):
            for start, end, place in self._pieces(number):
                row[place : place + end - start] = self.stream.read_learnt(start, end)
        return torch.from_numpy(rows)

    def read_positions(self, numbers: np.ndarray, causal: bool) -> Tensor | None:
        """Return the position of each token among those that it sees, (len(numbers), T).

        None: it sees its whole block. Padding is seen by no other token; of a causal model it
        stands after them all.
        """
        alone = self.rule.attention is Attention.document
        if not alone and causal:
            return None
        rows = np.tile(np.arange(self.size), (len(numbers), 1))
        for row, number in zip(rows, numbers, strict=True):
            used = 0
            for start, end, place in self._pieces(number):
                used = place + end - start
                if alone:
                    row[place:used] -= place
            row[used:] -= used
        return torch.from_numpy(rows)

    def _pieces(self, number: int) -> list[tuple[int, int, int]]:
        """Return start and end of each piece of a block, and its place in the block."""
        pieces = slice(self.firsts[number], self.firsts[number + 1])
        starts, ends = self.starts[pieces], self.ends[pieces]
        places = np.cumsum(ends - starts) - (ends - starts)
        return list(zip(starts.tolist(), ends.tolist(), places.tolist(), strict=True))

    def with_targets(self, shift: int) -> np.ndarray:
        """Return the numbers of the blocks with a target, ascending.

        Args:
            shift: of the objective: the first tokens that see nothing before them are no targets.
        """
        skipped = np.full(len(self.starts), shift)
        if self.rule.attention is Attention.block:
            skipped[:] = 0
            skipped[self.firsts[:-1]] = shift
        learnt = count_learnt(self.stream, self.starts + skipped, self.ends) > 0
        return np.flatnonzero(np.logical_or.reduceat(learnt, self.firsts[:-1]))


def count_learnt(stream: TokenStream, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the number of learnt tokens from each start to its end; (P,) int64."""
    if stream.learnt is None:
        return np.asarray(ends - starts)
    counts = np.zeros(len(starts), dtype=np.int64)
    order = np.argsort(ends, kind="stable")
    for first in range(0, len(stream.ids), AT_ONCE):
        last = min(first + AT_ONCE, len(stream.ids))
        learnt = np.concatenate([[0], np.cumsum(stream.read_learnt(first, last))])
        low, high = np.searchsorted(ends[order], first), np.searchsorted(starts[order], last)
        some = order[low:high]  # pieces do not overlap, so their starts ascend as well
        until, since = (np.clip(edges[some], first, last) - first for edges in (ends, starts))
        counts[some] += learnt[until] - learnt[since]
    return counts


def cut_blocks(
    config: DatasetConfig, split: Split, stream: TokenStream, tokenizer: PreTrainedTokenizerBase
) -> Blocks | DocumentBlocks:
    """Return the blocks of a split, as its packing and its attention say."""
    rule = find_rule(vars(config), split)
    if not rule.of_documents:
        return Blocks(stream, config.block_size)
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    padding = next(token for token in ids if token is not None)
    return cut_documents(stream, config.block_size, rule, padding)


def cut_documents(stream: TokenStream, size: int, rule: BlockRule, padding: int) -> DocumentBlocks:
    """Return the blocks of a stream whose documents are packed whole, or cut with the stream."""
    ends = np.unique(np.asarray(stream.ends))  # of documents that are not empty
    ends = ends[ends > 0]
    if rule.packing is Packing.stream:
        ends = np.unique(np.concatenate([ends, np.arange(size, ends[-1], size)]))
        starts = np.concatenate([[0], ends[:-1]])
        blocks = starts // size
        return _arrange(stream, size, rule, padding, starts, ends, blocks)
    starts = np.concatenate([[0], ends[:-1]])
    is_long, unlearnt = ends - starts > size, 0
    long = int(is_long.sum())
    if rule.long is LongDocuments.split:
        both = zip(starts[is_long], ends[is_long], strict=True)
        cuts = [np.arange(start + size, end, size) for start, end in both]
        ends = np.sort(np.concatenate([ends, *cuts]))
        starts = np.concatenate([[0], ends[:-1]])
    elif rule.long is LongDocuments.truncate:
        whole = count_learnt(stream, starts, ends)
        ends = np.minimum(ends, starts + size)
        unlearnt = int(((whole > 0) & (count_learnt(stream, starts, ends) == 0)).sum())
    else:
        starts, ends = starts[~is_long], ends[~is_long]
    blocks = pack(ends - starts, size)
    return _arrange(stream, size, rule, padding, starts, ends, blocks, long, unlearnt)


def _arrange(
    stream: TokenStream,
    size: int,
    rule: BlockRule,
    padding: int,
    starts: np.ndarray,
    ends: np.ndarray,
    blocks: np.ndarray,  # (P,) int64, the block of each piece
    long: int = 0,
    unlearnt: int = 0,
) -> DocumentBlocks:
    order = np.argsort(blocks, kind="stable")
    count = int(blocks.max()) + 1 if len(blocks) else 0
    firsts = np.searchsorted(blocks[order], np.arange(count + 1))
    return DocumentBlocks(
        stream, size, rule, padding, starts[order], ends[order], firsts, long, unlearnt
    )
