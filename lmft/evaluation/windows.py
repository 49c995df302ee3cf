"""Cut a token stream into the windows in which it is scored."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmft.config.dataset_knobs import LongDocuments
from lmft.config.training_knobs import EvaluationConfig, WindowRule
from lmft.dataset.batches import Batches
from lmft.dataset.packing import pack
from lmft.dataset.token_stream import Blocks, TokenStream
from lmft.dataset.tokenizer import unescape
from lmft.errors import UserError
from lmft.evaluation.window_cuts import cut_rolling, cut_strided
from lmft.objective import Objective


@dataclass(frozen=True)
class Windows:
    """The windows of a token stream: i is from starts[i] to ends[i], scored from scored[i] on.

    The last `before[i]` tokens of the prefix stand in front of window i; none of them is scored.
    """

    starts: np.ndarray  # (W,) int64, in tokens
    ends: np.ndarray  # (W,) int64
    scored: np.ndarray  # (W,) int64
    before: np.ndarray  # (W,) int64
    prefix: np.ndarray  # (P,) int64, token ids
    reads_last: bool = True  # whether the model also reads the last token of a window
    draw: int = 0  # the number of the fixed draw of masks (mlm)
    pseudo: bool = False  # hide every token once, alone, instead (mlm)
    rows: np.ndarray | None = None  # (W,) int64, of windows read in one, unseen by each other

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each window, with its prefix; (W,) int64."""
        return np.asarray(self.before + self.ends - self.starts)

    @property
    def read_lengths(self) -> np.ndarray:
        """The tokens of each window that the model reads; (W,) int64."""
        return np.asarray(self.lengths - (not self.reads_last))

    def read(self, stream: TokenStream, numbers: np.ndarray) -> Tensor:
        """Return the tokens of windows of equal length T: (len(numbers), T)."""
        rows = [
            np.concatenate(
                [
                    self.prefix[len(self.prefix) - self.before[number] :],
                    stream.ids[self.starts[number] : self.ends[number]],
                ]
            )
            for number in numbers
        ]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def read_learnt(self, stream: TokenStream, numbers: np.ndarray) -> Tensor | None:
        """Return which tokens of such windows may be targets: (len(numbers), T); None: all."""
        if stream.learnt is None:
            return None
        rows = [
            np.concatenate(
                [
                    np.zeros(self.before[number], dtype=bool),
                    stream.read_learnt(int(self.starts[number]), int(self.ends[number])),
                ]
            )
            for number in numbers
        ]
        return torch.from_numpy(np.stack(rows))


def windows_of(batches: Batches, config: EvaluationConfig) -> Windows:
    """Return the windows in which a split is scored."""
    blocks, stream, objective = batches.blocks, batches.blocks.stream, batches.objective
    tokens = len(stream.ids)
    prefix = find_prefix(config.prefix, batches.tokenizer)
    learnt = None if stream.learnt is None else stream.read_learnt(0, tokens)
    if isinstance(blocks, Blocks):
        return cut_windows(tokens, config, blocks.size, objective, prefix, learnt)
    ends, long = np.asarray(stream.ends), blocks.rule.long
    windows = cut_windows(ends, config, blocks.size, objective, prefix, learnt, long)
    context, _ = window_sizes(config, blocks.size, prefix)
    if len(windows) == 0:
        raise UserError(
            f"No document has a target in windows of {context} "
            "tokens; set dataset.long=split, raise evaluation.context, or choose more text."
        )
    if not batches.are_apart or config.pseudo:
        return windows
    return replace(windows, rows=pack(windows.read_lengths, context))


