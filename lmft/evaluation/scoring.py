"""Score a model on a split: compute the nats of every target, in windows that may overlap.

Losses, intervals, bits per byte and comparisons are all sums over these scores.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lmft.config.schema import EvaluationConfig, Strategy
from lmft.dataset.batches import Batches, block_rng
from lmft.dataset.token_stream import read_windows
from lmft.errors import UserError
from lmft.hardware.device import Hardware
from lmft.metrics import TokenLoss
from lmft.model.loss import target_nats
from lmft.model.mixed_precision import Network
from lmft.objective import IGNORED, Objective

MASK_SEED = 0  # the same masks in every evaluation of every run; training's epochs count from 1


@dataclass(frozen=True)
class Windows:
    """The windows of a token stream: i is from starts[i] to ends[i], scored from scored[i] on."""

    starts: np.ndarray  # (W,) int64, in tokens
    ends: np.ndarray  # (W,) int64
    scored: np.ndarray  # (W,) int64
    draw: int = 0  # the number of the fixed draw of masks (mlm)
    pseudo: bool = False  # hide every token once, alone, instead (mlm)

    def __len__(self) -> int:
        return len(self.starts)


def windows_of(batches: Batches, config: EvaluationConfig) -> Windows:
    """Return the windows in which a split is scored."""
    tokens = len(batches.blocks.stream.ids)
    return cut_windows(tokens, config, batches.blocks.size, batches.objective)


def cut_windows(
    tokens: int, config: EvaluationConfig, block_size: int, objective: Objective
) -> Windows:
    """Cut a stream of `tokens` into windows of `context`, `stride` apart; each scores new tokens.

    With stride = context the windows are blocks, and the first token of each is not scored (clm).
    With a smaller stride, only the first token of the stream is not scored, and every token after
    the first window has at least context - stride tokens before it.
    """
    context = config.context or block_size
    stride = config.stride or context
    count = 1 + max(0, -(-(tokens - context) // stride))
    starts = np.arange(count) * stride
    ends = np.minimum(starts + context, tokens)
    scored = np.concatenate([[0], ends[:-1]])
    # A last window of one token has no target (clm).
    has_targets = ends > np.maximum(scored, starts + objective.target_shift)
    first = slice(None, config.max_blocks)
    return Windows(
        starts[has_targets][first],
        ends[has_targets][first],
        scored[has_targets][first],
        pseudo=config.pseudo,
    )


def check_evaluation(config: EvaluationConfig, block_size: int, objective: Objective) -> None:
    """Check that the objective can be scored in the configured windows.

    Raises:
        UserError: the stride is longer than the context; for masked models, also if it is shorter.
    """
    context = config.context or block_size
    stride = config.stride or context
    if stride > context:
        raise UserError(
            f"evaluation.stride is {stride}, but windows are only {context} tokens long; lower it, "
            "or raise evaluation.context."
        )
    if config.pseudo and objective.is_causal:
        raise UserError("evaluation.pseudo is for objective=mlm; leave it out for objective=clm.")
    if stride < context and not objective.is_causal:
        raise UserError(
            f"evaluation.stride is {stride} and evaluation.context {context}, but the windows of "
            "objective=mlm can't overlap; leave evaluation.stride out."
        )


@dataclass(frozen=True)
class Scores:
    """The nats of each scored target."""

    positions: np.ndarray  # (M,) int64, of the targets in the token stream, ascending
    windows: np.ndarray  # (M,) int64, the window in which each was scored
    nats: np.ndarray  # (M,) float64

    @property
    def loss(self) -> TokenLoss:
        """The total loss, summed in float64."""
        return TokenLoss(float(self.nats.sum()), len(self.nats))


def score(
    network: Network,
    batches: Batches,
    hardware: Hardware,
    windows: Windows,
    advance: Callable[[int], None] = lambda windows: None,
) -> Scores:
    """Score the windows of a split, without keeping logits; all ranks get all scores.

    Args:
        network: the model; left in evaluation mode.
        batches: the split, with its tokenizer and objective.
        hardware: the device, and the number of windows at once.
        windows: the windows to read, and what to score in each.
        advance: called with the number of newly scored windows.

    Raises:
        UserError: windows with `pseudo` under FSDP.
    """
    if windows.pseudo and network.strategy is Strategy.fsdp:
        raise UserError(
            "evaluation.pseudo is true, which hardware=fsdp does not support; use hardware=ddp."
        )
    network.compute_model.eval()
    process_group = hardware.process_group
    groups = list(_by_length(windows, 1 if windows.pseudo else hardware.micro_batch_size))
    parts: list[tuple[np.ndarray, ...]] = []
    for first in range(0, len(groups), process_group.size):
        mine = first + process_group.rank
        # Every rank takes part in each forward pass; one without a group left discards its scores.
        group = groups[min(mine, len(groups) - 1)]
        scored = hardware.halve_on_oom(
            partial(_score_group, network, batches, hardware, windows, group)
        )
        parts.append(scored if mine < len(groups) else tuple(array[:0] for array in scored))
        advance(sum(map(len, groups[first : first + process_group.size])))
    positions, numbers, nats = (
        process_group.gather(np.concatenate(arrays)) for arrays in zip(*parts, strict=True)
    )
    order = np.argsort(positions, kind="stable")  # the order in which one process scores them
    return Scores(positions[order], numbers[order], nats[order])


def _score_group(
    network: Network, batches: Batches, hardware: Hardware, windows: Windows, group: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return positions, windows and nats of the targets of a group of windows of equal length."""
    starts, size = windows.starts[group], int((windows.ends - windows.starts)[group[0]])
    blocks = read_windows(batches.blocks.stream, starts, size)
    if windows.pseudo:
        batch = batches.objective.one_by_one(blocks[0], batches.tokenizer)
        group, starts = group.repeat(len(batch.inputs)), starts.repeat(len(batch.inputs))
    else:
        generators = [block_rng(MASK_SEED + windows.draw, 0, int(number)) for number in group]
        batch = batches.objective.batch(blocks, batches.tokenizer, generators)
    micro_batches = batch.split(hardware.micro_batch_size)
    nats = torch.cat(
        [target_nats(network.compute_model, network.head, part).cpu() for part in micro_batches]
    )
    positions = starts[:, None] + np.arange(size) + batches.objective.target_shift  # (B, T)
    scored = (batch.targets != IGNORED).numpy() & (positions >= windows.scored[group][:, None])
    numbers = np.broadcast_to(group[:, None], positions.shape)
    return positions[scored], numbers[scored], nats.double().numpy()[scored]


def _by_length(windows: Windows, size: int) -> Iterator[np.ndarray]:
    """Yield the numbers of up to `size` windows of equal length; only the last may be shorter."""
    lengths = windows.ends - windows.starts
    full = int((lengths == lengths[0]).sum())
    for first in range(0, full, size):
        yield np.arange(first, min(first + size, full))
    for number in range(full, len(windows)):
        yield np.array([number])
