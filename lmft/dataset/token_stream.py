"""The token stream of a split: tokenized once, cached on disk, read through a memory map."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmft.dataset.splits import Split
from lmft.dataset.text_counts import CountedPieces, TextCounts
from lmft.dataset.tokenization import tokenize
from lmft.dataset.tokenizer import Separator, find_separator, tokenizer_digest
from lmft.errors import UserError
from lmft.storage.cache import build_once
from lmft.storage.hashing import digest

FORMAT = 2  # version of the tokens; raise it if the same text becomes other tokens
LAYOUT = 2  # version of the cached files; raise it if they hold something else


@dataclass(frozen=True)
class TokenStream:
    """All tokens of a split: its documents in order, with separators between them."""

    ids: np.ndarray  # (N,) uint16 or uint32, memory-mapped
    ends: np.ndarray  # (D,) int64, mapped: tokens up to each document's end, with its separator
    digest: str  # of everything that decides the tokens
    counts: TextCounts = TextCounts()  # of the text


def open_stream(
    split: Split, tokenizer: PreTrainedTokenizerBase, separator: str, cache_root: Path
) -> TokenStream:
    """Return the token stream of a split; tokenize it first if the cache does not have it.

    The cache key is a hash of everything that decides the tokens.

    Args:
        split: its documents.
        tokenizer: turns text into ids.
        separator: the value of dataset.separator.
        cache_root: the folder of the cache.

    Raises:
        UserError: the corpus is empty or can't be read.
    """
    key = digest([split.digest(), tokenizer_digest(tokenizer), separator, FORMAT])
    folder = cache_root / "tokens" / digest([key, LAYOUT])[:32]
    build_once(folder, lambda temporary: _write(split, tokenizer, separator, temporary))
    about = json.loads((folder / "about.json").read_text())
    return TokenStream(
        ids=np.memmap(folder / "ids.bin", dtype=about["dtype"], mode="r"),
        ends=np.memmap(folder / "ends.bin", dtype=np.int64, mode="r"),
        digest=key,
        counts=TextCounts(**{**about["text"], "files": split.files()}),
    )


def check_has_text(split: Split, stream: TokenStream, separator: Separator) -> None:
    """Check that a split has tokens of text, not only the separators of empty documents.

    Raises:
        UserError: all its documents are empty, or the tokenizer reads nothing in them.
    """
    documents = stream.counts.documents
    separators = documents * len(separator.before + separator.after)
    separators += (documents - 1) * len(separator.between)
    if stream.counts.bytes == 0 or len(stream.ids) == separators:
        raise UserError(
            f"dataset.{split.name} ({split.where!r}) has no text ({documents:,} empty or null); "
            "choose other files, or set dataset.text_column to another column."
        )


def _write(split: Split, tokenizer: PreTrainedTokenizerBase, separator: str, folder: Path) -> None:
    """Write the files of a token stream into `folder`, in constant memory."""
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    resolved = find_separator(separator, tokenizer)
    pieces, written = CountedPieces(split.pieces()), 0
    last = np.array([], dtype=np.int64)  # end of the newest document, while no token follows it
    with (folder / "ids.bin").open("wb") as ids, (folder / "ends.bin").open("wb") as ends:
        for part in tokenize(iter(pieces), tokenizer, resolved):
            ids.write(part.ids.astype(dtype).tobytes())  # tofile hides the errno of a failed write
            positions = np.concatenate([last, written + np.array(part.ends, dtype=np.int64)])
            # The separator between two documents belongs to the first.
            ends.write((positions[:-1] + len(resolved.between)).tobytes())
            last = positions[-1:]
            written += len(part.ids)
        ends.write(last.tobytes())
    if written == 0:
        raise UserError(f"dataset.{split.name} ({split.where!r}) has no text; choose other files.")
    about = {"dtype": dtype.name, "tokens": written, "text": asdict(pieces.counts)}
    (folder / "about.json").write_text(json.dumps(about))


@dataclass(frozen=True)
class Blocks:
    """A stream cut into blocks of `size` tokens; the last is short, so that no token is lost."""

    stream: TokenStream
    size: int  # tokens a block

    def __len__(self) -> int:
        return -(-len(self.stream.ids) // self.size)

    def length(self, number: int) -> int:
        """Return the number of tokens of block `number`."""
        return min(self.size, len(self.stream.ids) - number * self.size)

    def read(self, numbers: np.ndarray) -> Tensor:
        """Return blocks of equal length T as token ids (len(numbers), T)."""
        return read_windows(self.stream, numbers * self.size, self.size)


def read_windows(stream: TokenStream, starts: np.ndarray, size: int) -> Tensor:
    """Return `size` tokens from each of `starts` on, (len(starts), T); T is smaller at the end."""
    windows = [stream.ids[start : start + size] for start in starts]
    return torch.from_numpy(np.stack(windows).astype(np.int64))
