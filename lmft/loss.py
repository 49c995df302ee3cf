"""Cross-entropy of a batch in nats, always in fp32, whatever the model computes in.

Where the model's head is understood, logits are made and used up chunk by chunk: in memory there is
one chunk of them, and their gradient is formed right where they are, in the forward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from transformers import PreTrainedModel

from lmft.hardware import Hardware
from lmft.head import Head, beheaded
from lmft.objective import IGNORED, Batch

CHUNK = 2**25  # logits in memory at once: 128 MiB in fp32


def mean_nats(
    model: PreTrainedModel, head: Head | None, batch: Batch, hardware: Hardware, targets: int
) -> tuple[Tensor, Tensor]:
    """The batch's nats divided by `targets`, to train on, and the nats themselves; both ()."""
    batch = batch.to(hardware.device)
    if head is None:
        nats = _plain(model, batch, hardware).sum()
        return nats / targets, nats.detach()
    hidden, asked = _hidden(model, head, batch, hardware)
    weight, bias = head.linear.weight, head.linear.bias
    loss: tuple[Tensor, Tensor] = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, asked, head, hardware.dtype, targets
    )
    return loss


@torch.no_grad()
def target_nats(
    model: PreTrainedModel, head: Head | None, batch: Batch, hardware: Hardware
) -> Tensor:
    """The nats of each target, to evaluate; shape (B, T), 0 where nothing is asked."""
    batch = batch.to(hardware.device)
    if head is None:
        return _plain(model, batch, hardware)
    hidden, asked = _hidden(model, head, batch, hardware)
    nats = torch.zeros(batch.targets.shape, device=hidden.device)
    weight, bias = (_cast(some, hardware.dtype) for some in (head.linear.weight, head.linear.bias))
    parts = [
        -_log_probabilities(rows.to(hardware.dtype), weight, bias, head)
        .gather(1, some[:, None])
        .squeeze(1)
        for rows, some in _chunks(hidden, asked, len(head.linear.weight))
    ]
    nats[batch.targets != IGNORED] = torch.cat(parts) if parts else nats.new_zeros(0)
    return nats


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
        dtype: torch.dtype,  # of matrix products
        divisor: int,
    ) -> tuple[Tensor, Tensor]:
        """Nats over `divisor`, and nats; the gradients of the first are formed on the way."""
        nats = torch.zeros((), device=hidden.device)
        into_hidden = torch.empty_like(hidden)
        into_weight = torch.zeros_like(weight)
        into_bias = None if bias is None else torch.zeros_like(bias)
        cast_weight, cast_bias = _cast(weight, dtype), _cast(bias, dtype)
        start = 0
        for rows, asked in _chunks(hidden, targets, len(weight)):
            rows = rows.to(dtype)
            logits = F.linear(rows, cast_weight, cast_bias).float()
            finished = head.finish(logits)
            gradient = torch.log_softmax(finished, dim=-1)  # (n, V); becomes the gradient
            picked = asked[:, None]
            nats -= gradient.gather(1, picked).sum()
            gradient.exp_().scatter_add_(1, picked, gradient.new_full(picked.shape, -1.0))
            _through_finish(gradient, finished, head)
            small = gradient.to(dtype)
            into_hidden[start : start + len(rows)] = (small @ cast_weight).div_(divisor)
            _add_product(into_weight, small, rows / divisor)
            if into_bias is not None:
                into_bias += gradient.sum(dim=0) / divisor
            start += len(rows)
        ctx.save_for_backward(into_hidden, into_weight, into_bias)
        ctx.mark_non_differentiable(nats)
        return nats / divisor, nats

    @staticmethod
    def backward(ctx: Any, into_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """What was formed in the forward pass."""
        gradients = ctx.saved_tensors
        if into_loss.item() != 1.0:
            gradients = [None if some is None else some * into_loss for some in gradients]
        return (*gradients, None, None, None, None)


def _plain(model: PreTrainedModel, batch: Batch, hardware: Hardware) -> Tensor:
    with hardware.autocast():
        logits = model(input_ids=batch.inputs, use_cache=False).logits  # (B, T, V)
    nats = F.cross_entropy(
        logits.float().flatten(0, 1),
        batch.targets.flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return nats.view(batch.targets.shape)


def _hidden(
    model: PreTrainedModel, head: Head, batch: Batch, hardware: Hardware
) -> tuple[Tensor, Tensor]:
    """Hidden states (N, H) and targets (N,) where something is asked."""
    with beheaded(head.linear) as caught, hardware.autocast():
        model(input_ids=batch.inputs, use_cache=False)
    asked = batch.targets != IGNORED
    return caught[0][asked], batch.targets[asked]


def _chunks(hidden: Tensor, targets: Tensor, vocabulary: int) -> Any:
    size = max(1, CHUNK // vocabulary)
    return zip(hidden.split(size), targets.split(size), strict=True)


def _log_probabilities(rows: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> Tensor:
    return torch.log_softmax(head.finish(F.linear(rows, weight, bias).float()), dim=-1)


def _through_finish(gradient: Tensor, finished: Tensor, head: Head) -> None:
    """Turn the gradient of finished logits into that of the linear map's, in place."""
    if head.softcap is not None:
        gradient *= 1 - (finished / head.softcap) ** 2
    if head.scale != 1.0:
        gradient *= head.scale


def _add_product(total: Tensor, gradient: Tensor, rows: Tensor) -> None:
    """Total += gradient.T @ rows, summed in the precision of `total`."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.T, rows)
    else:
        total += gradient.T @ rows


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Any:
    return None if tensor is None else tensor.detach().to(dtype)
