"""Scoring a model on a split: the nats of every target, in windows that may overlap.

Everything else (loss, intervals, bits per byte, comparisons) is a sum over what comes out here.
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

MASK_SEED = 0  # of evaluation: the same masks in every run; training's epochs count from 1


@dataclass(frozen=True)
class Windows:
    """How a stream is read: window i from starts[i] to ends[i], scored from scored[i] on."""

    starts: np.ndarray  # (W,) int64, in tokens
    ends: np.ndarray  # (W,) int64
    scored: np.ndarray  # (W,) int64

    def __len__(self) -> int:
        return len(self.starts)


def cut_windows(
    tokens: int, config: EvaluationConfig, block_size: int, objective: Objective
) -> Windows:
    """Windows of `context` tokens, `stride` apart, that score each token once.

    At stride = context they are blocks, and each one's first token goes unscored (clm). Below it,
    only the stream's first token does, and every token past the first window is scored with at
    least context - stride tokens before it.
    """
    context = config.context or block_size
    stride = config.stride or context
    count = 1 + max(0, -(-(tokens - context) // stride))
    starts = np.arange(count) * stride
    ends = np.minimum(starts + context, tokens)
    scored = np.concatenate([[0], ends[:-1]])
    asked = ends > np.maximum(
        scored, starts + objective.target_shift
    )  # a lone token can't be predicted
    windows = slice(None, config.max_blocks)
    return Windows(starts[asked][windows], ends[asked][windows], scored[asked][windows])


def check_evaluation(config: EvaluationConfig, block_size: int, objective: Objective) -> None:
    """Refuse windows that the objective can't be scored in.

    Raises:
        UserError: the stride is longer than the context, or shorter for masked models.
    """
    context = config.context or block_size
    stride = config.stride or context
    if stride > context:
        raise UserError(
            f"evaluation.stride is {stride}, but windows are only {context} tokens long; lower it, "
            "or raise evaluation.context."
        )
    if config.pseudo and objective.target_shift:
        raise UserError("evaluation.pseudo is for objective=mlm; leave it out for objective=clm.")
    if stride < context and not objective.target_shift:
        raise UserError(
            f"evaluation.stride is {stride} and evaluation.context {context}, but the windows of "
            "objective=mlm can't overlap; leave evaluation.stride out."
        )


@dataclass(frozen=True)
class Scores:
    """What each scored target cost."""

    positions: np.ndarray  # (M,) int64, of the targets in the token stream, rising
    windows: np.ndarray  # (M,) int64, in which each was scored
    nats: np.ndarray  # (M,) float64

    @property
    def loss(self) -> TokenLoss:
        """Summed in float64."""
        return TokenLoss(float(self.nats.sum()), len(self.nats))


def evaluate(
    network: Network,
    batches: Batches,
    hardware: Hardware,
    windows: Windows,
    draw: int = 0,
    pseudo: bool = False,
    advance: Callable[[int], None] = lambda windows: None,
) -> Scores:
    """Score the windows of a split; no logits are kept.

    Args:
        network: in whatever mode; it is left in evaluation mode.
        batches: the split, and what is asked of it.
        hardware: how many windows go at once.
        windows: what to read and what to score.
        draw: which of the frozen draws of masks (mlm).
        pseudo: hide each token once, alone, instead (mlm).
        advance: hears how many more windows are done.
    """
    if pseudo and network.strategy is Strategy.fsdp:
        raise UserError("evaluation.pseudo can't be done by hardware=fsdp; use hardware=ddp.")
    network.compute.eval()
    process_group = hardware.process_group
    groups = list(_by_length(windows, 1 if pseudo else hardware.micro_batch_size))
    found: list[tuple[np.ndarray, ...]] = []
    for first in range(0, len(groups), process_group.size):  # every process takes part in each pass
        mine = first + process_group.rank
        group = groups[min(mine, len(groups) - 1)]
        scored = hardware.fit(
            partial(_score, network, batches, hardware, windows, group, draw, pseudo)
        )
        found.append(scored if mine < len(groups) else tuple(some[:0] for some in scored))
        advance(len(group) * process_group.size)
    together = (process_group.gather(np.concatenate(some)) for some in zip(*found, strict=True))
    positions, numbers, nats = together
    order = np.argsort(positions, kind="stable")  # as one process finds them
    return Scores(positions[order], numbers[order], nats[order])


def _score(
    network: Network,
    batches: Batches,
    hardware: Hardware,
    windows: Windows,
    group: np.ndarray,
    draw: int,
    pseudo: bool,
) -> tuple[np.ndarray, ...]:
    """Positions, windows and nats of what some windows of equal length score."""
    starts, size = windows.starts[group], int((windows.ends - windows.starts)[group[0]])
    blocks = read_windows(batches.blocks.stream, starts, size)
    if pseudo:
        batch = batches.objective.one_by_one(blocks[0], batches.tokenizer)
        group, starts = group.repeat(len(batch.inputs)), starts.repeat(len(batch.inputs))
    else:
        dice = [block_rng(MASK_SEED + draw, 0, int(number)) for number in group]
        batch = batches.objective.batch(blocks, batches.tokenizer, dice)
    parts = batch.split(hardware.micro_batch_size)
    nats = torch.cat([target_nats(network.compute, network.head, part).cpu() for part in parts])
    places = starts[:, None] + np.arange(size) + batches.objective.target_shift  # (B, T)
    counted = (batch.targets != IGNORED).numpy() & (places >= windows.scored[group][:, None])
    rows = np.broadcast_to(group[:, None], places.shape)
    return places[counted], rows[counted], nats.double().numpy()[counted]


def _by_length(windows: Windows, size: int) -> Iterator[np.ndarray]:
    """Numbers of up to `size` windows of equal length: only the last can be shorter."""
    lengths = windows.ends - windows.starts
    whole = int((lengths == lengths[0]).sum())
    for first in range(0, whole, size):
        yield np.arange(first, min(first + size, whole))
    for number in range(whole, len(windows)):
        yield np.array([number])
