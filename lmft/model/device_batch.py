"""A micro-batch on the device, with the positions at which the loss is computed."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lmft.hardware.transfer import copy_to_device
from lmft.objective import IGNORED, Batch


@dataclass(frozen=True)
class DeviceBatch:
    """Inputs on the device, and the rows of the flat hidden states (B * T, H) that have targets."""

    inputs: Tensor  # (B, T) token ids
    targets: Tensor  # (N,) token ids; a row whose target is IGNORED adds nothing to the loss
    rows: Tensor | None  # (N,) numbers of the rows; None: all, in order

    def select(self, hidden: Tensor) -> Tensor:
        """Return the rows (N, H) of hidden states (B, T, H)."""
        flat = hidden.flatten(0, 1)
        return flat if self.rows is None else flat[self.rows]

    def spread(self, nats: Tensor) -> Tensor:
        """Return the nats of the rows (N,) at their positions (B, T), and 0 elsewhere."""
        if self.rows is None:
            return nats.view(self.inputs.shape)
        spread = nats.new_zeros(self.inputs.numel())
        spread[self.rows] = nats
        return spread.view(self.inputs.shape)


def all_rows(batch: Batch, device: torch.device) -> DeviceBatch:
    """Copy a batch to the device; all its positions are rows."""
    inputs, targets = (copy_to_device(part, device) for part in (batch.inputs, batch.targets))
    return DeviceBatch(inputs, targets.flatten(), None)


def target_rows(batch: Batch, device: torch.device, multiple: int = 1) -> DeviceBatch:
    """Copy a batch to the device; the positions of its targets are rows.

    Others are added up to a multiple of rows, so that many batches have the same shapes.
    """
    # Found on the host: nonzero() on a GPU would wait for the work before it.
    rows = (batch.targets.flatten() != IGNORED).nonzero().squeeze(1)
    targets, added = batch.targets.flatten()[rows], -len(rows) % multiple
    if added:
        rows, targets = F.pad(rows, (0, added)), F.pad(targets, (0, added), value=IGNORED)
    inputs, targets, rows = (copy_to_device(part, device) for part in (batch.inputs, targets, rows))
    return DeviceBatch(inputs, targets, rows)
