"""Cross-entropy of a batch in nats, always in fp32, whatever the model computes in."""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from lmft.hardware import Hardware
from lmft.objective import IGNORED, Batch


def summed_nats(model: PreTrainedModel, batch: Batch, hardware: Hardware) -> Tensor:
    """The nats of all targets together, to train on; shape ()."""
    return _cross_entropy(model, batch, hardware, reduction="sum")


@torch.no_grad()
def target_nats(model: PreTrainedModel, batch: Batch, hardware: Hardware) -> Tensor:
    """The nats of each target, to evaluate; shape (B, T), 0 where nothing is asked."""
    nats = _cross_entropy(model, batch, hardware, reduction="none")
    return nats.view(batch.targets.shape)


def _cross_entropy(
    model: PreTrainedModel, batch: Batch, hardware: Hardware, reduction: str
) -> Tensor:
    batch = batch.to(hardware.device)
    with hardware.autocast():
        logits = model(input_ids=batch.inputs, use_cache=False).logits  # (B, T, V)
    return F.cross_entropy(
        logits.float().flatten(0, 1),
        batch.targets.flatten(),
        ignore_index=IGNORED,
        reduction=reduction,
    )
