"""Cross-entropy of a batch in nats, always in fp32, whatever the precision of the model.

Where the LM head is known, logits are computed chunk by chunk: only one chunk is in memory at a
time, and its gradient replaces it in place, in the forward pass.

torch's F.linear_cross_entropy(options=...) is not used here. In torch 2.13 its loss agrees in fp32
to 4e-7, but with its default chunks it takes 8 times as long on a CPU, it has neither a softcap nor
a logit scale, and it rounds the loss of a bf16 model to bf16 (9.8125 instead of 9.8249).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from transformers import PreTrainedModel

from lmft.hardware.transfer import copy_to_device
from lmft.model.chunks import chunk_bytes, sizes_on, split_for_fp32, split_into_chunks
from lmft.model.lm_head import Head, capture_hidden_states
from lmft.objective import IGNORED, Batch


def mean_nats(
    model: PreTrainedModel, head: Head | None, batch: Batch, divisor: float
) -> tuple[Tensor, Tensor]:
    """Return the batch's nats over `divisor`, to call backward() on, and its nats; both ().

    Args:
        model: the model in the precision that it computes in.
        head: its head; None computes all logits at once.
        batch: inputs and targets.
        divisor: the number of targets of the whole step; less where gradients are scaled up.
    """
    if head is None:
        nats = _nats_of_all_logits(model, batch).sum()
        return nats / divisor, nats.detach()
    hidden, targets, _ = _hidden_states(model, head, batch)
    weight, bias = head.linear.weight, head.linear.bias
    loss: tuple[Tensor, Tensor] = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, head, divisor
    )
    return loss


@torch.no_grad()
def target_nats(model: PreTrainedModel, head: Head | None, batch: Batch) -> Tensor:
    """Return the nats of each target, without gradients; (B, T), 0 where there is no target."""
    if head is None:
        return _nats_of_all_logits(model, batch)
    hidden, targets, positions = _hidden_states(model, head, batch)
    nats = torch.zeros(batch.targets.numel(), device=hidden.device)
    parts = [nats.new_zeros(0)]
    size = sizes_on(hidden.device).eval_chunk_bytes
    for rows, row_targets in split_into_chunks(hidden, targets, head.linear.weight, size):
        parts += _nats(head.linear(rows), row_targets, head)
    nats[positions] = torch.cat(parts)
    return nats.view(batch.targets.shape)


class LinearCrossEntropy(Function):
    """Head and cross-entropy in one, in chunks of rows."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (N, H)
        weight: Tensor,  # (V, H)
        bias: Tensor | None,  # (V,)
        targets: Tensor,  # (N,) int64
        head: Head,
        divisor: float,
    ) -> tuple[Tensor, Tensor]:
        """Return nats over `divisor`, and nats; save the gradients of the first."""
        nats = torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        chunks = split_into_chunks(hidden, targets, weight, chunk_bytes(weight))
        grad_weight = WeightGradient(weight, chunks=len(chunks))
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        start = 0
        for rows, row_targets in chunks:
            logits = _logits(rows, weight, bias)  # (n, V); overwritten by their gradient
            for part, part_targets in split_for_fp32(logits, row_targets):
                part_nats, gradient = _nats_and_gradient(part, part_targets, head)
                nats += part_nats
                part.copy_(gradient)
                if grad_bias is not None:
                    grad_bias += gradient.sum(dim=0)
            grad_hidden[start : start + len(rows)] = _times_weight(logits, weight).div_(divisor)
            grad_weight.add(logits, rows / divisor)
            start += len(rows)
            del logits, part  # frees this chunk before the next one is computed
        # Not by save_for_backward, which would hold them until they are copied into .grad.
        ctx.gradients = (
            grad_hidden,
            grad_weight.total(),
            None if grad_bias is None else grad_bias.div_(divisor).to(weight.dtype),
        )
        ctx.mark_non_differentiable(nats)
        return nats / divisor, nats

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Return the saved gradients. `grad_loss` must be 1: put any other scale in `divisor`."""
        torch._assert_async(grad_loss == 1)
        gradients, ctx.gradients = ctx.gradients, None
        return (*gradients, None, None, None)


def _nats_of_all_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return the nats of each target (B, T), from whole logits."""
    inputs, targets = (copy_to_device(part, model.device) for part in (batch.inputs, batch.targets))
    logits = model(input_ids=inputs, use_cache=False).logits  # (B, T, V)
    nats = F.cross_entropy(
        logits.float().flatten(0, 1),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return nats.view(batch.targets.shape)


def _hidden_states(
    model: PreTrainedModel, head: Head, batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden states (N, H), targets (N,) and flat positions (N,) of all targets."""
    # Found on the CPU: nonzero() on a GPU would wait for the work before it.
    positions = (batch.targets.flatten() != IGNORED).nonzero().squeeze(1)
    targets = copy_to_device(batch.targets.flatten()[positions], model.device)
    positions = copy_to_device(positions, model.device)
    inputs = copy_to_device(batch.inputs, model.device)
    with capture_hidden_states(head.linear) as captured:
        model(input_ids=inputs, use_cache=False)
    return captured[0].flatten(0, 1)[positions], targets, positions


def _logits(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return rows @ weight.T + bias (n, V), in rows of an aligned length."""
    alignment = sizes_on(rows.device).alignment
    if len(weight) % alignment == 0:
        return F.linear(rows, weight, bias)
    padded = rows.new_empty(len(rows), -(-len(weight) // alignment) * alignment)
    logits = padded[:, : len(weight)]
    if bias is None:
        return torch.mm(rows, weight.T, out=logits)
    return torch.addmm(bias, rows, weight.T, out=logits)


def _nats(logits: Tensor, targets: Tensor, head: Head) -> list[Tensor]:
    """Return the nats of each target, in parts (n,)."""
    return [
        F.cross_entropy(head.scale_and_cap(part.float()), part_targets, reduction="none")
        for part, part_targets in split_for_fp32(logits, targets)
    ]


def _nats_and_gradient(logits: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """Return the summed nats (), and their gradient (n, V) by the linear map's output."""
    finished = head.scale_and_cap(logits.float())
    gradient = torch.softmax(finished, dim=-1)
    # log-sum-exp from the largest logit: its probability can't underflow.
    log_sums = finished.amax(dim=-1, keepdim=True) - gradient.amax(dim=-1, keepdim=True).log()
    index = targets[:, None]
    nats = (log_sums - finished.gather(1, index)).sum()
    gradient.scatter_add_(1, index, gradient.new_full(index.shape, -1.0))
    if head.softcap is not None:
        gradient *= 1 - (finished / head.softcap) ** 2
    if head.scale != 1.0:
        gradient *= head.scale
    return nats, gradient


def _times_weight(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return gradient @ weight in fp32, in slices of the vocabulary: 7 % faster on a CPU."""
    size = sizes_on(weight.device).slice
    slices = zip(gradient.split(size, dim=1), weight.split(size), strict=True)
    products = (columns @ rows for columns, rows in slices)
    total: Tensor = next(products).float()
    for product in products:
        total += product
    return total


class WeightGradient:
    """Accumulates the gradient of the head's weight (V, H), in slices of the vocabulary.

    On a CPU, a slice's product takes three fifths of its share of the time of the whole product.
    """

    def __init__(self, weight: Tensor, chunks: int):
        self._dtype, self._slice = weight.dtype, sizes_on(weight.device).slice
        # One tensor if nothing is left to convert; else each slice is freed once it is converted.
        in_place = chunks == 1 or weight.dtype is torch.float32
        self._whole = torch.empty_like(weight) if in_place else None
        self._slices: list[Tensor] = []  # sums over several chunks in fp32; views of the whole

    def add(self, gradient: Tensor, rows: Tensor) -> None:
        """Add gradient.T @ rows."""
        columns = [part.T for part in gradient.split(self._slice, dim=1)]
        if self._slices:
            for total, part in zip(self._slices, columns, strict=True):
                total += part @ rows
        elif self._whole is not None:
            self._slices = list(self._whole.split(self._slice))
            for out, part in zip(self._slices, columns, strict=True):
                torch.mm(part, rows, out=out)
        else:
            self._slices = [(part @ rows).float() for part in columns]

    def total(self) -> Tensor:
        """Return the sum; call it once."""
        if self._whole is not None:
            return self._whole
        count = len(self._slices)
        return torch.cat([self._slices.pop(0).to(self._dtype) for _ in range(count)])
