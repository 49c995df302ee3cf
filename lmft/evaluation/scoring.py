"""Score a model on a split: compute the nats of every target, in windows that may overlap.

Losses, intervals, bits per byte and comparisons are all sums over these scores.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lmft.config.training_knobs import Strategy
from lmft.dataset.batches import Batches, block_rng
from lmft.errors import UserError
from lmft.evaluation.windows import Windows
from lmft.hardware.device import Hardware
from lmft.metrics import TokenLoss
from lmft.model.loss import target_nats
from lmft.model.network import Network
from lmft.objective import IGNORED, Batch

MASK_SEED = 0  # the same masks in every evaluation of every run; training's epochs count from 1


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
    groups = list(_groups(windows, 1 if windows.pseudo else hardware.micro_batch_size))
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
    """Return positions, windows and nats of the targets of a group of windows."""
    read = _read_windows if windows.rows is None else _read_rows
    batch, positions, numbers = read(batches, windows, group)
    micro_batches = batch.split(hardware.micro_batch_size)
    nats = torch.cat(
        [target_nats(network.compute_model, network.head, part).cpu() for part in micro_batches]
    )
    scored = (batch.targets != IGNORED).numpy() & (positions >= windows.scored[numbers])
    return positions[scored], numbers[scored], nats.double().numpy()[scored]


Read = tuple[Batch, np.ndarray, np.ndarray]


def _read_windows(batches: Batches, windows: Windows, group: np.ndarray) -> Read:
    """Return windows of equal length as a batch.

    Returns:
        The batch, the position of each target in the stream, and its window; (B, T) each.
    """
    starts = windows.starts[group] - windows.before[group]
    stream = batches.blocks.stream
    blocks, learnt = windows.read(stream, group), windows.read_learnt(stream, group)
    if windows.pseudo:
        bits = {} if learnt is None else {"learnt": learnt[0]}
        batch = batches.objective.one_by_one(blocks[0], batches.tokenizer, **bits)
        group, starts = group.repeat(len(batch.inputs)), starts.repeat(len(batch.inputs))
    else:
        generators = [block_rng(MASK_SEED + windows.draw, 0, int(number)) for number in group]
        batch = batches.batch_of(blocks, generators, learnt)
    if not windows.reads_last:
        batch = Batch(batch.inputs[:, :-1], batch.targets[:, :-1])
    size = batch.inputs.shape[1]
    positions = starts[:, None] + np.arange(size) + batches.objective.target_shift
    return batch, positions, np.broadcast_to(group[:, None], positions.shape)


def _read_rows(batches: Batches, windows: Windows, group: np.ndarray) -> Read:
    """Return windows as a batch of rows in which no window sees another; else as above."""
    assert windows.rows is not None
    rows = np.unique(windows.rows[group], return_inverse=True)[1]
    used = np.zeros(rows[-1] + 1, dtype=np.int64)  # tokens of each row
    shape = len(used), int(np.bincount(rows, windows.read_lengths[group]).max())
    inputs, targets = torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED)
    in_window = torch.arange(shape[1]).repeat(shape[0], 1)
    positions, numbers = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for number, row in zip(group, rows, strict=True):
        window, *found = _read_windows(batches, windows, np.array([number]))
        place = slice(used[row], used[row] + window.inputs.shape[1])
        inputs[row, place], targets[row, place] = window.inputs[0], window.targets[0]
        positions[row, place], numbers[row, place] = (array[0] for array in found)
        in_window[row, place.stop :] -= window.inputs.shape[1]  # of the next one, or the padding
        used[row] = place.stop
    return Batch(inputs, targets, in_window), positions, numbers


def _groups(windows: Windows, size: int) -> Iterator[np.ndarray]:
    """Yield the numbers of the windows of up to `size` rows; windows of equal length have a row."""
    if windows.rows is not None:
        order = np.argsort(windows.rows, kind="stable")
        cuts = np.searchsorted(windows.rows[order], np.arange(size, windows.rows.max() + 1, size))
        yield from np.split(order, cuts)
        return
    by_length: dict[int, list[int]] = {}
    for number, length in enumerate(windows.lengths.tolist()):
        by_length.setdefault(length, []).append(number)
    for numbers in by_length.values():
        for first in range(0, len(numbers), size):
            yield np.array(numbers[first : first + size])
