"""The token stream of a split: made once, kept on disk, read by memory map."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmft.dataset.documents import Piece
from lmft.dataset.splits import Split
from lmft.dataset.tokenization import tokenize
from lmft.dataset.tokenizer import find_separator, tokenizer_digest
from lmft.errors import UserError
from lmft.storage.cache import build_once
from lmft.storage.hashing import digest

FORMAT = 2  # of the files below; raised with each change of what they hold


@dataclass(frozen=True)
class TokenStream:
    """All tokens of a split, its documents one after another."""

    ids: np.ndarray  # (N,) uint16 or uint32, memory-mapped
    ends: np.ndarray  # (D,) int64, mapped: tokens up to each document's end, with its separator
    bytes: np.ndarray  # (D,) int64, mapped: UTF-8 bytes of each document, without separators
    digest: str  # of the corpus, its splitting into documents and the tokenizer


def open_stream(
    split: Split, tokenizer: PreTrainedTokenizerBase, separator: str, cache_root: Path
) -> TokenStream:
    """The split's tokens from the cache, made first where it lacks them.

    The cache's key is a hash of everything that decides the tokens.

    Raises:
        UserError: the corpus is empty, or can't be read.
    """
    key = digest([split.digest(), tokenizer_digest(tokenizer), separator, FORMAT])
    folder = cache_root / "tokens" / key[:32]
    build_once(folder, lambda place: _write(split, tokenizer, separator, place))
    about = json.loads((folder / "about.json").read_text())
    return TokenStream(
        ids=np.memmap(folder / "ids.bin", dtype=about["dtype"], mode="r"),
        ends=np.memmap(folder / "ends.bin", dtype=np.int64, mode="r"),
        bytes=np.memmap(folder / "bytes.bin", dtype=np.int64, mode="r"),
        digest=key,
    )


def _write(split: Split, tokenizer: PreTrainedTokenizerBase, separator: str, folder: Path) -> None:
    """Fill `folder` with a stream; memory does not grow with its length."""
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    found = find_separator(separator, tokenizer)
    written = documents = 0
    last = np.array([], dtype=np.int64)  # where the last document ends; no token follows it yet
    with (
        (folder / "ids.bin").open("wb") as ids,
        (folder / "ends.bin").open("wb") as ends,
        (folder / "bytes.bin").open("wb") as sizes,
    ):
        for part in tokenize(_measured(split.pieces(), sizes), tokenizer, found):
            ids.write(part.ids.astype(dtype).tobytes())  # tofile keeps to itself what failed
            places = np.concatenate([last, written + np.array(part.ends, dtype=np.int64)])
            # The token between two documents ends the first.
            ends.write((places[:-1] + len(found.between)).tobytes())
            last = places[-1:]
            written += len(part.ids)
            documents += len(part.ends)
        ends.write(last.tobytes())
    if written == 0:
        raise UserError(f"dataset.{split.name} ({split.where!r}) has no text; choose other files.")
    (folder / "about.json").write_text(
        json.dumps({"dtype": dtype.name, "tokens": written, "documents": documents})
    )


def _measured(pieces: Iterator[Piece], sizes: IO[bytes]) -> Iterator[Piece]:
    """The same pieces; the UTF-8 bytes of each document that goes by are written to `sizes`."""
    size = 0
    for text, ends in pieces:
        size += len(text.encode())
        if ends:
            sizes.write(size.to_bytes(8, sys.byteorder))
            size = 0
        yield text, ends


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
