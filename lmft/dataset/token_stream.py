"""The token stream of a split: tokenized once, cached on disk, read through a memory map."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmft.dataset.conversations import Chat
from lmft.dataset.examples import (
    find_end_tokens,
    find_template,
    render_documents,
    tokenize_examples,
)
from lmft.dataset.split import Split
from lmft.dataset.text_counts import TextCounter, TextCounts, are_among
from lmft.dataset.tokenization import StreamPart, tokenize
from lmft.dataset.tokenizer import Separator, find_separator, tokenizer_digest
from lmft.errors import UserError
from lmft.storage.cache import build_once
from lmft.storage.hashing import digest

FORMAT = 2  # version of the tokens; raise it if the same text becomes other tokens
AT_ONCE = 1 << 12  # blocks whose learnt tokens are read at once
LEARNT = "learnt.bin"  # only where not all tokens are targets
LAYOUT = 3  # version of the cached files; raise it if they hold something else


@dataclass(frozen=True)
class TokenStream:
    """All tokens of a split: its documents in order, with separators between them."""

    ids: np.ndarray  # (N,) uint16 or uint32, memory-mapped
    ends: np.ndarray  # (D,) int64, mapped: tokens up to each document's end, with its separator
    digest: str  # of everything that decides the tokens
    counts: TextCounts = TextCounts()  # of the text
    learnt: np.ndarray | None = None  # uint8, mapped: a bit of each token, whether it is a target
    hashes: np.ndarray | None = None  # (D,) uint64, mapped: of the text of each document

    def read_learnt(self, start: int, stop: int) -> np.ndarray:
        """Return which tokens from `start` to `stop` may be targets: (stop - start,) bool."""
        stop = min(stop, len(self.ids))
        if self.learnt is None:
            return np.ones(stop - start, dtype=bool)
        first = start // 8
        bits = np.unpackbits(self.learnt[first : -(-stop // 8)])
        return bits[start - 8 * first : stop - 8 * first].astype(bool)

    def counts_beside(self, training: "TokenStream | None") -> TextCounts:
        """Return the counts of another split than training: what is in training, no duplicates."""
        if training is None or training.hashes is None or self.hashes is None:
            return replace(self.counts, duplicates=0)
        in_training = int(are_among(self.hashes, training.hashes).sum())
        return replace(self.counts, duplicates=0, in_training=in_training)


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
    examples = _describe_examples(split, tokenizer)
    key = digest([split.digest(), tokenizer_digest(tokenizer), separator, FORMAT, *examples])
    folder = cache_root / "tokens" / digest([key, LAYOUT])[:32]
    build_once(folder, lambda temporary: _write(split, tokenizer, separator, temporary))
    about = json.loads((folder / "about.json").read_text())
    bits = folder / LEARNT
    return TokenStream(
        ids=np.memmap(folder / "ids.bin", dtype=about["dtype"], mode="r"),
        ends=np.memmap(folder / "ends.bin", dtype=np.int64, mode="r"),
        digest=key,
        counts=TextCounts(**{**about["text"], "files": split.files(), "taken": split.taken}),
        learnt=np.memmap(bits, dtype=np.uint8, mode="r") if bits.exists() else None,
        hashes=np.memmap(folder / "hashes.bin", dtype=np.uint64, mode="r"),
    )


def _describe_examples(split: Split, tokenizer: PreTrainedTokenizerBase) -> list[str | None]:
    """Return what decides the tokens of completions and chats beside the split's digest."""
    learn = split.learn
    if not split.has_examples:
        return []
    return [learn.value, template_digest(split, tokenizer)]


