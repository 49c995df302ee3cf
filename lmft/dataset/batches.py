"""Which blocks meet in a batch, and with which dice: all a function of (seed, epoch, block)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from lmft.dataset.token_stream import Blocks
from lmft.objective import Batch, Objective

ORDER = 2**64 - 1  # in place of a block's number: the dice that shuffle an epoch


def block_rng(seed: int, epoch: int, block: int) -> np.random.Generator:
    """The randomness of one block in one epoch (from 1), from a counter: there is no state to keep.

    Philox is the counter-based generator of Salmon et al. 2011.
    """
    counter = np.array([0, 0, epoch, block], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


@dataclass(frozen=True)
class Batches:
    """The blocks of one split, and what the objective asks of them."""

    blocks: Blocks
    objective: Objective
    tokenizer: PreTrainedTokenizerBase

    def __len__(self) -> int:
        """The blocks in which something can be asked: a lone last token has no target in clm."""
        tokens = len(self.blocks.stream.ids)
        return -(-(tokens - self.objective.target_shift) // self.blocks.size)

    def steps_per_epoch(self, size: int) -> int:
        """Batches of `size` blocks in an epoch; the last may be smaller."""
        return -(-len(self) // size)

    def training(
        self, size: int, seed: int, shuffle: bool, start: int = 0
    ) -> Iterator[list[Batch]]:
        """Endless batches of `size` blocks, from batch number `start` on: each block once an epoch.

        A batch comes in parts, one for each length among its blocks.
        """
        position = start
        while True:
            epoch, first = divmod(position, self.steps_per_epoch(size))
            order = self._order(seed, epoch + 1, shuffle)
            for number in range(first, self.steps_per_epoch(size)):
                yield self._parts(order[number * size : (number + 1) * size], seed, epoch + 1)
                position += 1

    def block_numbers(self, size: int, seed: int, shuffle: bool, position: int) -> list[int]:
        """The blocks of batch number `position`, in the order of its parts."""
        epoch, number = divmod(position, self.steps_per_epoch(size))
        order = self._order(seed, epoch + 1, shuffle)[number * size : (number + 1) * size]
        return [int(block) for part in self._by_length(order) for block in part]

    def _order(self, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
        if not shuffle:
            return np.arange(len(self))
        return np.argsort(block_rng(seed, epoch, ORDER).random(len(self)), kind="stable")

    def _parts(self, numbers: np.ndarray, seed: int, epoch: int) -> list[Batch]:
        return [self._ask(part, seed, epoch) for part in self._by_length(numbers)]

    def _by_length(self, numbers: np.ndarray) -> list[np.ndarray]:
        short = np.array([self.blocks.length(int(n)) < self.blocks.size for n in numbers])
        return [part for part in (numbers[~short], numbers[short]) if len(part)]

    def _ask(self, numbers: np.ndarray, seed: int, epoch: int) -> Batch:
        dice = [block_rng(seed, epoch, int(number)) for number in numbers]
        return self.objective.batch(self.blocks.read(numbers), self.tokenizer, dice)
