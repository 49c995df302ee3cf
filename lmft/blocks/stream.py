"""The token stream of a split: made once, kept on disk, read by memory map."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from lmft.blocks.tokenize import tokenize
from lmft.dataset import Split
from lmft.dataset.documents import Piece
from lmft.errors import UserError
from lmft.identity import digest
from lmft.tokenizer import find_separator, tokenizer_digest

FORMAT = 1  # of the files below; raised with each change of what they hold


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

    The cache's key is a hash of everything that decides the tokens. Of several processes that
    need the same stream at once, one makes it while the others wait.

    Raises:
        UserError: the corpus is empty, or can't be read.
    """
    key = digest([split.digest(), tokenizer_digest(tokenizer), separator, FORMAT])
    folder = cache_root / "tokens" / key[:32]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                _write(split, tokenizer, separator, folder)
    about = json.loads((folder / "about.json").read_text())
    return TokenStream(
        ids=np.memmap(folder / "ids.bin", dtype=about["dtype"], mode="r"),
        ends=np.fromfile(folder / "ends.bin", dtype=np.int64),
        bytes=np.fromfile(folder / "bytes.bin", dtype=np.int64),
        digest=key,
    )


def _write(split: Split, tokenizer: PreTrainedTokenizerBase, separator: str, folder: Path) -> None:
    """Write a stream under a temporary name, and rename it once it is whole."""
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    found = find_separator(separator, tokenizer)
    sizes: list[int] = []
    ends: list[int] = []
    written = 0
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with (temporary / "ids.bin").open("wb") as file:
            for part in tokenize(_measured(split.pieces(), sizes), tokenizer, found):
                part.ids.astype(dtype).tofile(file)
                ends += [written + end for end in part.ends]
                written += len(part.ids)
            os.fsync(file.fileno())
        if written == 0:
            raise UserError(
                f"dataset.{split.name} ({split.where!r}) has no text; choose other files."
            )
        places = np.array(ends, dtype=np.int64)
        places[:-1] += len(found.between)  # the token between two documents ends the first
        places.tofile(temporary / "ends.bin")
        np.array(sizes, dtype=np.int64).tofile(temporary / "bytes.bin")
        (temporary / "about.json").write_text(
            json.dumps({"dtype": dtype.name, "tokens": written, "documents": len(ends)})
        )
        temporary.chmod(0o755)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _measured(pieces: Iterator[Piece], sizes: list[int]) -> Iterator[Piece]:
    """The same pieces; the UTF-8 bytes of each document that goes by are added to `sizes`."""
    size = 0
    for text, ends in pieces:
        size += len(text.encode())
        if ends:
            sizes.append(size)
            size = 0
        yield text, ends