def find_prefix(knob: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids that the value `knob` of evaluation.prefix means for this tokenizer.

    Raises:
        UserError: the tokenizer has no bos token, or the text has no token.
    """
    if knob == "none":
        return []
    if knob == "bos":
        if tokenizer.bos_token_id is None:
            raise UserError(
                "evaluation.prefix is 'bos', but the tokenizer has no bos token; set "
                "evaluation.prefix to none or to a text."
            )
        return [int(tokenizer.bos_token_id)]
    ids: list[int] = tokenizer(unescape(knob), add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(
            f"evaluation.prefix is {knob!r}, which the tokenizer turns into no token; set "
            "evaluation.prefix to none or to another text."
        )
    return ids


def window_sizes(config: EvaluationConfig, block_size: int, prefix: list[int]) -> tuple[int, int]:
    """Return context and stride: the most tokens read at once, and those from window to window."""
    context = config.context or block_size
    rolling = config.windows is WindowRule.rolling
    return context, config.stride or (context if rolling else context - len(prefix))


def cut_windows(
    tokens: int | np.ndarray,
    config: EvaluationConfig,
    block_size: int,
    objective: Objective,
    prefix: list[int],
    learnt: np.ndarray | None = None,
    long: LongDocuments = LongDocuments.split,
) -> Windows:
    """Cut a stream of `tokens`, or each of its documents, into windows as evaluation.windows says.

    A window without a target is left out.

    Args:
        tokens: of the stream; or those up to the end of each document (D,), to cut each alone.
        config: the `evaluation` group.
        block_size: the context, if the group names none.
        objective: decides which tokens have no target.
        prefix: in front of each window.
        learnt: (tokens,) bool, which of them may be targets; None: all.
        long: what becomes of texts with more than a window.
    """
    context, stride = window_sizes(config, block_size, prefix)
    rolling = config.windows is WindowRule.rolling
    cut = cut_rolling if rolling else cut_strided
    texts = np.atleast_1d(tokens)
    offsets = np.concatenate([[0], texts[:-1]])
    texts, starts, ends, before = cut(texts - offsets, context, stride, len(prefix))
    is_first = np.diff(texts, prepend=-1) > 0  # window of its text
    scored = np.where(is_first, 0, np.concatenate([[0], ends[:-1]]))
    starts, ends, scored = (array + offsets[texts] for array in (starts, ends, scored))
    # The first token of a window is a target only if something is before it (clm).
    firsts = np.maximum(scored, starts + np.maximum(0, objective.target_shift - before))
    has_targets = ends > firsts
    if long is not LongDocuments.split:
        is_only = is_first & np.append(is_first[1:], True)
        has_targets &= is_first if long is LongDocuments.truncate else is_only
    if learnt is not None:
        until = np.concatenate([[0], np.cumsum(learnt)])  # learnt tokens before each
        has_targets &= until[ends] > until[np.minimum(firsts, ends)]
    starts, ends, scored, before = (
        array[has_targets][: config.max_blocks] for array in (starts, ends, scored, before)
    )
    ids = np.array(prefix, dtype=np.int64)
    return Windows(starts, ends, scored, before, ids, not rolling, pseudo=config.pseudo)


def check_evaluation(
    config: EvaluationConfig,
    block_size: int,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Check that the objective can be scored in the configured windows.

    Raises:
        UserError: prefix, stride and context do not fit each other, or the objective is masked and
            the windows overlap or have a prefix.
    """
    if not objective.is_causal:
        _check_masked(config, block_size)
        return
    if config.pseudo:
        raise UserError("evaluation.pseudo is for objective=mlm; leave it out for objective=clm.")
    prefix = find_prefix(config.prefix, tokenizer)
    context, stride = window_sizes(config, block_size, prefix)
    if len(prefix) >= context:
        raise UserError(
            f"evaluation.prefix is {config.prefix!r} ({len(prefix)} tokens), but windows are only "
            f"{context} tokens long; shorten it, or raise evaluation.context."
        )
    room = context if config.windows is WindowRule.rolling else context - len(prefix)
    if stride > room:
        after = f" after evaluation.prefix ({len(prefix)})" if room < context else ""
        raise UserError(
            f"evaluation.stride is {stride}, but windows are only {room} tokens long{after}; lower "
            "it, or raise evaluation.context."
        )


def _check_masked(config: EvaluationConfig, block_size: int) -> None:
    """Check that the windows of a masked model are blocks, each token with both its sides."""
    context, stride = window_sizes(config, block_size, [])
    if config.prefix != "none":
        raise UserError(
            f"evaluation.prefix is {config.prefix!r}, which is for objective=clm; leave it out, "
            "and set dataset.separator=model for the special tokens around each document."
        )
    if config.windows is WindowRule.rolling:
        raise UserError(
            "evaluation.windows is rolling, which is for objective=clm; leave it out for "
            "objective=mlm."
        )
    if stride > context:
        raise UserError(
            f"evaluation.stride is {stride}, but windows are only {context} tokens long; lower it, "
            "or raise evaluation.context."
        )
    if stride < context:
        raise UserError(
            f"evaluation.stride is {stride} and evaluation.context {context}, but the windows of "
            "objective=mlm can't overlap; leave evaluation.stride out."
        )
