"""A micro-batch on the device, with the positions at which the loss is computed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from lmft.hardware.transfer import copy_to_device
from lmft.model.kernels.document_attention import DOCUMENTS
from lmft.objective import IGNORED, Batch


@dataclass(frozen=True)
class DeviceBatch:
    """Inputs on the device, and the rows of the flat hidden states (B * T, H) that have targets."""

    inputs: Tensor  # (B, T) token ids
    targets: Tensor  # (N,) token ids; a row whose target is IGNORED adds nothing to the loss
    rows: Tensor | None  # (N,) numbers of the rows; None: all, in order
    positions: Tensor | None = None  # (B, T) of each token in its document; None: in its block

    def arguments(self, model: Any) -> dict[str, Any]:
        """Return the arguments of a call of the model, which may be in its DDP wrapper."""
        arguments = {"input_ids": self.inputs, "use_cache": False}
        if self.positions is None:
            return arguments
        # The second goes through the model to `attend`.
        position_ids = self.positions + first_position(getattr(model, "module", model))
        return {**arguments, "position_ids": position_ids, DOCUMENTS: self.positions}

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
    return DeviceBatch(inputs, targets.flatten(), None, positions_on(device, batch))


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
    return DeviceBatch(inputs, targets, rows, positions_on(device, batch))


def positions_on(device: torch.device, batch: Batch) -> Tensor | None:
    """Copy the positions of a batch to the device, if it has some."""
    return None if batch.positions is None else copy_to_device(batch.positions, device)


def first_position(model: PreTrainedModel) -> int:
    """Return the number of the first position: RoBERTa's come after that of its pad token."""
    embeddings = getattr(model.base_model, "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
