"""Cross-entropy of a batch in nats, always in fp32, whatever the precision of the model.

Where the LM head is known, logits are computed chunk by chunk: only one chunk is in memory at a
time, and its gradient replaces it in place, in the forward pass.

torch's F.linear_cross_entropy(options=...) is not used here. In torch 2.13 its loss agrees in fp32
to 4e-7, but with its default chunks it takes 8 times as long on a CPU, it has neither a softcap nor
a logit scale, and it rounds the loss of a bf16 model to bf16 (9.8125 instead of 9.8249).
"""

from typing import Any, overload

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from transformers import PreTrainedModel

from lmft.model.chunks import chunk_bytes, sizes_on, split_for_fp32, split_into_chunks
from lmft.model.device_batch import DeviceBatch, all_rows, target_rows
from lmft.model.kernels.cross_entropy import cross_entropy_, has_kernel
from lmft.model.lm_head import Head, capture_hidden_states
from lmft.model.weight_gradient import WeightGradient
from lmft.objective import IGNORED, Batch

MANY_TARGETS = 7 / 8  # of all positions: so many that selecting them would save nothing


def to_device(
    batch: Batch, head: Head | None, device: torch.device, multiple: int = 1
) -> DeviceBatch:
    """Copy a batch to the device, with the rows from which its loss is computed there.

    A CUDA kernel skips rows that are not scored, so a few of them do no harm.

    Args:
        batch: inputs and targets.
        head: the model's head, if it is known.
        device: the model's device.
        multiple: the number of selected rows is one, where such a kernel computes the loss.
    """
    if head is None:
        return all_rows(batch, device)
    if not has_kernel(device):
        return target_rows(batch, device)
    if batch.num_targets >= MANY_TARGETS * batch.targets.numel():
        return all_rows(batch, device)
    return target_rows(batch, device, multiple)