def template_digest(split: Split, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a hash of the template that renders the chats of a split; None if it has none."""
    template = find_template(split, tokenizer, Chat) if split.has_chats else None
    return None if template is None else digest(template.text)


def check_has_text(split: Split, stream: TokenStream, separator: Separator) -> None:
    """Check that a split has tokens of text, not only the separators of empty documents.

    Raises:
        UserError: all its documents are empty, or the tokenizer reads nothing in them.
    """
    documents = stream.counts.documents
    if stream.counts.learnt == 0:
        raise UserError(
            f"dataset.{split.name} ({split.where!r}) has nothing to learn in {documents:,} "
            "documents; add messages of the assistant, or set dataset.learn=all."
        )
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
    resolved, counter = find_separator(separator, tokenizer), TextCounter()
    written, unlearnt = 0, 0
    last = np.array([], dtype=np.int64)  # end of the newest document, while no token follows it
    between = 0 if split.has_examples else len(resolved.between)
    with (
        (folder / "ids.bin").open("wb") as ids,
        (folder / "ends.bin").open("wb") as ends,
        (folder / LEARNT).open("wb") as bits,
    ):
        learnt = BitWriter(bits)
        for part in _tokenize(split, tokenizer, resolved, counter):
            ids.write(part.ids.astype(dtype).tobytes())  # tofile hides the errno of a failed write
            positions = np.concatenate([last, written + np.array(part.ends, dtype=np.int64)])
            # The separator between two documents belongs to the first.
            ends.write((positions[:-1] + between).tobytes())
            last = positions[-1:]
            written += len(part.ids)
            unlearnt += part.unlearnt
            if part.learnt is not None:
                learnt.write(part.learnt)
        ends.write(last.tobytes())
        learnt.finish()
    if written == 0:
        raise UserError(f"dataset.{split.name} ({split.where!r}) has no text; choose other files.")
    (folder / "hashes.bin").write_bytes(counter.hashes.tobytes())
    counts = replace(counter.counts, left_out=split.left_out())
    if learnt.ones == learnt.written:  # of text, none is written
        (folder / LEARNT).unlink()
    else:
        share = learnt.ones / learnt.written
        counts = replace(counts, learnt=share, unlearnt=unlearnt)
    about = {"dtype": dtype.name, "tokens": written, "text": asdict(counts)}
    (folder / "about.json").write_text(json.dumps(about))


def _tokenize(
    split: Split, tokenizer: PreTrainedTokenizerBase, separator: Separator, counter: TextCounter
) -> Iterator[StreamPart]:
    if not split.has_examples:
        return tokenize(counter.pieces(split.pieces()), tokenizer, separator)
    documents = counter.rendered(render_documents(split, tokenizer))
    return tokenize_examples(documents, tokenizer, find_end_tokens(separator, tokenizer))


class BitWriter:
    """Writes truth values to a file, eight in a byte."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._rest = np.zeros(0, dtype=bool)  # fewer than eight
        self.written = self.ones = 0

    def write(self, values: np.ndarray) -> None:
        """Write values (n,) bool after those before."""
        self.written += len(values)
        self.ones += int(values.sum())
        values = np.concatenate([self._rest, values])
        whole = len(values) // 8 * 8
        self._file.write(np.packbits(values[:whole]).tobytes())
        self._rest = values[whole:]

    def finish(self) -> None:
        """Write the last values, padded with zeros to a byte."""
        self._file.write(np.packbits(self._rest).tobytes())


@dataclass(frozen=True)
class Blocks:
    """A stream cut into blocks of `size` tokens; the last is short, so that no token is lost."""

    stream: TokenStream
    size: int  # tokens a block

    def __len__(self) -> int:
        return -(-len(self.stream.ids) // self.size)

    @property
    def fill(self) -> float:
        """The share of the places in blocks that hold a token."""
        return len(self.stream.ids) / (len(self) * self.size)

    def length(self, number: int) -> int:
        """Return the number of tokens of block `number`."""
        return min(self.size, len(self.stream.ids) - number * self.size)

    def read(self, numbers: np.ndarray) -> Tensor:
        """Return blocks of equal length T as token ids (len(numbers), T)."""
        return read_windows(self.stream, numbers * self.size, self.size)

    def read_learnt(self, numbers: np.ndarray) -> Tensor | None:
        """Return which tokens of blocks may be targets, (len(numbers), T) bool; None: all."""
        if self.stream.learnt is None:
            return None
        starts = numbers * self.size
        rows = [self.stream.read_learnt(start, start + self.size) for start in starts]
        return torch.from_numpy(np.stack(rows))

    def read_positions(self, numbers: np.ndarray, causal: bool) -> None:
        """Return None: a token sees its whole block."""

    def with_targets(self, shift: int) -> np.ndarray:
        """Return the numbers of the blocks with a target, ascending.

        Args:
            shift: of the objective; the first tokens of a block are no targets.
        """
        numbers = np.arange(-(-(len(self.stream.ids) - shift) // self.size))
        if self.stream.learnt is None:
            return numbers
        found = [
            _rows(
                self.stream.read_learnt(first * self.size, (first + AT_ONCE) * self.size), self.size
            )[:, shift:]
            for first in range(0, len(numbers), AT_ONCE)
        ]
        return np.flatnonzero(np.concatenate([rows.any(axis=1) for rows in found])[: len(numbers)])


def _rows(bits: np.ndarray, size: int) -> np.ndarray:
    """Return truth values (n,) as rows of `size`; the last is padded with False."""
    return np.append(bits, np.zeros(-len(bits) % size, dtype=bool)).reshape(-1, size)


def read_windows(stream: TokenStream, starts: np.ndarray, size: int) -> Tensor:
    """Return `size` tokens from each of `starts` on, (len(starts), T); T is smaller at the end."""
    windows = [stream.ids[start : start + size] for start in starts]
    return torch.from_numpy(np.stack(windows).astype(np.int64))
