"""A few blocks as the model will see them: decoded, with what is learnt set apart."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from lmft.dataset.batches import Batches
from lmft.objective import IGNORED, Batch
from lmft.output.terminal import counted

EXCERPTS = 3
BEFORE = 8  # tokens that are decoded before a span: they decide its spaces, or begin its character
MOST_REPEATED = 3  # equal special tokens in a row that are written out; padding has hundreds

# Line ends and tabs; spaces of which there are several, or that would not be seen at an end.
WHITESPACE = re.compile(r"\n|\t| {2,}|^ | \Z| (?=\n)|(?<=\n) ")


@dataclass(frozen=True)
class Span:
    """Neighboring tokens that are alike."""

    text: str  # that the model sees
    is_learnt: bool = False
    is_special: bool = False
    target: str = ""  # what is to be predicted, if the model sees something else

    def parts(self, line_end: str, tab: str, space: str) -> Iterator[tuple[str, bool]]:
        """Yield the text, then an arrow and the target if there is one, in parts.

        Args:
            line_end: shows a line end.
            tab: shows a tab.
            space: shows a space where it would not be seen.

        Yields:
            A part, and whether it is no text that the model sees: a mark, or the target.
        """
        marks = {"\n": line_end, "\t": tab}
        end = 0
        for match in WHITESPACE.finditer(self.text):
            if match.start() > end:
                yield self.text[end : match.start()], False
            yield marks.get(match[0], space * len(match[0])), True
            if match[0] == "\n":
                yield "\n", False
            end = match.end()
        if end < len(self.text):
            yield self.text[end:], False
        if self.target:
            shown = WHITESPACE.sub(lambda m: marks.get(m[0], space * len(m[0])), self.target)
            yield f"→{shown}", True


@dataclass(frozen=True)
class Excerpt:
    """A block, or the part of a long one that is shown."""

    title: str
    spans: list[Span]
    before: int  # tokens of the block that are not shown
    after: int
    is_marked: bool  # whether learnt tokens are to be set apart, as others are not learnt


def read_excerpts(batches: Batches, seed: int, shuffle: bool, most: int) -> list[Excerpt]:
    """Return the blocks that a model reads first.

    Args:
        batches: of a split.
        seed: of the order and the masks.
        shuffle: whether blocks are drawn in a new order in each epoch.
        most: tokens of a block to show, at most.
    """
    numbers = iter(batches.block_numbers(EXCERPTS, seed, shuffle, 0))
    return [
        read_excerpt(next(numbers), inputs, targets, batches, most)
        for part in next(batches.training(EXCERPTS, seed, shuffle))
        for inputs, targets in zip(*as_arrays(part, batches.objective.target_shift), strict=True)
    ]


def as_arrays(batch: Batch, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets (B, T), each target at the place of the token that it is."""
    inputs, targets = batch.inputs.numpy(), np.full(batch.inputs.shape, IGNORED)
    length = inputs.shape[1]
    targets[:, shift:] = batch.targets.numpy()[:, : length - shift]
    return inputs, targets


def read_excerpt(
    number: int, inputs: np.ndarray, targets: np.ndarray, batches: Batches, most: int
) -> Excerpt:
    """Return block `number` with inputs and targets (T,)."""
    learnt = targets != IGNORED
    is_marked = not learnt[batches.objective.target_shift :].all()
    start = find_start(learnt, most)
    shown = slice(start, start + most)
    return Excerpt(
        f"block {number:,}: {counted(len(inputs), 'token')}"
        + (f", {learnt.sum():,} of them learnt" if is_marked else ""),
        list(read_spans(inputs[shown], targets[shown], batches.tokenizer)),
        start,
        max(0, len(inputs) - start - most),
        is_marked,
    )


def find_start(learnt: np.ndarray, most: int) -> int:
    """Return where to begin, so that learnt tokens are among the `most` that are shown."""
    first = int(learnt.argmax())
    return 0 if first < most else min(first - most // 4, len(learnt) - most)


def read_spans(
    ids: np.ndarray, targets: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Span]:
    """Yield spans of tokens (T,) of which all, or none, are learnt, special or another target."""
    special = np.isin(ids, list(special_ids(tokenizer)))
    learnt = targets != IGNORED
    changed = learnt & (targets != ids)
    # Each special or changed token has a kind of its own, but for repetitions of the first.
    kinds = np.stack(
        [learnt, np.where(special, ids, -1), np.where(changed, np.arange(len(ids)), -1)]
    )
    borders = [0, *(np.flatnonzero((kinds[:, 1:] != kinds[:, :-1]).any(axis=0)) + 1), len(ids)]
    texts = decode_between(ids, [int(border) for border in borders], tokenizer)
    for (start, end), text in zip(pairwise(borders), texts, strict=True):
        if special[start] and end - start > MOST_REPEATED:
            text = f"{tokenizer.decode(ids[start : start + 1])} × {end - start:,}"
        target = decode(targets[start:end], tokenizer) if changed[start] else ""
        if text or target:
            yield Span(text, bool(learnt[start]), bool(special[start]), target)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of special tokens, also of those without a role."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(number for number, token in added if token.special)}


def decode_between(
    ids: np.ndarray, borders: list[int], tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Return the text between each two borders; of a character in two parts, the later has it."""
    texts: list[str] = []
    for start, end in pairwise(borders):
        first = max(0, start - BEFORE)
        before, whole = decode(ids[first:start], tokenizer), decode(ids[first:end], tokenizer)
        same = len(os.path.commonprefix([before, whole]))
        incomplete = len(before) - same  # of a character, in texts before
        number = len(texts)
        while incomplete and number:
            number -= 1
            kept = max(0, len(texts[number]) - incomplete)
            incomplete -= len(texts[number]) - kept
            texts[number] = texts[number][:kept]
        texts.append(whole[same:])
    return texts


def decode(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of ids (T,), with special tokens."""
    return str(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))
