"""The token stream of a split: made once, kept on disk, read by memory map."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from lmft.blocks.tokenize import tokenize
from lmft.cache import make_once
from lmft.dataset import Split
from lmft.dataset.documents import Piece
from lmft.errors import UserError
from lmft.identity import digest
from lmft.tokenizer import find_separator, tokenizer_digest

FORMAT = 2  # of the files below; raised with each change of what they hold


@dataclass(frozen=True)
class TokenStream:
    """All tokens of a split, its documents one after another."""

    ids: np.ndarray  # (N,) uint16 or uint32, memory-mapped
    ends: np.ndarray  # (D,) int64: tokens up to each document's end, its separator included
    bytes: np.ndarray  # (D,) int64: UTF-8 bytes of each document, separators not counted
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
    make_once(folder, lambda place: _write(split, tokenizer, separator, place))
    about = json.loads((folder / "about.json").read_text())
    return TokenStream(
        ids=np.memmap(folder / "ids.bin", dtype=about["dtype"], mode="r"),
        ends=np.fromfile(folder / "ends.bin", dtype=np.int64),
        bytes=np.fromfile(folder / "bytes.bin", dtype=np.int64),
        digest=key,
    )


def _write(split: Split, tokenizer: PreTrainedTokenizerBase, separator: str, folder: Path) -> None:
    """Fill `folder` with a stream."""
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    found = find_separator(separator, tokenizer)
    sizes: list[int] = []
    ends: list[int] = []
    written = 0
    with (folder / "ids.bin").open("wb") as file:
        for part in tokenize(_measured(split.pieces(), sizes), tokenizer, found):
            file.write(part.ids.astype(dtype).tobytes())  # tofile keeps to itself what failed
            ends += [written + end for end in part.ends]
            written += len(part.ids)
    if written == 0:
        raise UserError(f"dataset.{split.name} ({split.where!r}) has no text; choose other files.")
    places = np.array(ends, dtype=np.int64)
    places[:-1] += len(found.between)  # the token between two documents ends the first
    (folder / "ends.bin").write_bytes(places.tobytes())
    (folder / "bytes.bin").write_bytes(np.array(sizes, dtype=np.int64).tobytes())
    (folder / "about.json").write_text(
        json.dumps({"dtype": dtype.name, "tokens": written, "documents": len(ends)})
    )


def _measured(pieces: Iterator[Piece], sizes: list[int]) -> Iterator[Piece]:
    """The same pieces; the UTF-8 bytes of each document that goes by are added to `sizes`."""
    size = 0
    for text, ends in pieces:
        size += len(text.encode())
        if ends:
            sizes.append(size)
            size = 0
        yield text, ends
