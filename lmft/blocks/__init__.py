"""From documents to blocks of tokens, as views of one memory-mapped stream."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmft.blocks.stream import TokenStream, open_stream

__all__ = ["Blocks", "TokenStream", "open_stream", "read_windows"]


@dataclass(frozen=True)
class Blocks:
    """A stream cut into blocks of `size` tokens; the last one is short, so no token is dropped."""

    stream: TokenStream
    size: int  # tokens a block

    def __len__(self) -> int:
        return -(-len(self.stream.ids) // self.size)

    def length(self, number: int) -> int:
        """The tokens of block `number`."""
        return min(self.size, len(self.stream.ids) - number * self.size)

    def read(self, numbers: np.ndarray) -> Tensor:
        """Blocks of equal length, as token ids of shape (len(numbers), T)."""
        return read_windows(self.stream, numbers * self.size, self.size)


def read_windows(stream: TokenStream, starts: np.ndarray, size: int) -> Tensor:
    """The tokens from each of `starts` on, (len(starts), T); T is less than `size` at the end."""
    rows = [stream.ids[start : start + size] for start in starts]
    return torch.from_numpy(np.stack(rows).astype(np.int64))