def mean_nats(
    model: PreTrainedModel, head: Head | None, batch: DeviceBatch, divisor: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the batch's nats over `divisor`, to call backward() on, and its nats; both ().

    Args:
        model: the model in the precision that it computes in.
        head: its head; None computes all logits at once.
        batch: inputs and targets, from `to_device`.
        divisor: the number of targets of the whole step; less where gradients are scaled up.
    """
    if head is None:
        nats = _nats_of_all_logits(model, batch).sum()
        return nats / divisor, nats.detach()
    hidden, weight, bias = _hidden_states(model, head, batch), head.linear.weight, head.linear.bias
    loss: tuple[Tensor, Tensor] = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, batch.targets, head, divisor
    )
    return loss


@torch.no_grad()
def target_nats(model: PreTrainedModel, head: Head | None, batch: Batch) -> Tensor:
    """Return the nats of each target, without gradients; (B, T), 0 where there is no target."""
    device = model.device
    on_device = to_device(batch, head, device)
    if head is None:
        return on_device.spread(_nats_of_all_logits(model, on_device))
    hidden = _hidden_states(model, head, on_device)
    size, parts = sizes_on(device).eval_chunk_bytes, [torch.zeros(0, device=device)]
    weight, bias = _aligned(head.linear.weight), _aligned(head.linear.bias)
    for rows, targets in split_into_chunks(hidden, on_device.targets, weight, size):
        logits = F.linear(_filled_up(rows), weight, bias)
        parts += _nats(logits[: len(rows), : len(head.linear.weight)], targets, head)
    return on_device.spread(torch.cat(parts))


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
        divisor: float | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return nats over `divisor`, and nats; save the gradients of the first that are needed."""
        hidden_learns, weight_learns, bias_learns = ctx.needs_input_grad[:3]
        vocabulary, weight, bias = len(weight), _aligned(weight), _aligned(bias)
        dtype = torch.float64 if has_kernel(hidden.device) else torch.float32
        nats = torch.zeros((), dtype=dtype, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if hidden_learns else None
        chunks = split_into_chunks(hidden, targets, weight, chunk_bytes(weight, weight_learns))
        grad_weight = WeightGradient(weight, chunks=len(chunks)) if weight_learns else None
        grad_bias = hidden.new_zeros(vocabulary, dtype=torch.float32) if bias_learns else None
        start = 0
        for rows, row_targets in chunks:
            n = len(rows)
            logits = F.linear(_filled_up(rows), weight, bias)  # overwritten by their gradient
            _replace_by_gradient(logits[:n, :vocabulary], row_targets, head, nats, grad_bias)
            if grad_hidden is not None:
                grad_hidden[start : start + n] = _times_weight(logits, weight)[:n].div_(divisor)
            if grad_weight is not None:
                grad_weight.add(logits[:n], rows / divisor)
            start += n
            del logits  # frees this chunk before the next one is computed
        # Not by save_for_backward, which would hold them until they are copied into .grad.
        ctx.gradients = (
            grad_hidden,
            None if grad_weight is None else grad_weight.total()[:vocabulary],
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


def _nats_of_all_logits(model: PreTrainedModel, batch: DeviceBatch) -> Tensor:
    """Return the nats of all positions (B * T,), from whole logits."""
    logits = model(**batch.arguments(model)).logits  # (B, T, V)
    return F.cross_entropy(
        logits.float().flatten(0, 1), batch.targets, ignore_index=IGNORED, reduction="none"
    )


def _hidden_states(model: PreTrainedModel, head: Head, batch: DeviceBatch) -> Tensor:
    """Return the hidden states (N, H) from which targets are predicted."""
    with capture_hidden_states(head.linear) as captured:
        model(**batch.arguments(model))
    return batch.select(captured[0])


@overload
def _aligned(weight: Tensor) -> Tensor: ...
@overload
def _aligned(weight: Tensor | None) -> Tensor | None: ...
def _aligned(weight: Tensor | None) -> Tensor | None:
    """Return a weight (V, H) or bias (V,) with zeros added, so that V is aligned on its device.

    The logits of the added rows are 0, and nothing reads them or the gradients that they get.
    """
    if weight is None or (added := -len(weight) % sizes_on(weight.device).alignment) == 0:
        return weight
    return F.pad(weight, (0, 0) * (weight.ndim - 1) + (0, added))


def _filled_up(rows: Tensor) -> Tensor:
    """Return hidden states (n, H) with rows of zeros added: in bf16 on a CPU to a multiple of 8.

    Products with other n can take 1.4 times as long there, as with 1,023 rows instead of 1,024. The
    results of the other rows keep their bits, unless there is only one row.
    """
    added = -len(rows) % 8 if rows.is_cpu and rows.dtype is torch.bfloat16 else 0
    return F.pad(rows, (0, 0, 0, added)) if added and len(rows) > 1 else rows


def _nats(logits: Tensor, targets: Tensor, head: Head) -> list[Tensor]:
    """Return the nats of each target, in parts (n,); logits may be overwritten."""
    if has_kernel(logits.device):
        return [cross_entropy_(logits, targets, head.scale, head.softcap, gradient=False)]
    return [
        F.cross_entropy(head.scale_and_cap(part.float()), part_targets, reduction="none")
        for part, part_targets in split_for_fp32(logits, targets)
    ]


def _replace_by_gradient(
    logits: Tensor, targets: Tensor, head: Head, nats: Tensor, grad_bias: Tensor | None
) -> None:
    """Overwrite logits (n, V) by the gradient of their nats.

    The summed nats are added to `nats` (), and the gradient of a bias to `grad_bias` (V,).
    """
    if has_kernel(logits.device):
        nats += cross_entropy_(logits, targets, head.scale, head.softcap, True).double().sum()
        if grad_bias is not None:
            grad_bias += logits.sum(dim=0, dtype=torch.float32)
        return
    for part, part_targets in split_for_fp32(logits, targets):
        part_nats, gradient = _nats_and_gradient(part, part_targets, head)
        nats += part_nats
        part.copy_(gradient)
        if grad_bias is not None:
            grad_bias += gradient.sum(dim=0)


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
