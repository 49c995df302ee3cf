"""Batches of blocks; order and masks are a function of (seed, epoch, block) alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmft.dataset.document_blocks import DocumentBlocks
from lmft.dataset.token_stream import Blocks
from lmft.objective import Batch, Objective

SHUFFLE = 2**64 - 1  # in place of a block number: the generator that shuffles an epoch


def block_rng(seed: int, epoch: int, block: int) -> np.random.Generator:
    """Return the random generator of one block in one epoch (1 is the first).

    It is counter-based (Philox, Salmon et al. 2011), so a resumed run needs no saved state.
    """
    counter = np.array([0, 0, epoch, block], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


@dataclass(frozen=True)
class Batches:
    """The blocks of one split, turned into inputs and targets by an objective."""

    blocks: Blocks | DocumentBlocks
    objective: Objective
    tokenizer: PreTrainedTokenizerBase

    def __len__(self) -> int:
        """Number of blocks with a target: in clm a last block of one token has none."""
        return len(self.numbers)

    @cached_property
    def numbers(self) -> np.ndarray:
        """The numbers of the blocks with a target, ascending; (len(self),) int64."""
        return self.blocks.with_targets(self.objective.target_shift)

    @property
    def are_apart(self) -> bool:
        """Whether some tokens of a block do not see others of it: documents, or padding."""
        return self.blocks.read_positions(self.numbers[:1], self.objective.is_causal) is not None

    def steps_per_epoch(self, size: int) -> int:
        """Return the number of batches of `size` blocks in an epoch; the last may be smaller."""
        return -(-len(self) // size)

    def training(
        self, size: int, seed: int, shuffle: bool, start: int = 0
    ) -> Iterator[list[Batch]]:
        """Yield batches of `size` blocks without end, each block once per epoch.

        A batch is a list of parts, one for each length among its blocks.

        Args:
            size: blocks per batch.
            seed: of the order and the masks.
            shuffle: draw a new order in each epoch; otherwise keep the order of the corpus.
            start: number of the first batch, from 0, to resume a run.
        """
        position = start
        while True:
            epoch, first = divmod(position, self.steps_per_epoch(size))
            order = self._order(seed, epoch + 1, shuffle)
            for number in range(first, self.steps_per_epoch(size)):
                yield self._parts(order[number * size : (number + 1) * size], seed, epoch + 1)
                position += 1

    def block_numbers(self, size: int, seed: int, shuffle: bool, position: int) -> list[int]:
        """Return the block numbers of batch `position` (from 0), in the order of its parts."""
        epoch, number = divmod(position, self.steps_per_epoch(size))
        order = self._order(seed, epoch + 1, shuffle)[number * size : (number + 1) * size]
        return [int(block) for group in self._by_length(order) for block in group]

    def _order(self, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
        if not shuffle:
            return self.numbers
        order = np.argsort(block_rng(seed, epoch, SHUFFLE).random(len(self)), kind="stable")
        return self.numbers[order]

    def _parts(self, numbers: np.ndarray, seed: int, epoch: int) -> list[Batch]:
        return [self._part(group, seed, epoch) for group in self._by_length(numbers)]

    def _by_length(self, numbers: np.ndarray) -> list[np.ndarray]:
        short = np.array([self.blocks.length(int(n)) < self.blocks.size for n in numbers])
        return [group for group in (numbers[~short], numbers[short]) if len(group)]

    def _part(self, numbers: np.ndarray, seed: int, epoch: int) -> Batch:
        rngs = [block_rng(seed, epoch, int(number)) for number in numbers]
        learnt = self.blocks.read_learnt(numbers)
        positions = self.blocks.read_positions(numbers, self.objective.is_causal)
        if positions is not None and learnt is not None:  # the first one is predicted from nothing
            learnt &= positions >= self.objective.target_shift
        return replace(self.batch_of(self.blocks.read(numbers), rngs, learnt), positions=positions)

    def batch_of(
        self, blocks: Tensor, rngs: list[np.random.Generator], learnt: Tensor | None
    ) -> Batch:
        """Return inputs and targets of blocks (B, T); `learnt` (B, T): what may be targets."""
        # An objective of before `learnt` existed still works on text.
        bits = {} if learnt is None else {"learnt": learnt}
        return self.objective.batch(blocks, self.tokenizer, rngs, **bits)
